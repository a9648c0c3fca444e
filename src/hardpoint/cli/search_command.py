"""``hardpoint search``."""

from __future__ import annotations

from pathlib import Path

from hardpoint.cli.asked import Asked
from hardpoint.cli.config import SearchSettings
from hardpoint.cli.console import say, say_json
from hardpoint.cli.exits import Exit
from hardpoint.cli.harden_command import build_lesson, run_folder, training_of
from hardpoint.cli.layers import Resolved
from hardpoint.cli.report_command import write_formats
from hardpoint.cli.runs import Verb, header_of, resume_command
from hardpoint.cli.teacher import build_recipe
from hardpoint.core.errors import ConfigError
from hardpoint.data import Dataset
from hardpoint.evidence.store import RunFolder
from hardpoint.harden.names import DEFAULT
from hardpoint.harden.search import Limits, SearchResult, search
from hardpoint.harden.search.search import BASELINE, FOUND
from hardpoint.models.torch import TorchModel
from hardpoint.report import summary_json


def run(asked: Asked) -> int:
    """Search, and leave the network that was found, its weights and the report in one run folder."""
    built = build_lesson(asked)
    resolved, model, train, test = built.resolved, built.model, built.train, built.test
    settings = resolved.settings
    if len(built.threats) > 1:
        raise ConfigError(f"{len(built.threats)} threats are given", "search under one at a time")
    recipe = build_recipe(resolved)
    with run_folder(asked, resolved, model, Verb.SEARCH) as path:
        try:
            result = search(
                model,
                train,
                threat=built.threats[0].threat,
                trials=settings.search.trials,
                limits=_limits(settings.search, model, train),
                recipe=None if recipe == DEFAULT else recipe,
                training=training_of(settings.harden),
                test=test,
                judged=settings.search.judged,
                passes=settings.search.passes,
                mode=settings.run.mode,
                seed=settings.run.seed,
                workers=settings.run.workers,
                run_dir=path,
                resume=asked.resume,
                progress=not asked.quiet,
                header=header_of(settings, asked.words, [BASELINE, FOUND]),
            )
        except BaseException as error:
            if RunFolder(path).exists:
                error.add_note(f"continue with: {resume_command(asked.words, path)}")
            raise
        return _finish(asked, resolved, path, result)


def _limits(said: SearchSettings, model: object, data: Dataset) -> Limits | None:
    """The limits that are set; the rest as ``search`` has them."""
    if said.weights is None and said.operations is None:
        return None
    if said.weights is not None and said.operations is not None:
        return Limits(said.weights, said.operations)
    if not isinstance(model, TorchModel):
        raise ConfigError("[search] sets one limit of two", "set weights and operations")
    known = Limits.like(model.module, data.shape)
    return Limits(said.weights or known.weights, said.operations or known.operations)


def _finish(asked: Asked, resolved: Resolved, path: Path, result: SearchResult) -> int:
    run = RunFolder(path)
    files = write_formats(run, resolved.settings.report.formats)
    architecture, weights = path / "architecture.py", path / "model.safetensors"
    following = f"hardpoint report {path} --open"
    if asked.json_out:
        records = [found.record for found in (result.before, result.after) if found is not None]
        told = {"search": result.record.to_json(), "architecture": str(architecture), "weights": str(weights)}
        shown = {form: str(file) for form, file in files.items()}
        more = {"exit_code": int(Exit.PASS), "run": str(path), "next": following, "files": shown}
        say_json({**summary_json(records, run.header()), **told, **more})
        return Exit.PASS
    say(f"found:    {result.architecture}")
    for name, assessed in (("as given", result.before), ("found", result.after)):
        if assessed is not None:
            say(f"{name + ':':<9} robust {assessed.robust_accuracy}, clean {assessed.clean_accuracy}")
    if not asked.quiet:
        say(f"network:  {architecture}:make")
        say(f"weights:  {weights}")
        for form in list(files)[:1]:
            say(f"report:   {files[form]}")
        say(f"next:     {following}")
    return Exit.PASS
