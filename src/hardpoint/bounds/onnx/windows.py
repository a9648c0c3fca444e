"""How ONNX operators that slide a window, pad or move elements are read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from hardpoint.bounds.onnx.site import Site
from hardpoint.bounds.operators.call import Wire
from hardpoint.bounds.operators.moves import moved
from hardpoint.models.onnx.operators import OPERATORS
from hardpoint.models.onnx.windows import pads_of


def conv(site: Site) -> Wire:
    """Padding that is unequal on two sides becomes a step of its own."""
    weight, bias = site.constant(1), site.constant(2)
    if weight is None or weight().dim() not in (3, 4):
        raise site.unknown("it has other than one or two axes")
    axes = weight().dim() - 2
    site.attribute("kernel_shape")
    strides, dilations, before, after = _window(site, tuple(weight().shape[2:]))
    wire, padding = site.wire(), tuple(before)
    if before != after:
        wire, padding = _padded(site, wire, before, after), (0,) * axes
    convolve = functional.conv1d if axes == 1 else functional.conv2d
    return site.call(convolve, wire, weight, bias, strides, padding, dilations, site.attribute("group", 1))


def max_pool(site: Site) -> Wire:
    """Unequal padding is refused: it is lower than any number."""
    kernel = _kernel(site)
    strides, dilations, before, after = _window(site, kernel)
    ceil, _ = bool(site.attribute("ceil_mode", 0)), site.attribute("storage_order")
    if before != after:
        raise site.unknown("it pads its two sides unequally")
    return site.call(functional.max_pool2d, site.wire(), kernel, strides, tuple(before), dilations, ceil)


def average_pool(site: Site) -> Wire:
    """Unequal padding is known where it counts in the mean."""
    kernel = _kernel(site)
    strides, dilations, before, after = _window(site, kernel)
    ceil, counts = bool(site.attribute("ceil_mode", 0)), bool(site.attribute("count_include_pad", 0))
    if set(dilations) != {1}:
        raise site.unknown("it is dilated")
    wire, padding = site.wire(), tuple(before)
    if before != after:
        if ceil or not counts:
            raise site.unknown("it pads its two sides unequally")
        wire, padding = _padded(site, wire, before, after), (0,) * len(kernel)
    return site.call(functional.avg_pool2d, wire, kernel, strides, padding, ceil, counts)


def _kernel(site: Site) -> tuple[int, ...]:
    kernel = tuple(site.attribute("kernel_shape"))
    if len(kernel) != 2:
        raise site.unknown("it has other than two axes")
    return kernel


def _window(
    site: Site, kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], list[int], list[int]]:
    """Strides, dilations, and the padding before and after each axis."""
    ones = (1,) * len(kernel)
    strides, dilations = tuple(site.attribute("strides", ones)), tuple(site.attribute("dilations", ones))
    pads, automatic = site.attribute("pads"), site.attribute("auto_pad", "NOTSET")
    value = site.values[0]
    assert value is not None
    before, after = pads_of(value, kernel, strides, dilations, pads, automatic)
    return strides, dilations, before, after


def _padded(site: Site, wire: Wire, before: Sequence[int], after: Sequence[int], number: float = 0.0) -> Wire:
    """The last axes padded."""
    shape = list(site.size(wire))
    for axis, (start, end) in enumerate(zip(before, after, strict=True), len(shape) - len(before)):
        shape[axis] += start + end
    widths = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
    return site.call(functional.pad, wire, widths, "constant", number, shape=tuple(shape))


def pad(site: Site) -> Wire:
    """By a number, or by moves."""
    widths, axes, mode = site.attribute("pads"), site.attribute("axes"), site.attribute("mode", "constant")
    number = site.attribute("constant_value")
    if mode != "constant":
        return move(site)
    if not any(widths):
        return site.call("contiguous", site.wire())
    rank = len(site.size(site.wire())) + 1
    chosen = [axis % rank for axis in axes] if axes is not None else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(chosen):
        before[axis], after[axis] = widths[place], widths[place + len(chosen)]
    if before[0] or after[0]:
        raise site.unknown("it pads the batch")
    return _padded(site, site.wire(), before[1:], after[1:], 0.0 if number is None else number)


def move(site: Site) -> Wire:
    """The only value of ``moves``."""
    (wire,) = moves(site)
    return wire


def moves(site: Site) -> list[Wire]:
    """By what the importer's own operator makes of the numbers of the elements. An index that it takes is read now."""
    held = [site.constant(place) for place in range(1, len(site.inputs))]
    settings, attributes = [None if part is None else part().cpu() for part in held], site.attributes()
    made = []
    for place, shape in enumerate(site.shapes):

        def made_of(numbers: Tensor, place: int = place) -> Tensor:
            found = OPERATORS[site.node.op](numbers, *settings, **attributes)
            out: Tensor = found if isinstance(found, Tensor) else found[place]
            return out

        operator = moved(made_of, site.described(site.wire(), shape))
        made.append(site.step(operator, site.wire(), shape=shape))
    return made
