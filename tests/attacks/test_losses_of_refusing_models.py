"""The two losses that know of a detector: the classes alone, and first astray, then past the detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import hardpoint as hp
from hardpoint.assess.cascade import Mode, cascade
from hardpoint.attacks import APGD, Loss
from hardpoint.attacks.losses import goal_loss
from hardpoint.defenses.alarm import Alarm
from hardpoint.defenses.seen import Seen
from hardpoint.threats import Threat
from hardpoint.threats.goals import Untargeted

GOAL, RIGHT = Untargeted(refusal=2), torch.tensor([0])


def loss(which: Loss, *scores: float) -> float:
    return float(goal_loss(which, torch.tensor([scores], dtype=torch.float64), RIGHT, GOAL))


def test_the_bare_margin_does_not_see_the_refusal():
    assert loss(Loss.BARE, 1.0, 3.0, 50.0) == 2.0
    assert loss(Loss.BARE, 3.0, 1.0, -50.0) == -2.0


def test_the_selective_loss_leads_astray_first_and_past_the_detector_next():
    right_and_refused = loss(Loss.SELECTIVE, 3.0, 2.0, 90.0)
    boundary = loss(Loss.SELECTIVE, 2.0, 2.001, 90.0)
    astray_and_refused = loss(Loss.SELECTIVE, 1.0, 3.0, 60.0)
    less_refused = loss(Loss.SELECTIVE, 1.0, 3.0, 4.0)
    accepted = loss(Loss.SELECTIVE, 1.0, 3.0, 2.5)
    assert right_and_refused == -1.0
    assert right_and_refused < boundary < astray_and_refused < less_refused < 1 < accepted


@pytest.mark.parametrize("which", [Loss.BARE, Loss.SELECTIVE])
def test_without_a_refusal_both_say_what_the_margin_says(which):
    scores = torch.tensor([[1.0, 3.0], [2.0, 0.5]], dtype=torch.float64)
    y = torch.tensor([0, 0])
    margin = goal_loss(Loss.MARGIN, scores, y, Untargeted())
    found = goal_loss(which, scores, y, Untargeted())
    assert torch.equal(found > 0, margin > 0)
    assert torch.equal(found[1], margin[1])


@dataclass(frozen=True)
class Band:
    """Suspects what lies between 0.5 and 0.7, the more the nearer to 0.6."""

    layers: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str] = "band"

    def score(self, seen: Seen) -> Tensor:
        return 50 * (0.1 - (seen.x.flatten(1)[:, 0] - 0.6).abs())

    def describe(self) -> dict[str, Any]:
        return {"kind": "band"}


def test_the_valley_before_a_detector_is_crossed():
    """On the right side of the boundary, what leads away from the refusal leads back."""
    net = torch.nn.Linear(1, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0], [4.0]]))
        net.bias.copy_(torch.tensor([0.0, -2.4]))
    model = hp.Defended(net.eval(), detectors=[Alarm(Band(), 0.0, classes=2)])
    x, y = torch.full((20, 1), 0.45), torch.zeros(20, dtype=torch.int64)
    for which in ("selective", "bare"):
        assert bool(APGD(loss=which, steps=20)(model, x, y, hp.Linf(0.3)).broken.all())


@pytest.mark.parametrize("mode", Mode)
def test_models_that_refuse_meet_both(mode):
    ball, refusing = hp.Linf(0.1), Untargeted(refusal=10)
    names = [stage.attack.name for stage in cascade(Threat(ball, goal=refusing), mode, 10)]
    plain = [stage.attack.name for stage in cascade(Threat(ball), mode, 10)]
    assert [n for n in names if n not in plain] == ["APGD-selective 100", "APGD-bare 50"]
    assert [n for n in names if n in plain] == plain
