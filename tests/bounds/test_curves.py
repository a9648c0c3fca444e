"""Lines of elementwise functions enclose them, whatever the slopes, in exact arithmetic."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from hardpoint.bounds.operators.activation import Leaky
from hardpoint.bounds.operators.curves import ELU, GELU, SIGMOID, SILU, SOFTPLUS, TANH, Smooth
from hardpoint.bounds.operators.operator import DOUBLE, Curved, Interval, Slopes

mpmath.mp.prec = 200


def _logistic(z):
    return 1 / (1 + mpmath.exp(-z))


CURVES = {
    "sigmoid": (SIGMOID, _logistic),
    "tanh": (TANH, mpmath.tanh),
    "gelu": (GELU, lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2),
    "silu": (SILU, lambda z: z * _logistic(z)),
    "softplus": (SOFTPLUS, lambda z: z if z > 20 else mpmath.log1p(mpmath.exp(z))),
    "elu": (ELU, lambda z: mpmath.expm1(z) if z < 0 else z),
    "relu": (Leaky(), lambda z: max(z, mpmath.mpf(0))),
    "leaky .01": (Leaky(0.01), lambda z: z if z > 0 else z * mpmath.mpf(0.01)),
    "leaky .2": (Leaky(0.2), lambda z: z if z > 0 else z * mpmath.mpf(0.2)),
}
ODD = (0.0, -0.0, 5e-324, -5e-324, 1e-300, -1e-9, 1e-9, math.sqrt(2), -math.sqrt(2), 2.399357280515468, 20.0,
       20.000000001, 37.0, -38.0, -745.0, 1e4, -1e4, 1e15, -1e15)  # fmt: skip
ends = st.one_of(st.sampled_from(ODD), st.floats(-6, 6), st.floats(-1e3, 1e3), st.floats(-1e-6, 1e-6))
slope = st.one_of(
    st.sampled_from(
        (0.0, 1.0, 0.25, 0.25 + 1e-16, 0.25 - 1e-12, 1e-9, 9.9e-10, 1e-300, -0.1, 1.13, 0.01, 0.2)
    ),
    st.floats(-2, 3),
    st.floats(0, 1),
)


def places(low: float, high: float) -> list[float]:
    """Ends, points where curves turn, a grid, and a few drawn points of an interval."""
    found = [low, high, *(each for each in ODD if low < each < high)]
    found += [low + (high - low) * i / 12 for i in range(1, 12)]
    found += [each / 4 for each in range(-24, 25) if low < each / 4 < high]
    return [min(max(each, low), high) for each in found]


def one(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def encloses(curve: Curved, truth, span: Interval, slopes: Slopes) -> None:
    lines = curve.between(span, slopes)
    low_slope, high_slope, high_shift = (
        mpmath.mpf(float(part)) for part in (lines.low_slope, lines.high_slope, lines.high_shift)
    )
    low_shift = mpmath.mpf(0.0 if lines.low_shift is None else float(lines.low_shift))
    for place in places(float(span.low), float(span.high)):
        z = mpmath.mpf(place)
        assert low_slope * z + low_shift <= truth(z) <= high_slope * z + high_shift, place


@pytest.mark.parametrize("name", CURVES)
@settings(max_examples=30)
@given(ends, ends, slope, slope)
@example(-5.0, -1.0, 0.0, 0.0)
@example(19.0, 20.000000001, 1.0, 1.0)
def test_lines_enclose_the_function_whatever_the_slopes(name, a, b, below, above):
    curve, truth = CURVES[name]
    span = Interval(one(min(a, b)), one(max(a, b)), DOUBLE)
    encloses(curve, truth, span, curve.slopes(span))
    encloses(curve, truth, span, curve.within(span, Slopes(one(below), one(above))))
    if isinstance(curve, Smooth):
        encloses(curve, truth, span, Slopes(one(below), one(above)))


@pytest.mark.parametrize("name", CURVES)
@settings(max_examples=30)
@given(ends, ends)
@example(19.0, 20.000000001)
@example(-2.0, 1.0)
def test_intervals_hold_every_value_and_steepness_every_quotient(name, a, b):
    curve, truth = CURVES[name]
    low, high = min(a, b), max(a, b)
    span = Interval(one(low), one(high), DOUBLE)
    out, (least, most) = curve.interval(span), curve.steepness(span)
    points = [each for each in sorted({*places(low, high)}) if each in (low, high) or abs(each) > 1e-12]
    values = [truth(mpmath.mpf(each)) for each in points]
    assert mpmath.mpf(float(out.low)) <= min(values)
    assert max(values) <= mpmath.mpf(float(out.high))
    step_down = mpmath.mpf("2.1e-9") if name == "softplus" else 0  # where torch leaves the curve at 20
    for first, second, f, g in zip(points, points[1:], values, values[1:], strict=False):
        run = mpmath.mpf(second) - mpmath.mpf(first)
        if run < 1e-13:
            continue
        assert float(least) * run - step_down <= g - f <= float(most) * run + step_down


@pytest.mark.parametrize("name", CURVES)
def test_lines_of_each_row_are_those_of_the_slopes_alone(name):
    curve, _ = CURVES[name]
    low = torch.tensor([[-3.0, -1.0, 0.5, -2.0, 0.0]], dtype=torch.float64)
    span = Interval(low, low + 2, DOUBLE)
    slopes = torch.linspace(-0.2, 1.2, 7, dtype=torch.float64).view(1, 7, 1).expand(1, 7, 5)
    together = curve.between(span, curve.within(span, Slopes(slopes, slopes)))
    for row in range(7):
        alone = curve.between(span, curve.within(span, Slopes(slopes[:, row], slopes[:, row])))
        for part in ("low_slope", "low_shift", "high_slope", "high_shift"):
            first, second = getattr(together, part), getattr(alone, part)
            if first is not None:
                at = first[:, row] if first.dim() == 3 else first
                torch.testing.assert_close(at, second, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", CURVES)
def test_the_functions_are_torchs_and_derivatives_are_theirs(name):
    curve, truth = CURVES[name]
    z = torch.linspace(-7, 7, 101, dtype=torch.float64).requires_grad_(True)
    value = curve.value(z)
    for at, found in zip(z.tolist(), value.tolist(), strict=True):
        assert found == pytest.approx(float(truth(mpmath.mpf(at))), abs=1e-13)
    if isinstance(curve, Smooth):
        (found,) = torch.autograd.grad(value.sum(), z)
        torch.testing.assert_close(found, curve.derivative(z.detach()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, (curve, _) in CURVES.items() if isinstance(curve, Smooth)])
def test_lines_touch_the_curve(name):
    """As tight as a line of its slope can be: somewhere it is at the function."""
    curve, _ = CURVES[name]
    low = torch.tensor([[-4.0, -1.5, -0.3, 0.2, -4.0]], dtype=torch.float64)
    high = torch.tensor([[-1.0, 2.5, 0.4, 3.0, 4.0]], dtype=torch.float64)
    span = Interval(low, high)
    lines = curve.between(span, curve.slopes(span))
    grid = low + (high - low) * torch.linspace(0, 1, 20_001, dtype=torch.float64).unsqueeze(1)
    f = curve.function(grid)
    assert lines.low_shift is not None
    assert float((f - lines.low_slope * grid - lines.low_shift).amin(0).max()) < 1e-6
    assert float((lines.high_slope * grid + lines.high_shift - f).amin(0).max()) < 1e-6


def test_what_is_not_a_number_gives_no_bound():
    for name, (curve, _) in CURVES.items():
        span = Interval(one(math.nan), one(math.nan), DOUBLE)
        lines = curve.between(span, curve.slopes(span))
        assert math.isnan(float(lines.high_shift)), name
        assert math.isnan(float(curve.interval(span).high)), name


def test_functions_in_float32_are_within_the_roundings_allowed():
    from hardpoint.bounds.operators.operator import SINGLE

    named = {SIGMOID: torch.sigmoid, TANH: torch.tanh, GELU: functional.gelu, SILU: functional.silu,
             SOFTPLUS: functional.softplus, ELU: functional.elu}  # fmt: skip
    z = torch.logspace(-30, 3, 20_003)
    for curve, function in named.items():
        for part in (z, -z, z[:5], -z[9_000:9_003]):  # vector code and what is left over
            error = (function(part).double() - function(part.double())).abs()
            size = part.double().abs() + function(part.double()).abs()
            assert bool((error <= size * SINGLE.gamma(curve.roundings) + SINGLE.least).all())
