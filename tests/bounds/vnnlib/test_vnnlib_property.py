"""Whether a point shows that a property is broken, to the last bit."""

from __future__ import annotations

import math

import pytest
import torch

from hardpoint.bounds.vnnlib import Case, Property, holds, parse_vnnlib, witness_text
from hardpoint.core.errors import DataError


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tenth() -> Property:
    return parse_vnnlib(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
        "(assert (<= X_0 0.1))(assert (>= X_0 0))(assert (<= (+ Y_0 Y_1) 0.3))"
    )


def test_the_ends_of_a_box_are_the_nearest_floats():
    y = f64(0, 0)
    assert holds(tenth(), f64(0.1), y)
    assert not holds(tenth(), f64(math.nextafter(0.1, 1)), y)
    assert not holds(tenth(), torch.tensor([0.1]), y)  # as float32 it is above
    assert not holds(tenth(), f64(-5e-324), y)


def test_rows_are_summed_exactly():
    x = f64(0.05)
    assert f64(0.1) + f64(0.2) > 0.3  # in float64
    assert not holds(tenth(), x, f64(0.1, 0.2))
    assert holds(tenth(), x, f64(0.1, math.nextafter(math.nextafter(0.2, 0), 0)))
    assert not holds(tenth(), x, f64(1e300, math.nextafter(-1e300, 0)))  # cancels to a huge number
    assert holds(tenth(), x, f64(1e300, -1e300))


def test_one_case_is_enough_and_all_its_rows_are_needed():
    unit = f64(1)
    case = Case(-unit, unit, torch.eye(2, dtype=torch.float64), f64(0, 0))
    said = Property(1, 2, (case, Case(unit, 2 * unit, f64(1, 1).view(1, 2), f64(-9))))
    assert holds(said, f64(0), f64(-1, 0))
    assert not holds(said, f64(0), f64(-1, 0.5))
    assert holds(said, f64(1), f64(-1, 0.5))
    assert not holds(said, f64(1.5), f64(9, 0.5))
    assert not holds(Property(1, 2, ()), f64(0), f64(0, 0))


def test_points_that_are_none_are_refused():
    for x, y in [
        (f64(math.nan), f64(0, 0)),
        (f64(0), f64(0, math.inf)),
        (f64(0, 0), f64(0, 0)),
        (f64(0), f64(0)),
        (torch.tensor([0]), f64(0, 0)),
    ]:
        with pytest.raises(DataError):
            holds(tenth(), x, y)


def test_cases_that_make_no_sense_are_refused():
    low, high, rows, offset = f64(0, 0), f64(1, 1), f64(1, 2, 3).view(1, 3), f64(0)
    for parts in [
        (low, f64(1), rows, offset),
        (low, high, f64(1, 2, 3), offset),
        (low, high, rows, f64(0, 0)),
        (high, low, rows, offset),
        (low, high * math.inf, rows, offset),
        (low, high, rows * math.nan, offset),
        (low.float(), high, rows, offset),
    ]:
        with pytest.raises(DataError):
            Case(*parts)
    for inputs, outputs in [(3, 3), (2, 2)]:
        with pytest.raises(DataError, match="over 2 inputs and 3 outputs"):
            Property(inputs, outputs, (Case(low, high, rows, offset),))
    with pytest.raises(DataError, match="without cases"):
        Property(2, 3, ()).hull()


def test_a_witness_reads_back_as_it_was():
    x, y = torch.tensor([[0.1, 1e-40]]), f64(-1 / 3)
    written = witness_text(x, y)
    assert written.startswith("((X_0 0.10000000149011612)\n (X_1 ")
    assert written.endswith(")\n (Y_0 -0.3333333333333333))")
    numbers = [float(part.split(" ")[1]) for part in written.strip("()").replace(")\n (", "\n").split("\n")]
    assert torch.equal(f64(*numbers), torch.cat([x[0].double(), y]))
