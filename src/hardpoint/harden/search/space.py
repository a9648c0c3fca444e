"""Among which architectures is searched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hardpoint.core.errors import ConfigError
from hardpoint.harden.search.architecture import Activation, Architecture, Head, Normalisation
from hardpoint.harden.search.limits import Limits

_KINDS: dict[str, tuple[tuple[type, ...], float | None]] = {
    "depth": ((int,), 1),
    "growth": ((int, float), 0.01),
    "kernel": ((int,), 1),
    "stride": ((int,), 1),
    "activation": ((Activation,), None),
    "norm": ((Normalisation,), None),
    "skip": ((bool,), None),
    "head": ((Head,), None),
    "size": ((int, float), None),
}
"""What the choices of each may be, and the least of them."""
_PICTURES_ONLY = ("growth", "kernel", "stride", "head")


@dataclass(frozen=True)
class Space:
    """Choices of everything but the width, which is as large as a ``size`` of the limits allows.

    Args:
        depth, growth, kernel, stride, activation, norm, skip, head: see ``Architecture``; one or more of each.
        size: shares of the limits.

    >>> Space(kernel=(3,), depth=(1, 2)).count((1, 28, 28))
    864
    """

    depth: tuple[int, ...] = (1, 2, 3)
    growth: tuple[float, ...] = (1.0, 1.5, 2.0)
    kernel: tuple[int, ...] = (3, 5)
    stride: tuple[int, ...] = (1, 2)
    activation: tuple[Activation, ...] = tuple(Activation)
    norm: tuple[Normalisation, ...] = tuple(Normalisation)
    skip: tuple[bool, ...] = (False, True)
    head: tuple[Head, ...] = tuple(Head)
    size: tuple[float, ...] = (0.5, 1.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            choices = getattr(self, field.name)
            if (
                not isinstance(choices, tuple | list)
                or not choices
                or len({str(c) for c in choices}) < len(choices)
            ):
                raise ConfigError(f"{field.name} is {choices!r}", "give a tuple of different choices")
            object.__setattr__(self, field.name, tuple(choices))
            kinds, least = _KINDS[field.name]
            known = all(isinstance(choice, kinds) for choice in choices)
            if not known or (least is not None and min(choices) < least):
                raise ConfigError(
                    f"{field.name} is {choices!r}", f"give {' or '.join(k.__name__ for k in kinds)} each"
                )
        if not all(0 < share <= 1 for share in self.size):
            raise ConfigError(f"size is {self.size}", "give shares of the limits, above 0 and at most 1")

    def choices(self, shape: tuple[int, ...]) -> dict[str, tuple[Any, ...]]:
        """What is to be chosen for inputs of ``shape``, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: held for key, held in named.items() if len(shape) == 3 or key not in _PICTURES_ONLY}

    def count(self, shape: tuple[int, ...]) -> int:
        """How many combinations there are."""
        return math.prod(len(held) for held in self.choices(shape).values())

    def architecture(
        self, chosen: Mapping[str, Any], shape: tuple[int, ...], classes: int, limits: Limits
    ) -> Architecture | None:
        """The widest network of these choices; None where none is small enough."""
        said = {key: held for key, held in chosen.items() if key != "size"}
        return limits.scaled(chosen["size"]).widest(Architecture(shape, classes, **said))
