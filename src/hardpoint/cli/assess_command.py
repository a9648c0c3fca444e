"""``hardpoint assess``."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hardpoint.assess import Result
from hardpoint.cli.asked import Asked
from hardpoint.cli.build import (
    build_data,
    build_model,
    build_surrogates,
    build_threats,
    check_together,
)
from hardpoint.cli.console import say, say_json
from hardpoint.cli.defence import with_defence
from hardpoint.cli.job import Job
from hardpoint.cli.layers import Resolved, resolve
from hardpoint.cli.report_command import write_formats
from hardpoint.cli.runs import Verb, claimed_folder, resume_command, unfinished_run
from hardpoint.cli.verdicts import exit_code, verdict_lines
from hardpoint.evidence.store import RunFolder
from hardpoint.models.base import Model
from hardpoint.report import summary_json


def run(asked: Asked) -> int:
    """Assess the model under every threat, in one run folder."""
    resolved = resolve(asked.said, asked.config, os.environ)
    model = build_model(resolved)
    threats = build_threats(resolved, model)
    surrogates, data = build_surrogates(resolved), build_data(resolved.settings)
    check_together(model, data, threats, surrogates)
    model, data = with_defence(resolved.settings, model, data, quiet=asked.quiet)
    with _folder(asked, resolved, model) as path:
        job = Job(
            resolved.settings,
            asked.words,
            model,
            data,
            threats,
            path,
            surrogates=surrogates,
            resume=asked.resume,
            quiet=asked.quiet,
        )
        try:
            results = job.results()
        except BaseException as error:
            stop_workers()
            if RunFolder(path).exists:
                error.add_note(f"continue with: {resume_command(asked.words, path)}")
            raise
        return _finish(asked, job, results)


def _folder(asked: Asked, resolved: Resolved, model: Model) -> Any:
    """The run folder, as a context."""
    runs = Path(resolved.settings.run.dir)
    if asked.out is not None:
        return nullcontext(asked.out)
    if asked.resume:
        return nullcontext(unfinished_run(runs, Verb.ASSESS))
    return claimed_folder(runs, str(model.describe().get("name") or "model"))


def stop_workers() -> None:
    """Worker processes would finish their piece before the command could end."""
    for process in multiprocessing.active_children():
        process.terminate()


def _finish(asked: Asked, job: Job, results: list[Result]) -> int:
    """Write the report, say what was found, and give the exit code."""
    records = [result.record for result in results]
    with _noting(f"the evidence is kept; write the report with: hardpoint report {job.path}"):
        files = write_formats(job.run, job.settings.report.formats)
    code = exit_code(records, len(job.threats))
    following = _next(asked, job)
    if asked.json_out:
        more = {"exit_code": int(code), "run": str(job.path), "next": following}
        shown = {form: str(path) for form, path in files.items()}
        say_json({**summary_json(records, job.run.header()), **more, "files": shown})
        return code
    for record in records:
        say("\n".join(verdict_lines(record)))
    for planned in job.threats[len(records) :]:
        say(f"NOT RUN  {planned.name}  the time ran out first")
    if not asked.quiet:
        say(f"evidence: {job.path}")
        for form in list(files)[:1]:
            say(f"report:   {files[form]}")
        say(f"next:     {following}")
    return code


def _next(asked: Asked, job: Job) -> str:
    if not all(job.run.assessment(planned.name).is_finished for planned in job.threats):
        return resume_command(asked.words, job.path)
    return f"hardpoint report {job.path} --open"


@contextmanager
def _noting(hint: str) -> Iterator[None]:
    """Adds what can still be done to any error."""
    try:
        yield
    except BaseException as error:
        error.add_note(hint)
        raise
