"""Layers as data: one list is what is built, and what a person reads."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from hardpoint.harden.search.residual import Residual

_INDENT = "    "


@dataclass(frozen=True)
class Layer:
    """A layer of torch by its name and settings."""

    name: str
    args: tuple[int | float | str, ...] = ()
    options: dict[str, int | float | str | bool] = field(default_factory=dict)

    def built(self) -> nn.Module:
        """The layer, with new weights."""
        made: nn.Module = getattr(nn, self.name)(*self.args, **self.options)
        return made

    def lines(self) -> list[str]:
        """As Python."""
        said = [repr(arg) for arg in self.args] + [f"{key}={value!r}" for key, value in self.options.items()]
        return [f"nn.{self.name}({', '.join(said)})"]


@dataclass(frozen=True)
class Shortcut:
    """``body`` with a way past it."""

    body: tuple[Layer, ...]
    short: Layer

    def built(self) -> nn.Module:
        """The layers, with new weights."""
        return Residual(stacked(self.body), self.short.built())

    def lines(self) -> list[str]:
        """As Python."""
        body = ["nn.Sequential(", *_inside(self.body), "),"]
        return ["Residual(", *(_INDENT + line for line in [*body, *_listed(self.short)]), ")"]


Piece = Layer | Shortcut


def stacked(pieces: Sequence[Piece]) -> nn.Sequential:
    """One after the other, with new weights."""
    return nn.Sequential(*(piece.built() for piece in pieces))


def source(pieces: Sequence[Piece], about: str) -> str:
    """A Python file with a function ``make()`` that builds the network and needs nothing but torch.

    >>> print(source([Layer("Linear", (2, 3))], "A small network."))
    \"""A small network.\"""
    <BLANKLINE>
    from torch import nn
    <BLANKLINE>
    <BLANKLINE>
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(2, 3),
        )
    <BLANKLINE>
    """
    parted = any(isinstance(piece, Shortcut) for piece in pieces)
    taken = "from torch import Tensor, nn" if parted else "from torch import nn"
    own = f"\n\n{inspect.getsource(Residual).rstrip()}\n" if parted else ""
    body = "\n".join(
        [_INDENT + "return nn.Sequential(", *(_INDENT + line for line in _inside(pieces)), _INDENT + ")"]
    )
    return f'"""{about}"""\n\n{taken}\n{own}\n\ndef make() -> nn.Module:\n{body}\n'


def _inside(pieces: Sequence[Piece]) -> list[str]:
    return [_INDENT + line for piece in pieces for line in _listed(piece)]


def _listed(piece: Piece) -> list[str]:
    *most, last = piece.lines()
    return [*most, last + ","]
