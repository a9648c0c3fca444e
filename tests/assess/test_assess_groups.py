"""Accuracy by group: counts add up, the worst comes first, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hardpoint as hp
from hardpoint.assess.groups import by_group
from hardpoint.core.errors import DataError
from hardpoint.evidence.assessment import Outcomes, Status
from hardpoint.evidence.rate import Rate


class Measurement:
    def __init__(self, label: list[int], status: list[int]) -> None:
        n = len(label)
        whole = np.zeros(n, dtype=np.int64)
        self.outcomes = Outcomes(
            index=np.arange(n),
            label=np.array(label),
            clean_prediction=whole,
            final_prediction=whole,
            status=np.array(status, dtype=np.uint8),
            stage=whole.astype(np.int16),
            distance=whole.astype(float),
            forward=whole,
            backward=whole,
            queries=whole,
        )


ERROR, BROKEN, STANDING, UNFINISHED = (
    Status.CLEAN_ERROR,
    Status.BROKEN,
    Status.STANDING,
    Status.UNFINISHED,
)


def test_counts_by_hand():
    found = Measurement([0, 0, 0, 1, 1], [STANDING, BROKEN, UNFINISHED, ERROR, BROKEN])
    table = by_group(found, {"sex": ["f", "m", "f", "m", "f"]})
    assert [(row.by, row.group) for row in table.rows] == [
        ("class", "1"),
        ("sex", "m"),
        ("class", "0"),
        ("sex", "f"),
    ]
    assert table.worst.clean == Rate.of(1, 2)
    assert table.of("class")[1].clean == Rate.of(3, 3)
    assert table.of("class")[1].robust == Rate.of(2, 3)
    assert table.gap("class") == pytest.approx(2 / 3)
    lines = str(table).splitlines()
    assert lines[0].split() == ["by", "group", "n", "clean", "robust"]
    assert lines[1].split()[:3] == ["class", "1", "2"]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from("abc")), min_size=1, max_size=60)
)
def test_groups_add_up_to_the_whole(rows):
    label, status, group = zip(*rows, strict=True)
    table = by_group(Measurement(list(label), list(status)), {"letter": group})
    outcomes = Measurement(list(label), list(status)).outcomes
    for by in ("class", "letter"):
        parts = table.of(by)
        assert sum(row.robust.n for row in parts) == len(rows)
        assert sum(row.robust.count for row in parts) == int((~outcomes.broken).sum())
        assert sum(row.clean.count for row in parts) == int((outcomes.status != ERROR).sum())
        assert all(row.robust.value <= row.clean.value for row in parts)
    rates = [row.robust.value for row in table.rows]
    assert rates == sorted(rates)


def test_of_an_assessment(no_panel):
    x = torch.rand(80, 2, generator=torch.Generator().manual_seed(0))
    y = x.argmax(1)
    data = hp.data.MemoryDataset(x, y, classes=("left", "right"))
    near = (x[:, 0] - x[:, 1]).abs() < 0.4
    result = hp.assess(torch.nn.Identity().eval(), data, threat=hp.Linf(0.2), progress=False)
    table = by_group(result, {"near": near, "all": ["one"] * 80})
    assert {row.group for row in table.of("class")} == {"left", "right"}
    assert table.of("all")[0].robust == result.robust_accuracy
    # a lead of less than twice the budget falls, and no other
    assert {row.group: row.robust.value for row in table.of("near")} == {"True": 0.0, "False": 1.0}
    assert table.worst.group == "True"


def test_what_does_not_fit_is_refused():
    found = Measurement([0, 1], [STANDING, BROKEN])
    with pytest.raises(DataError, match="3 entries for 2"):
        by_group(found, {"age": [1, 2, 3]})
    with pytest.raises(DataError, match="another name"):
        by_group(found, {"class": [1, 2]})
    with pytest.raises(DataError, match="there is: class"):
        by_group(found).of("age")
