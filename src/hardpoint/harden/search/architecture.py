"""A network by the few numbers that say how it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from torch import nn

from hardpoint.core.errors import ConfigError
from hardpoint.harden.search.layers import Layer, Piece, Shortcut, source, stacked

_SMALLEST = 4
"""Sides of pictures are halved down to this."""
_STAGES = 3


class Activation(Enum):
    """Smooth ones give adversarial training better gradients (Xie et al., "Smooth adversarial training", 2020)."""

    RELU = "relu"
    SILU = "silu"
    GELU = "gelu"

    @property
    def layer(self) -> Layer:
        return Layer({"relu": "ReLU", "silu": "SiLU", "gelu": "GELU"}[self.value])


class Normalisation(Enum):
    """After each convolution or linear layer but the last; all features of a row are one group."""

    NONE = "none"
    BATCH = "batch"
    GROUP = "group"


class Head(Enum):
    """What the last layer sees of a picture: the mean of each channel, or every place."""

    POOLED = "pooled"
    FLAT = "flat"


@dataclass(frozen=True)
class Architecture:
    """A residual or plain network for pictures ``[channels, height, width]`` or rows ``[features]``.

    Pictures pass a first convolution, then up to three stages that halve the sides, down to 4; rows pass linear
    layers, and growth, kernel, stride and head mean nothing.

    Args:
        shape: of one input.
        classes: how many.
        width: channels, or features, of the first layer.
        depth: blocks of two layers per stage.
        growth: by which each stage is wider than the one before.
        kernel: side of the convolutions, odd.
        stride: of the first convolution; 2 spends less on the full picture, and more on what follows.
        activation, norm, head: see there.
        skip: whether there is a way past each block.

    >>> print(Architecture((1, 28, 28), 10, width=8, depth=1))
    8 channels, 1 block a stage, growing by 2, kernel 3, stride 1, relu, batch norm, skips, pooled head
    """

    shape: tuple[int, ...]
    classes: int
    width: int = 16
    depth: int = 1
    growth: float = 2.0
    kernel: int = 3
    stride: int = 1
    activation: Activation = Activation.RELU
    norm: Normalisation = Normalisation.BATCH
    skip: bool = True
    head: Head = Head.POOLED

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 3):
            raise ConfigError(
                f"inputs of shape {self.shape} are neither rows nor pictures",
                "give [features] or [channels, height, width]",
            )
        if self.width < 1 or self.depth < 1 or self.classes < 2 or self.kernel % 2 == 0 or self.growth <= 0:
            raise ConfigError(
                f"{self!r} makes no sense", "give positive numbers, an odd kernel and two classes or more"
            )

    @property
    def layers(self) -> tuple[Piece, ...]:
        """The network, from the input to the scores."""
        return self._of_picture() if len(self.shape) == 3 else self._of_row()

    def build(self) -> nn.Sequential:
        """The network with new weights, drawn from torch's global generator."""
        return stacked(self.layers)

    def source(self) -> str:
        """A Python file with ``make()``, for people and for ``--model FILE:make``; it needs torch alone."""
        return source(
            self.layers, f"A network for inputs of shape {self.shape}, {self.classes} classes: {self}."
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            key: value.value
            if isinstance(value, Enum)
            else list(value)
            if isinstance(value, tuple)
            else value
            for key, value in values.items()
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Architecture:
        """The architecture that ``to_json`` told."""
        kinds = {"activation": Activation, "norm": Normalisation, "head": Head, "shape": tuple}
        return cls(**{key: kinds[key](held) if key in kinds else held for key, held in value.items()})

    def __str__(self) -> str:
        blocks = f"{self.depth} {'block' if self.depth == 1 else 'blocks'}"
        end = f"{self.activation.value}, {self.norm.value} norm, {'skips' if self.skip else 'no skips'}"
        if len(self.shape) == 1:
            return f"{self.width} features, {blocks}, {end}"
        return (
            f"{self.width} channels, {blocks} a stage, growing by {self.growth:g}, kernel {self.kernel}, "
            f"stride {self.stride}, {end}, {self.head.value} head"
        )

    def _of_picture(self) -> tuple[Piece, ...]:
        channels, *sides = self.shape
        pieces: list[Piece] = [*self._convolved(channels, self.width, self.stride), self.activation.layer]
        sides = [math.ceil(side / self.stride) for side in sides]
        held, stages = self.width, 0
        while stages < _STAGES and min(sides) >= 2 * _SMALLEST:
            wider = max(1, round(self.width * self.growth**stages))
            for block in range(self.depth):
                pieces += self._block(held, wider, 1 if block else 2)
                held = wider
            sides, stages = [math.ceil(side / 2) for side in sides], stages + 1
        if self.head is Head.POOLED:
            return (
                *pieces,
                Layer("AdaptiveAvgPool2d", (1,)),
                Layer("Flatten"),
                Layer("Linear", (held, self.classes)),
            )
        return (*pieces, Layer("Flatten"), Layer("Linear", (held * math.prod(sides), self.classes)))

    def _block(self, before: int, after: int, stride: int) -> list[Piece]:
        body = (
            *self._convolved(before, after, stride),
            self.activation.layer,
            *self._convolved(after, after, 1),
        )
        if not self.skip:
            return [*body, self.activation.layer]
        same = before == after and stride == 1
        short = Layer("Identity") if same else Layer("Conv2d", (before, after, 1), {"stride": stride})
        return [Shortcut(body, short), self.activation.layer]

    def _convolved(self, before: int, after: int, stride: int) -> list[Layer]:
        options: dict[str, int | float | str | bool] = {"padding": self.kernel // 2}
        if stride > 1:
            options = {"stride": stride, **options}
        return self._normed(
            Layer("Conv2d", (before, after, self.kernel), options), "BatchNorm2d", math.gcd(after, 8)
        )

    def _of_row(self) -> tuple[Piece, ...]:
        width = self.width
        pieces: list[Piece] = [*self._linear(self.shape[0]), self.activation.layer]
        for _ in range(self.depth):
            body = (*self._linear(width), self.activation.layer, *self._linear(width))
            pieces += [Shortcut(body, Layer("Identity"))] if self.skip else body
            pieces.append(self.activation.layer)
        return (*pieces, Layer("Linear", (width, self.classes)))

    def _linear(self, before: int) -> list[Layer]:
        return self._normed(Layer("Linear", (before, self.width)), "BatchNorm1d", 1)

    def _normed(self, layer: Layer, batch: str, groups: int) -> list[Layer]:
        if self.norm is Normalisation.NONE:
            return [layer]
        width = layer.args[1]
        bare = Layer(layer.name, layer.args, {**layer.options, "bias": False})
        if self.norm is Normalisation.BATCH:
            return [bare, Layer(batch, (width,))]
        return [bare, Layer("GroupNorm", (groups, width))]
