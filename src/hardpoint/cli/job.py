"""The assessments of one model, in one run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hardpoint.assess import Result, assess
from hardpoint.cli.build import Planned
from hardpoint.cli.config import Settings
from hardpoint.cli.console import note
from hardpoint.cli.runs import header_of
from hardpoint.data import Dataset
from hardpoint.engine.budget import Budget
from hardpoint.evidence.store import RunFolder
from hardpoint.models.base import Differentiable, Model

_MOMENT = 1e-3


class Job:
    """A model, its data and its threats, and the folder that the evidence goes to.

    Args:
        settings: mode, seed, budgets and workers.
        words: the command as typed, for the record.
        model, data, threats: what is assessed.
        surrogates: models of the attacker's own, whose gradients attacks use too.
        path: the run folder.
        resume: continue the run in it.
        quiet: show no progress.
    """

    def __init__(
        self,
        settings: Settings,
        words: Sequence[str],
        model: Model,
        data: Dataset,
        threats: list[Planned],
        path: Path,
        *,
        surrogates: tuple[Differentiable, ...],
        resume: bool,
        quiet: bool,
    ) -> None:
        self.settings, self.words, self.model, self.data = settings, words, model, data
        self.surrogates = surrogates
        self.threats, self.path, self.resume, self.quiet = threats, path, resume, quiet
        self.run = RunFolder(path)
        self.began = time.monotonic()

    def results(self) -> list[Result]:
        """One result per threat; fewer where the time ran out."""
        found: list[Result] = []
        header = header_of(self.settings, self.words, [t.name for t in self.threats])
        for number, (planned, seconds) in enumerate(self._in_time()):
            if not self.quiet and len(self.threats) > 1:
                note(f"{planned.name} ({number + 1} of {len(self.threats)}): {len(self.data)} inputs")
            found.append(self._assess(planned, seconds, header, resume=self.resume or number > 0))
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
            progress=not self.quiet,
            resume=resume,
            workers=said.workers,
            batch_size=said.batch_size,
            gate=planned.gate,
            surrogates=self.surrogates,
            allow_training=said.allow_training,
            header=header,
        )
