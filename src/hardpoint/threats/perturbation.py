"""The shape of a perturbation: a set of allowed inputs around each original.

A ``Perturbation`` is a description (a norm and a radius, a table schema). ``around`` binds it to a batch of
originals and an input box and gives a ``Region``: the allowed inputs themselves, with every piece of geometry
an attack needs. Attacks know regions only through this protocol, so a new kind of perturbation needs no
change in any attack.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.rng import Rng


@runtime_checkable
class Region(Protocol):
    """The allowed inputs around a batch of originals ``x``, always inside the input box.

    A region is a dataclass of row tensors (``HAS_ROWS``), so the engine can drop and add inputs.
    """

    HAS_ROWS: ClassVar[bool]

    @property
    def x(self) -> Tensor:
        """The originals, ``[n, ...]``."""
        ...

    @property
    def reach(self) -> Tensor:
        """``[n]``: the step length, in units of ``ascent``, that crosses half of the region."""
        ...

    def project(self, z: Tensor) -> Tensor:
        """The allowed input nearest to ``z``, ``[n, ...]``; the originals where ``z`` is not finite."""
        ...

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        """A random allowed input for each original; draws belong to ``index`` (see ``Rng``)."""
        ...

    def distance(self, z: Tensor) -> Tensor:
        """float64 ``[n]``: how far ``z`` is from the originals, in the unit of the perturbation's ``eps``."""
        ...

    def contains(self, z: Tensor) -> Tensor:
        """Bool ``[n]``: whether ``z`` is allowed. Computed in float64, without tolerance for being outside
        the box; NaN is never allowed."""
        ...

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The direction of unit length in which a function with this ``gradient`` at ``z`` rises fastest."""
        ...


@runtime_checkable
class Perturbation(Protocol):
    """A description of what the attacker may change. Frozen, hashable by content, printable as a claim."""

    @property
    def eps(self) -> float:
        """The budget; 0 allows nothing, ``inf`` asks for the smallest change that works."""
        ...

    @property
    def name(self) -> str:
        """Short stable name for folders and tables, for example ``linf-0.0314``."""
        ...

    def around(self, x: Tensor, box: Box) -> Region:
        """The allowed inputs around the originals ``x`` ``[n, ...]`` inside ``box``."""
        ...

    def scaled(self, factor: float) -> Self:
        """The same perturbation with ``factor`` times the budget."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready description that identifies the perturbation."""
        ...


@runtime_checkable
class NearlyAround(Protocol):
    """A perturbation whose region is had in a fraction of the time where it may be smaller by a few roundings."""

    def nearly_around(self, x: Tensor, box: Box) -> Region:
        """As ``around``, for learning from: all that it allows is allowed, and next to nothing is left out."""
        ...
