"""The assessments before a training and after it, on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardpoint.assess.assess import assess
from hardpoint.assess.cascade import Mode
from hardpoint.assess.progress import Progress
from hardpoint.assess.result import Result
from hardpoint.data import Dataset
from hardpoint.evidence.store import RunFolder
from hardpoint.evidence.training import AFTER, BEFORE, moment_names
from hardpoint.models.torch import TorchModel
from hardpoint.threats.threat import Threat


@dataclass(frozen=True)
class BeforeAfter:
    """What training was worth under one threat.

    Attributes:
        before, after: assessments on the same inputs.
    """

    before: Result
    after: Result


@dataclass(frozen=True)
class Assessor:
    """Assesses a network under every threat.

    Attributes:
        test: the inputs; None to assess nothing.
        threats: what is attacked under.
        mode, seed: of the assessments.
        run: where the evidence goes.
        display: where progress is shown.
    """

    test: Dataset | None
    threats: tuple[Threat, ...]
    mode: Mode | str
    seed: int
    run: RunFolder | None
    display: Progress

    def names(self, moment: str) -> tuple[str, ...]:
        """What the assessments at a ``moment`` are called."""
        return moment_names(moment, [threat.name for threat in self.threats])

    @property
    def planned(self) -> list[str]:
        """The names of all assessments, in the order in which they are read: threat by threat."""
        if self.test is None:
            return []
        pairs = zip(self.names(BEFORE), self.names(AFTER), strict=True)
        return [name for pair in pairs for name in pair]

    def paired(self, before: Sequence[Result], after: Sequence[Result]) -> dict[str, BeforeAfter]:
        """What was found before and after, by the name of the threat; nothing without inputs."""
        names = [threat.name for threat in self.threats] if self.test is not None else []
        return {name: BeforeAfter(*pair) for name, *pair in zip(names, before, after, strict=True)}

    def results(
        self, model: TorchModel, moment: str, gates: Sequence[float | None] | None = None
    ) -> tuple[Result, ...]:
        """One result per threat, judged by its gate; none without inputs."""
        if self.test is None:
            return ()
        gates = gates or (None,) * len(self.threats)
        return tuple(
            assess(
                model,
                self.test,
                threat=threat,
                mode=self.mode,
                seed=self.seed,
                name=name,
                run_dir=None if self.run is None else self.run.path,
                resume=self.run is not None,
                progress=self.display,
                gate=gate,
            )
            for threat, name, gate in zip(self.threats, self.names(moment), gates, strict=True)
        )
