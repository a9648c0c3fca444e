"""One input without a gradient is looked at in plain numbers, and answered as in a batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hardpoint as hp
from hardpoint.defenses import calibrated
from hardpoint.defenses.alarm import Alarm, with_refusal
from hardpoint.defenses.detectors import Energy, Mahalanobis, Margin, NearestNeighbours
from hardpoint.defenses.detectors._groups import WORTHWHILE
from hardpoint.defenses.looking import look
from hardpoint.defenses.one import one_of
from hardpoint.defenses.seen import Seen
from small_models import labelled, mlp, rand, randn

TYPES = [torch.float32, torch.float64]
LAYER = "3"


def fitted(net: torch.nn.Module, dtype: torch.dtype) -> list[Any]:
    x = rand(WORTHWHILE, 8, seed=1, dtype=dtype)
    seen, y = look(net, x, (LAYER,)), labelled(net, x)
    return [
        Energy(),
        Energy(temperature=2.5),
        Mahalanobis.fit(seen, y, LAYER),
        Mahalanobis.fit(seen, y, LAYER, relative=True),
        NearestNeighbours.fit(seen, y, LAYER, k=4),
        Margin(),
    ]


def armed(dtype: torch.dtype) -> Any:
    net = mlp(dtype=dtype)
    return calibrated(
        hp.Defended(net), fitted(net, dtype), rand(2000, 8, seed=2, dtype=dtype), alpha=0.3, delta=0.2
    )


@pytest.mark.parametrize("dtype", TYPES)
def test_each_detector_scores_one_as_it_scores_many(dtype):
    net = mlp(dtype=dtype)
    seen = look(net, rand(30, 8, seed=3, dtype=dtype), (LAYER,))
    for detector in fitted(net, dtype)[:-1]:
        for row, score in enumerate(detector.score(seen).tolist()):
            features = {LAYER: seen.features[LAYER][row : row + 1]}
            one = one_of(Seen(seen.x[row : row + 1], seen.logits[row : row + 1], features))
            alone = detector.score_one(one)
            # a distance is the root of a difference of squares of size 1
            near = {"rel": 1e-4, "abs": 5e-5} if dtype is torch.float32 else {"rel": 1e-8, "abs": 1e-6}
            assert alone == pytest.approx(score, **near)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_answers_do_not_depend_on_the_batch(dtype, size):
    model, x = armed(dtype), rand(64, 8, seed=4, dtype=dtype) * 1.3 - 0.1
    whole = model.scores(x)
    slack = 1e-4 if dtype is torch.float32 else 1e-9
    parts = torch.cat([model.scores(part) for part in x.split(size)])
    assert parts.dtype == dtype
    assert torch.allclose(parts, whole, rtol=slack, atol=slack)
    refused = (whole[:, -1] > whole[:, :-1].amax(1)).double().mean()
    assert 0.05 < refused < 0.95
    assert torch.equal(torch.cat([model.predict(part) for part in x.split(size)]), model.predict(x))


def test_one_input_has_the_gradient_and_the_values_it_has_in_a_batch():
    model, x = armed(torch.float64), rand(20, 8, seed=5, dtype=torch.float64)
    many = x.clone().requires_grad_(True)
    (whole,) = torch.autograd.grad(model.module(many)[:, -1].sum(), many)
    for row, wanted in zip(x.split(1), whole, strict=True):
        one = row.clone().requires_grad_(True)
        scores = model.module(one)
        assert torch.allclose(scores.detach(), model.scores(row), atol=1e-9)
        (gradient,) = torch.autograd.grad(scores[:, -1].sum(), one)
        assert torch.allclose(gradient[0], wanted, atol=1e-7)
        assert bool(gradient.norm() > 0)


@dataclass(frozen=True)
class Says:
    """The first feature of the input."""

    name: str = "says"
    layers: tuple[str, ...] = ()

    def score(self, seen: Seen) -> Tensor:
        return seen.x[:, 0]

    def describe(self) -> dict[str, Any]:
        return {"kind": "says"}


EXCESSES = [0.0, -0.0, 1e-50, -1e-50, 1e-30, -1e-30, 1e-9, -1e-9, 1.0, -1.0, 1e9, -1e9, 1e300, -1e300, *map(float, ("inf", "-inf", "nan"))]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@given(
    st.lists(st.sampled_from(EXCESSES), min_size=1, max_size=3),
    st.sampled_from([0.0, 1e-20, 1.0, -1e4, 1e20]),
)
def test_an_odd_excess_is_answered_as_in_a_batch(dtype, excesses, top):
    @dataclass(frozen=True)
    class Fixed(Says):
        value: float = 0.0

        def score(self, seen: Seen) -> Tensor:
            return torch.full((len(seen),), self.value, dtype=torch.float64)

    alarms = [Alarm(Fixed(value=value), 0.0, classes=3) for value in excesses]
    logits = torch.tensor([[top - 1.0, top, top - 2.0]], dtype=dtype)
    one = with_refusal(Seen(logits, logits), alarms)
    two = with_refusal(Seen(logits.repeat(2, 1), logits.repeat(2, 1)), alarms)
    assert torch.allclose(one, two[:1], rtol=0, atol=0, equal_nan=True)
    if not any(value != value for value in excesses):
        assert bool(one[0, -1] > one[0, :-1].max()) == (max(excesses) > 0)


def test_half_precision_and_graphs_take_the_longer_way():
    logits = randn(1, 3)
    assert one_of(Seen(logits, logits)) is not None
    assert one_of(Seen(logits, logits.bfloat16())) is None
    assert one_of(Seen(logits, logits, {"f": logits.half()})) is None
    assert one_of(Seen(logits, logits.clone().requires_grad_(True))) is None
    assert one_of(Seen(randn(2, 3), randn(2, 3))) is None
    seen = Seen(logits, logits.bfloat16())
    scores = with_refusal(seen, [Alarm(Energy(), -1e3, classes=3)])
    assert scores.dtype == torch.bfloat16
    assert int(scores.argmax()) == 3


def test_a_detector_of_a_users_own_needs_only_to_score_batches():
    alarms = [Alarm(Says(), 0.5, classes=3), Alarm(Energy(), 1e3, classes=3)]
    for value, refused in ((0.4, False), (0.6, True)):
        seen = Seen(torch.tensor([[value]]), torch.zeros(1, 3))
        assert (int(with_refusal(seen, alarms).argmax()) == 3) == refused


def test_a_copy_of_a_defended_model_is_looked_at_itself():
    model = armed(torch.float32)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.module.network[5].bias += torch.tensor([5.0, 0, 0, 0])
    x = rand(1, 8, seed=6)
    assert torch.allclose(copy.deepcopy(model).scores(x), model.scores(x))
    assert not torch.allclose(other.scores(x), model.scores(x))
