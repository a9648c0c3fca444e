"""What the transforms share: checks of settings and inputs, images as they like them, borders, soft steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, DataError


def whole_number(kind: str, word: str, value: int, least: int, most: int | None = None) -> None:
    """Raise ``ConfigError`` where ``value`` is not a whole number from ``least`` to ``most``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{kind} {word} is {value!r}", f"give a whole number {limits}")


def odd_number(kind: str, word: str, value: int) -> None:
    """Raise ``ConfigError`` where ``value`` is not an odd whole number of 1 or more."""
    whole_number(kind, word, value, 1)
    if value % 2 == 0:
        raise ConfigError(f"{kind} {word} is {value}", "give an odd number, so that it has a middle")


def positive(kind: str, word: str, value: float, most: float = math.inf) -> float:
    """``value`` as a finite float; raises ``ConfigError`` where it is no number, 0 or less, or above ``most``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (0 < number <= most and math.isfinite(number)):
        limit = "" if math.isinf(most) else f" and at most {most:g}"
        raise ConfigError(f"{kind} {word} is {value!r}", f"give a number above 0{limit}")
    return number


def value_range(kind: str, low: float, high: float, bounded: bool = True) -> None:
    """Raise ``ConfigError`` where ``low < high`` does not hold, or an end is infinite though it must be ``bounded``."""
    try:
        sound = low < high and (not bounded or math.isfinite(high - low))
    except TypeError:
        sound = False
    if not sound:
        raise ConfigError(
            f"{kind} has the value range [{low!r}, {high!r}]", "give two numbers low < high, such as 0 and 1"
        )


def floats(kind: str, x: Tensor) -> None:
    """Raise ``DataError`` where ``x`` is not a batch ``[n, ...]`` of floating-point numbers."""
    if not x.is_floating_point() or x.dim() < 2:
        raise DataError(
            f"{kind} was given {x.dtype} of shape {tuple(x.shape)}",
            "give a batch of floating-point inputs [n, ...]",
        )


def as_images(kind: str, x: Tensor) -> Tensor:
    """``x`` as ``[n, channels, height, width]``, where it is that or ``[n, height, width]``; else ``DataError``."""
    if x.dim() not in (3, 4) or not x.is_floating_point() or 0 in x.shape[1:]:
        raise DataError(
            f"{kind} is for images, these inputs are {x.dtype} of shape {tuple(x.shape)}",
            "give floating-point images [n, channels, height, width] or [n, height, width]",
        )
    return x.unsqueeze(1) if x.dim() == 3 else x


def as_vectors(kind: str, x: Tensor) -> None:
    """Raise ``DataError`` where ``x`` is not ``[n, features]`` of floats."""
    if x.dim() != 2 or not x.is_floating_point() or x.shape[1] == 0:
        raise DataError(
            f"{kind} is for tables, these inputs are {x.dtype} of shape {tuple(x.shape)}",
            "give floating-point rows [n, features]",
        )


def of_shape(kind: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ``DataError`` where one input of ``x`` is not of the ``shape`` that a stage was fitted on."""
    floats(kind, x)
    if tuple(x.shape[1:]) != shape:
        raise DataError(
            f"{kind} was fitted on inputs of shape {shape}, these are of shape {tuple(x.shape[1:])}",
            "fit it on inputs like these",
        )


def fit_data(kind: str, x: Tensor, least: int = 2) -> Tensor:
    """``x`` without its gradient; ``DataError``, naming the first bad row, where a stage cannot be fitted on it."""
    floats(kind, x)
    if len(x) < least or 0 in x.shape:
        raise DataError(
            f"{kind} cannot be fitted on inputs of shape {tuple(x.shape)}", f"give {least} rows or more"
        )
    bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero()
    if len(bad):
        raise DataError(
            f"row {int(bad[0])} of what {kind} is fitted on holds NaN or infinity", "drop or impute it"
        )
    return x.detach()


def varying_axes(x: Tensor) -> tuple[int, ...]:
    """The axes that statistics are taken over: rows, and for images ``[n, (c,) h, w]`` the pixels too."""
    return (0,) if x.dim() == 2 else (0, *range(max(1, x.dim() - 2), x.dim()))


def mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per feature or channel, broadcasting against one input; 1 where nothing varies."""
    axes = varying_axes(x)
    wide = x.double()
    mean, deviation = wide.mean(axes, keepdim=True), wide.std(axes, correction=0, keepdim=True)
    lowest, highest = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    deviation = torch.where(lowest < highest, deviation, 1.0)  # rounding makes constants vary a little
    mean = torch.where(lowest < highest, mean, lowest.double())
    return mean[0].to(x.dtype), deviation[0].to(x.dtype)


def mirrored(images: Tensor, before: int, after: int) -> Tensor:
    """``[n, c, h, w]`` continued over all its edges as a mirror shows it, the outermost pixel first.

    Unlike torch's own padding it takes any width, and ``before`` (above, left) may differ from ``after``.
    """
    for axis in (2, 3):
        side = images.shape[axis]
        place = torch.arange(-before, side + after, device=images.device) % (2 * side)
        images = images.index_select(axis, torch.minimum(place, 2 * side - 1 - place))
    return images


def kept_within(made: Tensor, x: Tensor) -> Tensor:
    """``made`` with what lies outside the range of its row of ``x`` set to the range's end.

    For what leaves it by rounding, or by a solver that ends early: the gradient stays that of ``made``.
    """
    flat = x.detach().flatten(1)
    shape = (-1, *([1] * (made.dim() - 1)))
    low, high = flat.amin(1).view(shape), flat.amax(1).view(shape)
    moved = made - made.detach()  # zero, with the gradient
    return torch.where(made < low, low + moved, torch.where(made > high, high + moved, made))


def soft_step_slope(x: Tensor, steps: Tensor, widths: Tensor | float) -> Tensor:
    """The slope at ``x`` of a step from 0 to 1 at each of ``steps``, smoothed by a logistic of these ``widths``."""
    s = torch.sigmoid((x - steps) / widths)
    slope: Tensor = s * (1 - s) / widths
    return slope
