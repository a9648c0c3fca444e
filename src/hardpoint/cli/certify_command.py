"""``hardpoint certify``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from hardpoint.certify.cascade import Certifiable
from hardpoint.certify.certify import certify
from hardpoint.certify.planning import as_network, certifiable
from hardpoint.cli.asked import Asked
from hardpoint.cli.build import Planned, build_data, build_model, build_threats, check_together
from hardpoint.cli.config import Settings
from hardpoint.cli.console import note, say, say_json
from hardpoint.cli.exits import Exit
from hardpoint.cli.harden_command import run_folder
from hardpoint.cli.layers import resolve
from hardpoint.cli.report_command import write_formats
from hardpoint.cli.runs import Verb, header_of, resume_command
from hardpoint.core.errors import ConfigError
from hardpoint.data import Dataset
from hardpoint.evidence import CertificateRecord, RunFolder, Standing, Verdict
from hardpoint.report import summary_json

_BATCH = 64


def run(asked: Asked) -> int:
    """Certify the inputs against every threat, in one run folder."""
    resolved = resolve(asked.said, asked.config, os.environ)
    settings = resolved.settings
    if settings.defence.stages or settings.defence.detectors:
        raise ConfigError(
            "no bound is known for a defence", "certify the network by itself: leave out [defence]"
        )
    model = as_network(build_model(resolved))
    threats = build_threats(resolved, model)
    data = build_data(settings)
    check_together(model, data, threats)
    named = _named(threats, model, data)
    with run_folder(asked, resolved, model, Verb.CERTIFY) as path:
        try:
            records = list(_records(asked, settings, model, data, named, path))
        except BaseException as error:
            if RunFolder(path).exists:
                error.add_note(f"continue with: {resume_command(asked.words, path)}")
            raise
        return _finish(asked, settings, path, records)


def _named(threats: list[Planned], model: Certifiable, data: Dataset) -> dict[str, Planned]:
    """The threats by what their proofs are called; what an attacker sees makes no difference to a proof."""
    x, _ = data.rows(torch.arange(1))
    named: dict[str, Planned] = {}
    for planned in threats:
        name = certifiable(planned.threat, x.cpu(), model.box).name
        if name in named:
            raise ConfigError(
                f"the threat {name} is given twice", "give each threat once: proofs hold for any access"
            )
        named[name] = planned
    return named


def _records(
    asked: Asked, settings: Settings, model: Certifiable, data: Dataset, named: dict[str, Planned], path: Path
) -> Iterator[CertificateRecord]:
    """One record per threat."""
    header = {**header_of(settings, asked.words), "certificates": list(named)}
    for number, (name, planned) in enumerate(named.items()):
        if not asked.quiet and len(named) > 1:
            note(f"{name} ({number + 1} of {len(named)}): {len(data)} inputs")
        yield certify(
            model,
            data,
            threat=planned.threat,
            method=settings.certify.method,
            soundness=settings.certify.soundness,
            seconds_per_input=settings.certify.seconds_per_input,
            seed=settings.run.seed,
            batch_size=settings.run.batch_size or _BATCH,
            progress=not asked.quiet,
            name=name,
            gate=planned.gate,
            run_dir=path,
            resume=asked.resume or number > 0,
            header=header,
        ).record


def _finish(asked: Asked, settings: Settings, path: Path, records: list[CertificateRecord]) -> int:
    run = RunFolder(path)
    files = write_formats(run, settings.report.formats)
    code = exit_code(records)
    following = f"hardpoint report {path} --open"
    if asked.json_out:
        shown = {form: str(file) for form, file in files.items()}
        more = {"exit_code": int(code), "run": str(path), "next": following, "files": shown}
        say_json({**summary_json(run.read(), run.header(), certificates=records), **more})
        return code
    for record in records:
        say("\n".join(certificate_lines(record)))
    if not asked.quiet:
        say(f"evidence: {path}")
        for form in list(files)[:1]:
            say(f"report:   {files[form]}")
        say(f"next:     {following}")
    return code


def certificate_lines(record: CertificateRecord) -> Iterator[str]:
    """The verdict in one line, and one for what is unknown."""
    word = "NO GATE" if record.gate is None else record.verdict.word.upper()
    gate = "no gate" if record.gate is None else f"gate {100 * record.gate:g} %"
    upper, clean = 100 * record.unbroken.value, 100 * record.clean.value
    yield (
        f"{word}  {record.name}  proven {record.certified}, at most {upper:.1f} % stand, clean {clean:.1f} %, "
        f"{gate}, soundness {record.level.value}"
    )
    unknown = [each for each in record.certificates if each.standing is Standing.UNKNOWN]
    if unknown:
        best = max((each.bound for each in unknown if math.isfinite(each.bound)), default=math.nan)
        why = next((each.reason for each in unknown if each.reason), "")
        nearest = "" if best != best else f"; the nearest bound is {best:.3g}"
        yield f"      unknown: {len(unknown)} of {len(record.certificates)}{nearest}{f'; {why}' if why else ''}"


def exit_code(records: Sequence[CertificateRecord]) -> Exit:
    """A gate that can no longer be reached weighs most; one that what is unknown might still reach is inconclusive."""
    verdicts = {record.verdict for record in records}
    if Verdict.FAIL in verdicts:
        return Exit.GATE_FAILED
    return Exit.PASS if verdicts <= {Verdict.PASS} else Exit.INCONCLUSIVE
