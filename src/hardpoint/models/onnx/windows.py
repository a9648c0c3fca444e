"""Operators that slide a window, and padding: convolution, pooling, nearest-neighbour resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def pads_of(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis, ``auto_pad`` resolved."""
    axes = len(kernel)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, k, s, d in zip(x.shape[-axes:], kernel, strides, dilations, strict=True):
            total = max((math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size, 0)
            small, large = total // 2, total - total // 2
            before.append(large if auto_pad == "SAME_LOWER" else small)
            after.append(small if auto_pad == "SAME_LOWER" else large)
        return before, after
    if auto_pad == "VALID" or pads is None:
        return [0] * axes, [0] * axes
    return list(pads[:axes]), list(pads[axes:])


def pad_spatial(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """``x`` with its last axes padded (or cropped, where negative)."""
    if not any((*before, *after)):
        return x
    widths = [w for pair in zip(reversed(before), reversed(after), strict=True) for w in pair]
    return F.pad(x, widths, value=value)


def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
    kernel_shape: Sequence[int] | None = None,
) -> Tensor:
    """Convolution over 1, 2 or 3 axes."""
    kernel = tuple(w.shape[2:])
    axes = len(kernel)
    stride, dilation = tuple(strides or [1] * axes), tuple(dilations or [1] * axes)
    before, after = pads_of(x, kernel, stride, dilation, pads, auto_pad)
    padding = tuple(before)
    if before != after:
        x, padding = pad_spatial(x, before, after), (0,) * axes
    return _CONV[axes](x, w, b, stride, padding, dilation, group)


def _window_geometry(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
    ceil_mode: int,
) -> list[int]:
    """The padding after each axis with which every window, and no other, fits exactly."""
    ends = []
    for size, k, s, d, pad_before, pad_after in zip(
        x.shape[-len(kernel) :], kernel, strides, dilations, before, after, strict=True
    ):
        reach = d * (k - 1) + 1
        steps = (size + pad_before + pad_after - reach) / s
        count = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
        if ceil_mode and (count - 1) * s >= size + pad_before:
            count -= 1  # a window may not start in the padding after the axis
        ends.append((count - 1) * s + reach - size - pad_before)
    return ends


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,
) -> Tensor:
    """Largest element of each window; padding never wins."""
    axes = len(kernel_shape)
    kernel, stride = tuple(kernel_shape), tuple(strides or [1] * axes)
    dilation = tuple(dilations or [1] * axes)
    before, after = pads_of(x, kernel, stride, dilation, pads, auto_pad)
    ends = _window_geometry(x, kernel, stride, dilation, before, after, ceil_mode)
    return _MAX_POOL[axes](pad_spatial(x, before, ends, -math.inf), kernel, stride, 0, dilation)


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    """Mean of each window, over real elements or over padding too (``count_include_pad``)."""
    axes = len(kernel_shape)
    kernel, stride = tuple(kernel_shape), tuple(strides or [1] * axes)
    ones = (1,) * axes
    if dilations is not None and tuple(dilations) != ones:
        raise ValueError("AveragePool with dilations is not known")
    before, after = pads_of(x, kernel, stride, ones, pads, auto_pad)
    ends = _window_geometry(x, kernel, stride, ones, before, after, ceil_mode)
    means: Tensor = _AVG_POOL[axes](pad_spatial(x, before, ends), kernel, stride)
    if not any((*before, *ends)):
        return means
    # The share of each window that counts: real elements, and padding where it is included.
    counted = torch.ones((1, 1, *x.shape[-axes:]), dtype=x.dtype, device=x.device)
    extra_ends = ends
    if count_include_pad:
        counted = pad_spatial(counted, before, after, 1.0)
        extra_ends = [end - pad for end, pad in zip(ends, after, strict=True)]
    counted = pad_spatial(counted, [0] * axes if count_include_pad else before, extra_ends)
    return means / _AVG_POOL[axes](counted, kernel, stride)


def pad(
    x: Tensor,
    pads: Any,
    constant_value: Any = None,
    axes: Any = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """``x`` with elements added before and after each axis (negative: removed)."""
    widths = [int(w) for w in pads]
    chosen = [int(a) % x.dim() for a in axes] if axes is not None else list(range(x.dim()))
    before, after = widths[: len(chosen)], widths[len(chosen) :]
    if mode == "constant":
        starts, ends = [0] * x.dim(), [0] * x.dim()
        for axis, b, e in zip(chosen, before, after, strict=True):
            starts[axis], ends[axis] = b, e
        return pad_spatial(x, starts, ends, 0.0 if constant_value is None else float(constant_value))
    for axis, b, e in zip(chosen, before, after, strict=True):
        if not b and not e:
            continue
        size = x.shape[axis]
        index = torch.arange(-b, size + e, device=x.device)
        if mode == "edge":
            index = index.clamp(0, size - 1)
        elif mode == "wrap":
            index = index % size
        elif mode == "reflect":
            period = max(2 * (size - 1), 1)
            index = index % period
            index = torch.minimum(index, period - index) if size > 1 else index * 0
        else:
            raise ValueError(f"Pad mode {mode!r} is not known")
        x = x.index_select(axis, index)
    return x


def resize(
    x: Tensor,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    antialias: int = 0,
) -> Tensor:
    """Nearest-neighbour resizing of any axes; other modes are not known."""
    if mode != "nearest":
        raise ValueError(f"Resize mode {mode!r} is not known")
    given = [float(s) for s in scales] if scales is not None else []
    wanted = [int(s) for s in sizes] if sizes is not None else []
    for axis, old in enumerate(x.shape):
        new = wanted[axis] if wanted else math.floor(old * given[axis])
        scale = new / old if wanted else given[axis]
        if scale == 1.0:
            continue
        place = torch.arange(new, dtype=torch.float64)
        if coordinate_transformation_mode == "asymmetric":
            place = place / scale
        elif coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel"):
            one = coordinate_transformation_mode == "pytorch_half_pixel" and new == 1
            place = place * 0 if one else (place + 0.5) / scale - 0.5
        elif coordinate_transformation_mode == "align_corners":
            place = place * ((old - 1) / max(new - 1, 1))
        else:
            raise ValueError(f"Resize by {coordinate_transformation_mode!r} is not known")
        index = _ROUND[nearest_mode](place).long().clamp(0, old - 1)
        x = x.index_select(axis, index.to(x.device))
    return x


_ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
}

WINDOWS: dict[str, Callable[..., Any]] = {
    "Conv": conv,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True),
    "Pad": pad,
    "Resize": resize,
}
