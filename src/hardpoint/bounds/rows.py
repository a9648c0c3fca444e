"""Linear functions of a value: dense coefficients, or patches of an image outside which all coefficients are 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.bounds.operators.affine import Convolved, Weighted
from hardpoint.bounds.operators.arithmetic import Scaled, Sum
from hardpoint.bounds.operators.combined import Combined
from hardpoint.bounds.operators.norm import Normed
from hardpoint.bounds.operators.operator import Affine, Interval, Lines, transposes


@dataclass(frozen=True)
class Dense:
    """Every coefficient.

    Attributes:
        values: ``[n, S, ...]``.
    """

    values: Tensor

    @property
    def terms(self) -> int:
        """How many products one row sums."""
        return math.prod(self.values.shape[2:])

    def dot(self, values: Tensor) -> Tensor:
        """``[n, S]``: with ``[n, ...]``, ``[1, ...]`` or ``[n, S, ...]``."""
        return _dotted(self.values, values)

    def reach(self, radius: Tensor) -> Tensor:
        """``[n, S]``: absolute coefficients with ``[n, ...]``."""
        return _dotted(self.values.abs(), radius)

    def norm(self, order: float) -> Tensor:
        """``[n, S]``: of the coefficients."""
        return _norm(self.values, order)

    def within(self, lines: Lines) -> tuple[Dense, Tensor | None, Tensor]:
        """Rows over what the lines are of, and the two numbers that the lines' shifts add."""
        low = _dotted(self.values.clamp(min=0), lines.low_shift) if lines.low_shift is not None else None
        high = _dotted(self.values.clamp(max=0), lines.high_shift)
        slopes = torch.where(
            self.values > 0, _by_row(lines.low_slope, self.values), _by_row(lines.high_slope, self.values)
        )
        return Dense(self.values * slopes), low, high

    def before(self, operator: Affine, spans: Sequence[Interval]) -> Sequence[Dense]:
        """Rows over each of the values that an affine operator takes."""
        n, count = self.values.shape[:2]
        if isinstance(operator, Combined):
            return [Dense(part) for part in operator.each_transposed(self.values)]
        factor = _factor(operator, spans[0], self.values.shape[2:])
        if factor is not None:
            return [Dense(self.values * factor.unsqueeze(1))]
        flat = self.values.flatten(0, 1)
        if transposes(operator):
            parts: Sequence[Tensor] = [operator.transposed(flat, spans[0].low.shape[1:])]
        else:
            with torch.enable_grad():
                zeros = [
                    span.low.new_zeros(n * count, *span.low.shape[1:]).requires_grad_(True) for span in spans
                ]
                out = operator.value(*zeros)
            parts = torch.autograd.grad(out, zeros, flat, create_graph=torch.is_grad_enabled())
        return [Dense(part.reshape(n, count, *part.shape[1:])) for part in parts]

    def plus(self, other: Rows) -> Dense:
        return Dense(self.values + other.dense().values)

    def detached(self) -> Dense:
        return Dense(self.values.detach())

    def dense(self) -> Dense:
        return self


@dataclass(frozen=True)
class Patches:
    """Coefficients over a rectangle of an image; what a convolution sees of it stays small through many layers.

    Attributes:
        values: ``[n, S, C, h, w]``; 0 where the rectangle leaves the image.
        top, left: int64 ``[n, S]``: where it begins, below 0 in the padding.
        shape: ``(C, H, W)`` of the image.
    """

    values: Tensor
    top: Tensor
    left: Tensor
    shape: tuple[int, int, int]

    @classmethod
    def single(cls, places: Tensor, shape: tuple[int, int, int], like: Tensor) -> Patches:
        """Rows that are one element each: ``places`` int64 ``[n, S]`` in the flattened image."""
        channel, rest = places // (shape[1] * shape[2]), places % (shape[1] * shape[2])
        values = like.new_zeros(*places.shape, shape[0]).scatter_(2, channel.unsqueeze(2), 1.0)
        return cls(values.view(*places.shape, shape[0], 1, 1), rest // shape[2], rest % shape[2], shape)

    @property
    def terms(self) -> int:
        return math.prod(self.values.shape[2:])

    def dot(self, values: Tensor) -> Tensor:
        return (self.values * self.shown(values)).flatten(2).sum(2)

    def reach(self, radius: Tensor) -> Tensor:
        return (self.values.abs() * self.shown(radius)).flatten(2).sum(2)

    def norm(self, order: float) -> Tensor:
        return _norm(self.values, order)

    def within(self, lines: Lines) -> tuple[Rows, Tensor | None, Tensor]:
        rises, low = self.values > 0, None
        if lines.low_shift is not None:
            low = (self.values.clamp(min=0) * self.shown(lines.low_shift)).flatten(2).sum(2)
        high = (self.values.clamp(max=0) * self.shown(lines.high_shift)).flatten(2).sum(2)
        slopes = torch.where(rises, self.shown(lines.low_slope), self.shown(lines.high_slope))
        return self._with(self.values * slopes), low, high

    def before(self, operator: Affine, spans: Sequence[Interval]) -> Sequence[Rows]:
        if isinstance(operator, Sum) and all(span.low.shape[1:] == self.shape for span in spans):
            return [self, self]
        if isinstance(operator, Normed):
            return [self._with(self.values * operator.scale().view(-1, 1, 1))]
        factor = _factor(operator, spans[0], self.shape)
        if factor is not None:
            return [self._with(self.values * self.shown(factor))]
        settings = _settings(operator)
        if settings is None or not isinstance(operator, Weighted):
            return self.dense().before(operator, spans)
        shape, (stride, padding, dilation, groups) = spans[0].low.shape[1:], settings
        flat = _spread(self.values.flatten(0, 1), operator.weight(), stride, dilation, groups[0])
        made = Patches(
            flat.view(*self.values.shape[:2], *flat.shape[1:]),
            self.top * stride[0] - padding[0],
            self.left * stride[1] - padding[1],
            (shape[0], shape[1], shape[2]),
        )
        if made.values.shape[3] * made.values.shape[4] >= shape[1] * shape[2]:
            return [made.dense()]
        return [made.cut() if any(padding) else made]

    def plus(self, other: Rows) -> Rows:
        """The smallest rectangle that holds both, where they lie alike in all rows; else dense."""
        if (
            not isinstance(other, Patches)
            or len({*(self.top - other.top).flatten().tolist()}) > 1
            or len({*(self.left - other.left).flatten().tolist()}) > 1
        ):
            return Dense(self.dense().values + other.dense().values)
        down, right = int((self.top - other.top).flatten()[0]), int((self.left - other.left).flatten()[0])
        (h, w), (g, v) = self.values.shape[3:], other.values.shape[3:]
        top, left = min(0, -down), min(0, -right)  # of both, seen from this one
        bottom, end = max(h, g - down), max(w, v - right)
        mine = functional.pad(self.values, (-left, end - w, -top, bottom - h))
        theirs = functional.pad(
            other.values, (-right - left, end - v + right, -down - top, bottom - g + down)
        )
        made = Patches(mine + theirs, self.top + top, self.left + left, self.shape)
        return made.dense() if math.prod(made.values.shape[3:]) >= self.shape[1] * self.shape[2] else made

    def cut(self) -> Patches:
        """With 0 where the rectangle leaves the image."""
        rows = self.top.unsqueeze(2) + torch.arange(self.values.shape[3], device=self.top.device)
        columns = self.left.unsqueeze(2) + torch.arange(self.values.shape[4], device=self.top.device)
        inside = ((rows >= 0) & (rows < self.shape[1])).unsqueeze(3) & (
            (columns >= 0) & (columns < self.shape[2])
        ).unsqueeze(2)
        return self._with(self.values * inside.unsqueeze(2))

    def dense(self) -> Dense:
        n, count = self.values.shape[:2]
        channels, height, width = self.shape
        rows = self.top.unsqueeze(2) + torch.arange(self.values.shape[3], device=self.top.device)
        columns = self.left.unsqueeze(2) + torch.arange(self.values.shape[4], device=self.top.device)
        flat = rows.clamp(0, height - 1).unsqueeze(3) * width + columns.clamp(0, width - 1).unsqueeze(2)
        inside = ((rows >= 0) & (rows < height)).unsqueeze(3) & (
            (columns >= 0) & (columns < width)
        ).unsqueeze(2)
        places = flat.view(n, count, 1, -1).expand(-1, -1, channels, -1)
        found = (self.values * inside.unsqueeze(2)).flatten(3)
        empty = self.values.new_zeros(n, count, channels, height * width)
        return Dense(empty.scatter_add(3, places, found).view(n, count, *self.shape))

    def detached(self) -> Patches:
        return self._with(self.values.detach())

    def span(self, span: Interval) -> Interval:
        """The intervals of the elements that have coefficients, ``[n, S, C, h, w]``."""
        return Interval(self.shown(span.low), self.shown(span.high), span.outward)

    def _with(self, values: Tensor) -> Patches:
        return Patches(values, self.top, self.left, self.shape)

    def shown(self, values: Tensor) -> Tensor:
        """``[n, S, C, h, w]``: what the rectangles show of ``[n, C, H, W]``, 0 outside the image; what has that shape
        already, as it is."""
        if values.dim() == self.values.dim():
            return values
        h, w = self.values.shape[3:]
        above, before = max(0, -int(self.top.min())), max(0, -int(self.left.min()))
        below = max(0, int(self.top.max()) + h - self.shape[1])
        after = max(0, int(self.left.max()) + w - self.shape[2])
        padded = functional.pad(values.expand(len(self.values), *self.shape), (before, after, above, below))
        # rows that look at the same place share what they see: cut out each place once, then copy whole cuts
        tops, row = torch.unique(self.top + above, return_inverse=True)
        lefts, column = torch.unique(self.left + before, return_inverse=True)
        cuts = padded.unfold(2, h, 1)[:, :, tops].unfold(3, w, 1)[:, :, :, lefts]
        table = cuts.permute(0, 2, 3, 1, 4, 5).reshape(-1, self.shape[0] * h * w)
        batch = torch.arange(len(self.values), device=values.device).unsqueeze(1)
        place = (batch * len(tops) + row) * len(lefts) + column
        return table.index_select(0, place.flatten()).view(*place.shape, self.shape[0], h, w)


Rows = Dense | Patches


def _settings(operator: Affine) -> list[list[int]] | None:
    """Stride, padding, dilation and groups of a convolution of images."""
    if isinstance(operator, Weighted) and isinstance(operator.map, Convolved) and operator.map.axes == 2:
        return operator.map.per_axis
    return None


def _factor(operator: Affine, span: Interval, shape: Sequence[int]) -> Tensor | None:
    """``[1, ...]``: what each element is multiplied with, where an operator does nothing else but shift it."""
    if not isinstance(operator, Scaled) or span.low.shape[1:] != torch.Size(shape):
        return None
    factor = span.low.new_ones(()) if operator.factor is None else operator.factor().to(span.low)
    return (1 / factor if operator.divides else factor).broadcast_to(1, *shape)


def _spread(
    values: Tensor, kernel: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """A transposed convolution of many small images, which torch's own takes one by one in float64."""
    if groups != 1:
        return functional.conv_transpose2d(values, kernel, None, tuple(stride), 0, 0, groups, tuple(dilation))
    (count, _, h, w), (channels, rows, columns) = values.shape, kernel.shape[1:]
    flat = values.permute(0, 2, 3, 1).reshape(count * h * w, -1)
    if h == w == 1 and dilation[0] == dilation[1] == 1:
        return (flat @ kernel.flatten(1)).view(count, channels, rows, columns)
    (s, t), (d, e) = stride, dilation
    # channels last, so that what is added at once lies together
    out = values.new_zeros(
        count, (h - 1) * s + d * (rows - 1) + 1, (w - 1) * t + e * (columns - 1) + 1, channels
    )
    for i in range(rows):
        for j in range(columns):
            down, right = i * d, j * e
            part = (flat @ kernel[:, :, i, j]).view(count, h, w, channels)
            out[:, down : down + (h - 1) * s + 1 : s, right : right + (w - 1) * t + 1 : t] += part
    return out.permute(0, 3, 1, 2)


def _dotted(row: Tensor, values: Tensor) -> Tensor:
    if values.dim() == row.dim():
        return (row * values).flatten(2).sum(2)
    if len(values) != len(row):
        values = values.expand(len(row), *values.shape[1:])
    size = math.prod(values.shape[1:])
    return torch.bmm(row.reshape(*row.shape[:2], size), values.reshape(len(values), size, 1)).squeeze(2)


def _norm(values: Tensor, order: float) -> Tensor:
    """Of the largest coefficient, and of the others as shares of it: squares of small numbers would vanish."""
    flat = values.flatten(2)
    largest = flat.detach().abs().amax(2, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    found: Tensor = torch.linalg.vector_norm(flat / largest, order, 2) * largest.squeeze(2)
    return found


def _by_row(values: Tensor, row: Tensor) -> Tensor:
    return values if values.dim() == row.dim() else values.unsqueeze(1)
