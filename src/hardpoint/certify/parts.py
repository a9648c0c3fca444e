"""What became of some inputs that were certified together, and keeping it so that a run can go on where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.core.errors import RunError
from hardpoint.evidence.certificate import Certificate, StageOutcome, Standing
from hardpoint.evidence.store import AssessmentFolder


@dataclass(frozen=True, eq=False)
class Part:
    """Some inputs that were certified together.

    Attributes:
        certificates: one per input, in order.
        stages: what each stage did to them.
        broken: int64 ``[k]``: which inputs a point breaks.
        points: ``[k, ...]``: the points that do.
    """

    certificates: tuple[Certificate, ...]
    stages: tuple[StageOutcome, ...]
    broken: Tensor
    points: Tensor

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As a run folder keeps it."""
        said = {name: np.array([getattr(each, name) for each in self.certificates]) for name in _SAID}
        outcomes = {
            f"stage_{name}": np.array([getattr(stage, name) for stage in self.stages]) for name in _OUTCOME
        }
        return {**said, **outcomes, "broken": self.broken.numpy(), "points": self.points.numpy()}

    @classmethod
    def read(cls, arrays: dict[str, NDArray[Any]]) -> Part:
        """The inverse of ``arrays``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        said = zip(*(arrays[name].tolist() for name in _SAID), strict=True)
        certificates = tuple(Certificate(i, y, Standing(s), *rest) for i, y, s, *rest in said)
        stages = zip(*(arrays[f"stage_{name}"].tolist() for name in _OUTCOME), strict=True)
        outcomes = tuple(StageOutcome(*each) for each in stages)
        return cls(
            certificates, outcomes, torch.from_numpy(arrays["broken"]), torch.from_numpy(arrays["points"])
        )


_SAID = ("index", "label", "standing", "bound", "stage", "seconds", "reason")
_OUTCOME = ("name", "inputs", "proven", "broken", "seconds")


@dataclass(frozen=True)
class Kept:
    """The finished parts of one run of proofs, in their folder."""

    folder: AssessmentFolder

    def get(self, start: int, count: int) -> Part | None:
        """The part of ``count`` inputs from ``start`` on, where it is finished.

        Raises:
            RunError: where its file is damaged.
        """
        name = f"{start:08d}"
        if not self.folder.has_unit(name):
            return None
        try:
            part = Part.read(self.folder.read_unit(name))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.folder.path} holds a damaged part {name} ({error})", "delete it and resume the run"
            ) from None
        if [each.index for each in part.certificates] != list(range(start, start + count)):
            raise RunError(
                f"{self.folder.path} holds a part {name} of other inputs", "delete it and resume the run"
            )
        return part

    def put(self, part: Part) -> None:
        """Keep a finished part."""
        self.folder.write_unit(f"{part.certificates[0].index:08d}", part.arrays())
