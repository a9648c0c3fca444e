"""The face every model shows to the rest of Hardpoint."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.core.box import Box


@runtime_checkable
class Model(Protocol):
    """What is attacked or protected: an adapter with an input range and an access ladder.

    ``scores`` and ``predict`` never change the model, never track gradients, and return CPU or device
    tensors on the device of ``x``. A model whose ``access`` is ``LABELS`` raises ``AccessDenied`` on ``scores``.
    """

    @property
    def access(self) -> Access:
        """The highest rung this model offers."""
        ...

    @property
    def box(self) -> Box:
        """The inputs the model accepts."""
        ...

    def scores(self, x: Tensor) -> Tensor:
        """Class scores ``[n, K]`` whose order is the model's preference (logits, or log-probabilities)."""
        ...

    def predict(self, x: Tensor) -> Tensor:
        """int64 ``[n]``: the labels the model answers."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready: ``kind``, ``name``, ``sha256`` of what defines it where known, ``parameters``."""
        ...


@runtime_checkable
class Differentiable(Model, Protocol):
    """A model whose scores come from a torch module, so that gradients can be had."""

    @property
    def module(self) -> nn.Module:
        """The module; ``module_scores`` of its output are the scores."""
        ...

    def module_scores(self, output: Any) -> Tensor:
        """The class scores ``[n, K]`` in the module's raw output, differentiably."""
        ...


def refusal_of(model: Model) -> int | None:
    """The answer, behind all classes, with which ``model`` refuses an input; None where it always answers.

    A model that can refuse has an attribute ``refusal``: the number of its classes, which is the index of one more
    column of its scores.
    """
    refusal = getattr(model, "refusal", None)
    return refusal if isinstance(refusal, int) else None
