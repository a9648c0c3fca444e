"""What ``assess`` returns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.attacks.base import Passes
from hardpoint.core.errors import RunError
from hardpoint.evidence.assessment import Assessment
from hardpoint.evidence.finding import Finding
from hardpoint.evidence.rate import Rate
from hardpoint.evidence.store import AssessmentFolder, RunFolder
from hardpoint.report.html import write_html

Found = tuple[NDArray[np.int64], NDArray[Any]]


class ExampleSource(Protocol):
    """Where the verified examples are: in memory or in a run folder."""

    def examples(self) -> Iterator[Found]:
        """(positions, examples) of broken inputs, in pieces."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Examples that are held."""

    pieces: tuple[Found, ...]

    def examples(self) -> Iterator[Found]:
        yield from self.pieces


@dataclass(frozen=True)
class InFolder:
    """Examples in the units of an assessment's folder."""

    folder: AssessmentFolder

    def examples(self) -> Iterator[Found]:
        for name in self.folder.units():
            if name.startswith("s"):
                unit = self.folder.read_unit(name)
                yield unit["positions"][unit["broken"]], unit["adversarial"]


@dataclass(frozen=True)
class Joined:
    """Examples in several places."""

    sources: tuple[ExampleSource, ...]

    def examples(self) -> Iterator[Found]:
        for source in self.sources:
            yield from source.examples()


@dataclass(frozen=True, eq=False)
class Result:
    """A model's robustness under one threat, with the evidence.

    Attributes:
        record: everything that was found, as reports read it.
        header: what was run, on what, with which versions.
    """

    record: Assessment
    header: dict[str, Any]
    _source: ExampleSource
    _inputs: Any

    @property
    def clean_accuracy(self) -> Rate:
        """Share of inputs the model gets right before any attack."""
        return self.record.clean_accuracy

    @property
    def robust_accuracy(self) -> Rate:
        """Share of inputs that no attack broke: an upper bound on the model's robust accuracy."""
        return self.record.robust_accuracy

    @property
    def broken(self) -> Tensor:
        """Bool ``[n]``: misclassified after the attack (verified); clean errors count as broken."""
        return torch.from_numpy(self.record.outcomes.broken)

    @property
    def adversarial(self) -> Tensor:
        """``[n, ...]`` like ``x``: the verified example where the attack broke the input, else the original.

        Raises:
            RunError: for a loaded run whose inputs were not kept; ``examples`` has what was found.
        """
        if self._inputs is None:
            raise RunError("this run does not hold its inputs", "read the broken ones with result.examples()")
        x = torch.as_tensor(np.array(self._inputs) if isinstance(self._inputs, np.ndarray) else self._inputs)
        x = x.clone()
        for positions, examples in self._source.examples():
            x[torch.from_numpy(positions).to(x.device)] = torch.from_numpy(np.array(examples)).to(x)
        return x

    def examples(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(positions, verified examples) of the inputs the attacks broke, in pieces."""
        for positions, found in self._source.examples():
            yield torch.from_numpy(np.asarray(positions)), torch.from_numpy(np.asarray(found))

    @property
    def passes(self) -> Passes:
        """Passes per input that the attacks spent, mean over all inputs."""
        return Passes(**self.record.passes)

    @property
    def findings(self) -> list[Finding]:
        """What a person must know."""
        return list(self.record.findings)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write a run folder that ``load_result`` reads; raises ``RunError`` if it holds another run."""
        run = RunFolder(directory)
        run.begin(self.header, resume=False)
        folder = run.assessment(self.record.name)
        for number, (positions, found) in enumerate(self._source.examples()):
            broken = np.ones(len(positions), dtype=bool)
            folder.write_unit(
                f"s00-{number:05d}", {"positions": positions, "broken": broken, "adversarial": found}
            )
        if self._inputs is not None:
            folder.write_inputs(np.asarray(torch.as_tensor(self._inputs).cpu()))
        folder.finish(self.record)
        run.close(self.record.name, complete=self.record.complete)
        return run.path

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, one self-contained HTML file."""
        return write_html(Path(path), [self.record], self.header)

    def __repr__(self) -> str:
        threat = self.record.threat["perturbation"]["text"]
        return (
            f"<{threat}, {self.record.mode}: robust accuracy {self.robust_accuracy}, "
            f"clean {self.clean_accuracy}; {len(self.record.findings)} findings>"
        )


def load_result(directory: str | os.PathLike[str], name: str | None = None) -> Result:
    """The result of an assessment in a run folder.

    Args:
        directory: the run folder.
        name: which assessment, where the run holds several.

    Raises:
        RunError: when there is none, it is unfinished, or ``name`` is needed.
    """
    run = RunFolder(directory)
    names = run.names()
    if name is None and len(names) != 1:
        raise RunError(
            f"{directory} holds {len(names)} assessments" + (f": {', '.join(names)}" if names else ""),
            "name one: load_result(directory, name)",
        )
    folder = run.assessment(name or names[0])
    return Result(folder.read(), run.header(), InFolder(folder), folder.inputs())
