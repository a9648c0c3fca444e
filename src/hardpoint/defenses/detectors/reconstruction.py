"""How badly an input is rebuilt by something that was taught benign ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from hardpoint.core.errors import ModelError
from hardpoint.defenses.seen import Seen


@runtime_checkable
class Reconstructs(Protocol):
    """Rebuilds inputs: an autoencoder, a purifier, a principal subspace."""

    def error(self, x: Tensor) -> Tensor:
        """``[n]``: how far each input ``[n, ...]`` is from what it is rebuilt as."""
        ...


@dataclass(frozen=True)
class ReconstructionError:
    """The error with which ``stage`` rebuilds an input (Meng and Chen, CCS 2017).

    >>> import torch
    >>> class Centre:
    ...     def error(self, x):
    ...         return x.flatten(1).norm(dim=1)
    >>> ReconstructionError(Centre()).score(Seen(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)))
    tensor([5.])
    """

    stage: Reconstructs
    name: str = "reconstruction error"
    layers: tuple[str, ...] = ()

    def score(self, seen: Seen) -> Tensor:
        errors = self.stage.error(seen.x)
        if errors.shape != (len(seen),):
            raise ModelError(
                f"the reconstruction error has shape {tuple(errors.shape)} for {len(seen)} inputs",
                "return one number per input, [n]",
            )
        return errors

    def describe(self) -> dict[str, Any]:
        told = getattr(self.stage, "describe", None)
        kind = type(self.stage).__name__
        return {"kind": "reconstruction-error", "stage": told() if callable(told) else {"kind": kind}}
