"""``hardpoint harden``."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hardpoint.cli.asked import Asked
from hardpoint.cli.build import (
    Planned,
    build_data,
    build_model,
    build_threats,
    build_training,
    check_together,
)
from hardpoint.cli.config import HardenSettings
from hardpoint.cli.console import say, say_json
from hardpoint.cli.layers import Resolved, resolve
from hardpoint.cli.report_command import write_formats
from hardpoint.cli.runs import Verb, claimed_folder, header_of, resume_command, unfinished_run
from hardpoint.cli.teacher import build_recipe
from hardpoint.cli.training_made import made_change
from hardpoint.cli.verdicts import exit_code, verdict_lines
from hardpoint.data import Dataset
from hardpoint.evidence.store import RunFolder
from hardpoint.evidence.training import AFTER, BEFORE
from hardpoint.harden import HardenResult, Training, harden
from hardpoint.harden.folder import TrainingFolder
from hardpoint.harden.harden import refuse_overlap
from hardpoint.models.base import Model
from hardpoint.report import summary_json


def run(asked: Asked) -> int:
    """Train the model, assess it before and after, and leave weights and report in one run folder."""
    built = build_lesson(asked)
    resolved, model, train, test = built.resolved, built.model, built.train, built.test
    settings, threats = resolved.settings, built.threats
    refuse_overlap(train, test)
    recipe = build_recipe(resolved)
    with run_folder(asked, resolved, model, Verb.HARDEN) as path:
        try:
            result = harden(
                model,
                train,
                threat=[planned.threat for planned in threats],
                recipe=recipe,
                training=training_of(settings.harden),
                craft_mode=settings.harden.craft_mode,
                test=test,
                mode=settings.run.mode,
                seed=settings.run.seed,
                run_dir=path,
                resume=asked.resume,
                progress=not asked.quiet,
                gate=[planned.gate for planned in threats],
                devices=settings.harden.devices,
                header=header_of(settings, asked.words),
            )
        except BaseException as error:
            if RunFolder(path).exists:
                error.add_note(f"continue with: {resume_command(asked.words, path)}")
            raise
        return _finish(asked, resolved, path, result)


@dataclass(frozen=True)
class Built:
    """What training needs, made of the settings: threats, and inputs to learn from and to assess on."""

    resolved: Resolved
    model: Model
    threats: list[Planned]
    train: Dataset
    test: Dataset


def build_lesson(asked: Asked) -> Built:
    """What is asked for, seen to fit together."""
    resolved = resolve(asked.said, asked.config, os.environ)
    model = build_model(resolved)
    threats = build_threats(resolved, model)
    train, test = build_training(resolved.settings), build_data(resolved.settings)
    for data in (train, test):
        check_together(model, data, threats)
    return Built(resolved, model, threats, train, test)


def run_folder(asked: Asked, resolved: Resolved, model: Model, verb: Verb) -> Any:
    """The run folder, as a context; a new one is called by the verb and the model."""
    runs = Path(resolved.settings.run.dir)
    if asked.out is not None:
        return nullcontext(asked.out)
    if asked.resume:
        return nullcontext(unfinished_run(runs, verb))
    return claimed_folder(runs, f"{verb.value}-{model.describe().get('name') or 'model'}")


def training_of(said: HardenSettings) -> Training:
    plain = {field.name: getattr(said, field.name) for field in fields(Training) if field.name != "augment"}
    return Training(**plain, augment=tuple(made_change(text) for text in said.augment))


def _finish(asked: Asked, resolved: Resolved, path: Path, result: HardenResult) -> int:
    run = RunFolder(path)
    pairs = result.by_threat.values()
    records = [found.record for pair in pairs for found in (pair.before, pair.after)]
    files = write_formats(run, resolved.settings.report.formats)
    code = exit_code([pair.after.record for pair in pairs], len(pairs))
    folder = TrainingFolder(run)
    kept = folder.denoiser if result.denoiser is not None else folder.weights
    following = f"hardpoint report {path} --open"
    if asked.json_out:
        more: dict[str, Any] = {"exit_code": int(code), "run": str(path), "next": following}
        training = run.training()
        told = {} if training is None else {"training": training.to_json()}
        shown = {form: str(file) for form, file in files.items()}
        for word, file in {"weights": folder.weights, "denoiser": folder.denoiser}.items():
            more[word] = str(file) if file == kept else None
        if len(pairs) > 1 and result.under_all is not None:
            shares = zip((BEFORE, AFTER), result.under_all, strict=True)
            told["under_all"] = {moment: rate.describe() for moment, rate in shares}
        say_json({**summary_json(records, run.header()), **told, **more, "files": shown})
        return code
    for record in records:
        say("\n".join(verdict_lines(record)))
    if len(pairs) > 1 and result.under_all is not None:
        before, after = result.under_all
        say(f"under all {len(pairs)} threats: robust {before} before, {after} after")
    if not asked.quiet:
        best = result.best
        epoch = "" if best is None else f", weights of epoch {best.number}"
        units = f"{result.cost.units:.1f}× ordinary training"
        say(f"training: {result.recipe}, {len(result.history)} epochs, {units}{epoch}")
        if kept == folder.denoiser:
            say(f"denoiser: {kept}")
            say(f'use it:   stages = ["denoiser:file={kept.as_posix()}"] in [defence]')
        else:
            say(f"weights:  {kept}")
        for form in list(files)[:1]:
            say(f"report:   {files[form]}")
        say(f"next:     {following}")
    return code
