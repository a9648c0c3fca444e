"""Boxes, access words and errors."""

from __future__ import annotations

import pickle

import pytest
import torch

from hardpoint.core import errors
from hardpoint.core.access import Access
from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import DataError, HardpointError, MissingExtra, ThreatError


def test_the_access_ladder():
    assert Access.LABELS < Access.SCORES < Access.GRADIENTS
    assert [Access.parse(a.word) for a in Access] == list(Access)
    assert Access.parse("Scores") is Access.SCORES
    with pytest.raises(ThreatError, match="labels, scores, gradients"):
        Access.parse("logits")


@pytest.mark.parametrize(
    "ends", [(1.0, 0.0), (0.5, 0.5), (float("nan"), 1.0), (torch.ones(2), torch.zeros(2))]
)
def test_an_empty_box_is_refused(ends):
    with pytest.raises(DataError, match="low < high"):
        Box(*ends)


def test_a_box_clamps_and_contains_exactly():
    box = Box(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 1.0]))
    x = torch.tensor([[0.5, -1.5], [1.0, 1.0], [float("nan"), 0.0], [1.0 + 1e-7, 0.0]])
    assert box.contains(x).tolist() == [False, True, False, False]
    assert box.contains(box.clamp(x))[[0, 1, 3]].all()
    assert box.is_bounded
    assert not UNBOUNDED.is_bounded
    assert box.describe() == [-1.0, 1.0]


def test_a_box_keeps_the_dtype_of_what_it_clamps():
    assert Box(0, 1).clamp(torch.full((1, 2), 2.0, dtype=torch.float64)).dtype == torch.float64
    assert Box(0.1, 1).clamp(torch.zeros(1, 2)).dtype == torch.float32


def test_every_error_names_the_cure_and_survives_a_process_border():
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, HardpointError) and kind is not MissingExtra:
            error = kind("row 3 is NaN", "drop it")
            assert str(error) == "row 3 is NaN; drop it"
            again = pickle.loads(pickle.dumps(error))
            assert (type(again), again.what, again.cure) == (kind, "row 3 is NaN", "drop it")
    extra = MissingExtra("onnx", "reading ONNX models")
    assert str(pickle.loads(pickle.dumps(extra))) == str(extra)
