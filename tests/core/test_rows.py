"""Selecting, joining and replacing rows of nested dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.rows import cat_rows, chunks, per_row, put_rows, take_rows
from hardpoint.threats import L0, L1, L2, Linf


@dataclass(frozen=True)
class Inner:
    HAS_ROWS: ClassVar[bool] = True
    value: Tensor
    box: Box


@dataclass(frozen=True)
class Outer:
    HAS_ROWS: ClassVar[bool] = True
    inner: Inner
    flag: Tensor
    setting: float
    shared: Box


BOX = Box(torch.zeros(3), torch.ones(3))


def outer(values: list[float]) -> Outer:
    base = torch.tensor(values).unsqueeze(1) + torch.arange(3) / 10
    return Outer(Inner(base, BOX), torch.tensor(values) > 1, 0.5, BOX)


def same(a: Outer, b: Outer) -> bool:
    return torch.equal(a.inner.value, b.inner.value) and torch.equal(a.flag, b.flag)


@given(st.lists(st.floats(0, 3, width=32), min_size=1, max_size=9), st.data())
def test_take_cat_put_agree_with_indexing(values, data):
    rows = outer(values)
    keep = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=9))
    taken = take_rows(rows, torch.tensor(keep, dtype=torch.int64))
    assert same(taken, outer([values[k] for k in keep])) if keep else len(taken.flag) == 0
    assert same(cat_rows(rows, taken), outer(values + [values[k] for k in keep]))
    where = data.draw(st.lists(st.integers(0, len(values) - 1), unique=True, max_size=len(values)))
    new = [v + 10 for v in values[: len(where)]]
    expected = list(values)
    for place, value in zip(where, new, strict=True):
        expected[place] = value
    if where:
        assert same(put_rows(rows, torch.tensor(where), outer(new)), outer(expected))
    assert same(rows, outer(values))  # the source is never written to


def test_settings_and_boxes_are_shared_not_selected():
    rows = take_rows(outer([1.0, 2.0]), torch.tensor([1]))
    assert rows.setting == 0.5
    assert (
        rows.shared is BOX
    )  # a box of per-coordinate bounds has no rows, whatever the length of its tensors
    assert rows.inner.box is BOX


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5), L1(0.7), L0(2)])
def test_regions_can_be_cut_and_joined(ball):
    x = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0))
    z = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(1))
    region = ball.around(x, Box(0, 1))
    part = take_rows(region, torch.tensor([2, 0]))
    assert torch.equal(part.project(z[[2, 0]]), region.project(z)[[2, 0]])
    joined = cat_rows(part, take_rows(region, torch.tensor([1])))
    assert torch.equal(joined.project(z[[2, 0, 1]]), region.project(z)[[2, 0, 1]])


def test_per_row_and_chunks():
    x = torch.zeros(5, 2, 3)
    assert per_row(torch.arange(5), x).shape == (5, 1, 1)
    parts = chunks(torch.arange(10), 4)
    assert [len(p) for p in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), torch.arange(10))
    assert chunks(torch.arange(0), 4) == []
