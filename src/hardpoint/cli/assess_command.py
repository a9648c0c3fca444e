"""``hardpoint assess``."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardpoint.assess import Result, assess
from hardpoint.cli.build import Planned, build_data, build_model, build_threats, check_together
from hardpoint.cli.console import note, say, say_json
from hardpoint.cli.layers import Layer, Resolved, resolve
from hardpoint.cli.report_command import write_formats
from hardpoint.cli.runs import claimed_folder, header_of, resume_command, unfinished_run
from hardpoint.cli.verdicts import exit_code, verdict_lines
from hardpoint.data import Dataset
from hardpoint.engine.budget import Budget
from hardpoint.evidence.store import RunFolder
from hardpoint.models.base import Model
from hardpoint.report import summary_json

_MOMENT = 1e-3


@dataclass(frozen=True)
class Asked:
    """How the command was called.

    Attributes:
        said: what the command line says about settings.
        config: the configuration file it names.
        out: the run folder it names.
        resume: continue that run, or the newest unfinished one; starts it where there is none.
        json_out: print one JSON object instead of lines.
        quiet: no progress and no hints.
        words: the command as typed, for the record.
    """

    said: Layer
    config: Path | None
    out: Path | None
    resume: bool
    json_out: bool
    quiet: bool
    words: Sequence[str]


def run(asked: Asked) -> int:
    """Assess the model under every threat, in one run folder."""
    resolved = resolve(asked.said, asked.config, os.environ)
    model = build_model(resolved)
    threats = build_threats(resolved, model)
    data = build_data(resolved.settings)
    check_together(model, data, threats)
    with _folder(asked, resolved, model) as path:
        job = _Job(asked, resolved, model, data, threats, path)
        try:
            results = job.results()
        except BaseException as error:
            _stop_workers()
            if RunFolder(path).exists:
                error.add_note(f"continue with: {resume_command(asked.words, path)}")
            raise
        return job.finish(results)


def _folder(asked: Asked, resolved: Resolved, model: Model) -> Any:
    """The run folder, as a context."""
    runs = Path(resolved.settings.run.dir)
    if asked.out is not None:
        return nullcontext(asked.out)
    if asked.resume:
        return nullcontext(unfinished_run(runs))
    return claimed_folder(runs, str(model.describe().get("name") or "model"))


def _stop_workers() -> None:
    """Worker processes would finish their piece before the command could end."""
    for process in multiprocessing.active_children():
        process.terminate()


class _Job:
    """The assessments of one run."""

    def __init__(
        self,
        asked: Asked,
        resolved: Resolved,
        model: Model,
        data: Dataset,
        threats: list[Planned],
        path: Path,
    ) -> None:
        self.asked, self.settings, self.model, self.data = asked, resolved.settings, model, data
        self.threats, self.path, self.run = threats, path, RunFolder(path)
        self.began = time.monotonic()

    def results(self) -> list[Result]:
        """One result per threat; fewer where the time ran out."""
        found: list[Result] = []
        header = header_of(self.settings, self.asked.words, [t.name for t in self.threats])
        for number, (planned, seconds) in enumerate(self._in_time()):
            if not self.asked.quiet and len(self.threats) > 1:
                note(f"{planned.name} ({number + 1} of {len(self.threats)}): {len(self.data)} inputs")
            found.append(self._assess(planned, seconds, header, resume=self.asked.resume or number > 0))
        return found

    def _in_time(self) -> Iterator[tuple[Planned, float | None]]:
        """The threats that there is time for, each with the seconds left."""
        limit = self.settings.run.seconds
        for number, planned in enumerate(self.threats):
            left = None if limit is None else limit - (time.monotonic() - self.began)
            if left is not None and left <= 0 and number:
                return
            yield planned, None if left is None else max(left, _MOMENT)

    def _assess(
        self, planned: Planned, seconds: float | None, header: dict[str, Any], resume: bool
    ) -> Result:
        said = self.settings.run
        return assess(
            self.model,
            self.data,
            threat=planned.threat,
            mode=said.mode,
            seed=said.seed,
            budget=Budget(said.passes, said.queries, seconds),
            run_dir=self.path,
            progress=not self.asked.quiet,
            resume=resume,
            workers=said.workers,
            batch_size=said.batch_size,
            gate=planned.gate,
            allow_training=said.allow_training,
            header=header,
        )

    def finish(self, results: list[Result]) -> int:
        """Write the report, say what was found, and give the exit code."""
        records = [result.record for result in results]
        with _noting(f"the evidence is kept; write the report with: hardpoint report {self.path}"):
            files = write_formats(self.run, self.settings.report.formats)
        code = exit_code(records, len(self.threats))
        following = self._next()
        if self.asked.json_out:
            more = {"exit_code": int(code), "run": str(self.path), "next": following}
            shown = {form: str(path) for form, path in files.items()}
            say_json({**summary_json(records, self.run.header()), **more, "files": shown})
            return code
        for record in records:
            say("\n".join(verdict_lines(record)))
        for planned in self.threats[len(records) :]:
            say(f"NOT RUN  {planned.name}  the time ran out first")
        if not self.asked.quiet:
            say(f"evidence: {self.path}")
            for form in list(files)[:1]:
                say(f"report:   {files[form]}")
            say(f"next:     {following}")
        return code

    def _next(self) -> str:
        if not all(self.run.assessment(planned.name).is_finished for planned in self.threats):
            return resume_command(self.asked.words, self.path)
        return f"hardpoint report {self.path} --open"


@contextmanager
def _noting(hint: str) -> Iterator[None]:
    """Adds what can still be done to any error."""
    try:
        yield
    except BaseException as error:
        error.add_note(hint)
        raise
