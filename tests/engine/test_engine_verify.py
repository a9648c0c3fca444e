"""Nothing counts that the model itself does not confirm, alone and inside the budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hardpoint.attacks import PGD, HopSkipJump, Square
from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.engine import Oracle, TwinPlan, verify
from hardpoint.engine.clean import ranked_classes
from hardpoint.engine.search import Target, search
from hardpoint.models.torch import TorchModel
from hardpoint.threats import L2, Linf, Targeted, Threat, Untargeted
from small_models import BatchNormalised, Noisy, Sum, Wrapped, linear, mlp, rand

# class 1 where the first coordinate is above 0.5
STEP = linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -0.5]))


def check(points, eps=0.2, goal=None, model=STEP, **settings):
    x = torch.tensor([[0.4, 0.4]]).expand(len(points), 2).contiguous()
    region = Linf(eps).around(x, Box(0, 1))
    y = torch.zeros(len(points), dtype=torch.int64)
    return verify(TorchModel(model), region, torch.tensor(points), y, goal or Untargeted(), **settings)


def test_only_allowed_points_that_reach_the_goal_stand():
    nan = float("nan")
    verdict = check(
        [[0.55, 0.4], [0.61, 0.4], [0.45, 0.4], [nan, 0.4], [0.55, nan], [0.55, -0.1], [0.55, 0.7]]
    )
    assert verdict.stands.tolist() == [True, False, False, False, False, False, False]
    assert verdict.prediction[0] == 1


def test_the_box_counts_even_inside_the_ball():
    x = torch.tensor([[0.95, 0.4]])
    region = Linf(0.2).around(x, Box(0, 1))
    outside = torch.tensor([[1.0 + 1e-6, 0.4]])
    flipped = linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -1.0]))
    verdict = verify(TorchModel(flipped), region, outside, torch.tensor([0]), Untargeted())
    assert not verdict.stands.any()


def test_a_targeted_goal_needs_its_label():
    three = linear(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([0.0, -0.5, -9.0]))
    assert check([[0.55, 0.4]], model=three, goal=Targeted(1)).stands.all()
    assert not check([[0.55, 0.4]], model=three, goal=Targeted(2)).stands.any()


def test_examples_that_owe_their_success_to_the_batch_do_not_stand():
    model = Wrapped(Sum(threshold=0.0, slope=1.0), before=BatchNormalised()).eval()
    x = torch.tensor([[0.2, 0.2], [0.8, 0.8]])
    region = Linf(1.0).around(x, Box(0, 1))
    together = TorchModel(model).predict(x)
    assert together.tolist() == [0, 1]  # the larger of two is class 1; alone everything is class 0
    verdict = verify(TorchModel(model), region, x, torch.tensor([1, 0]), Untargeted())
    assert verdict.stands.tolist() == [True, False]


@pytest.mark.parametrize(("offset", "most"), [(-1.0, 0), (-0.1, 0), (0.0, 2), (0.1, 20)])
def test_a_random_model_must_fail_more_often_than_not(offset, most):
    """The margin is ``offset`` in units of the noise; 400 claims per case, of which a few may be lucky at 0."""
    model = Noisy(linear(torch.zeros(2, 2), torch.tensor([0.0, offset * 2**0.5])), 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        verdict = check([[0.5, 0.4]] * 400, model=model, is_random=True)
        sure = check(
            [[0.5, 0.4]] * 4,
            model=Noisy(linear(torch.zeros(2, 2), torch.tensor([0.0, 3.0])), 1.0),
            is_random=True,
        )
    assert int(verdict.stands.sum()) <= most
    assert sure.stands.all()
    assert (sure.prediction == 1).all()
    assert sure.passes == 4 * (32 + 128)


def test_a_claim_that_cannot_stand_any_more_is_asked_no_further():
    """Of 32 passes 22 must reach the goal, so the eleventh that does not is the last."""
    never = Noisy(linear(torch.zeros(2, 2), torch.tensor([3.0, 0.0])), 1e-3)
    with torch.random.fork_rng(devices=[]):
        verdict = check([[0.5, 0.4]] * 3, model=never, is_random=True)
    assert not verdict.stands.any()
    assert verdict.passes == 3 * 11


class Shifted(nn.Module):
    """The same scores as ``inner``, but a copy of it answers with class 1 favoured by ``by``."""

    def __init__(self, inner: nn.Module, by: float = 0.0) -> None:
        super().__init__()
        self.inner, self.by = inner, by

    def __deepcopy__(self, memo):
        return Shifted(self.inner, 0.1)

    def forward(self, x):
        z = self.inner(x)
        return z + torch.tensor([0.0, self.by], dtype=z.dtype)


def searched(attack, model, x, y, threat, plan, **settings):
    target = Target(TorchModel(model), plan, 64)
    scores = TorchModel(model).scores(x)
    index = torch.arange(len(x))
    return search(
        attack,
        target,
        target.searchable(),
        threat,
        x,
        y,
        index,
        ranked_classes(scores),
        rng=Rng(0),
        **settings,
    )


def test_claims_of_a_wrong_copy_are_rejected_and_the_attack_goes_on():
    """The copy falls at 0.4, the model at 0.5: what breaks the copy first does not count, but the model falls too."""
    x = torch.stack([torch.linspace(0.2, 0.38, 16), torch.full((16,), 0.5)], 1)
    y = torch.zeros(16, dtype=torch.int64)
    wrong = Shifted(STEP)
    result = searched(
        PGD(steps=20, loss="margin", random_start=False), wrong, x, y, Threat(Linf(0.2)), TwinPlan()
    )
    reachable = x[:, 0] + 0.2 > 0.5 + 1e-6
    assert torch.equal(result.broken, reachable)
    assert (result.adversarial[result.broken][:, 0] > 0.5).all()
    assert torch.equal(result.adversarial[~reachable], x[~reachable])
    assert (result.prediction[result.broken] == 1).all()
    assert (result.prediction[~result.broken] == -1).all()
    assert torch.isnan(result.distance[~result.broken]).all()
    assert result.claimed > result.rejected > 0


def test_an_attack_that_only_fools_the_copy_is_run_again_on_the_model():
    """Class 0 and 1 swap roles in the copy, so that following its gradient leads away; the model is asked then."""

    class Mirrored(nn.Module):
        def __init__(self, inner, sign=1.0):
            super().__init__()
            self.inner, self.sign = inner, sign

        def __deepcopy__(self, memo):
            return Mirrored(self.inner, -1.0)

        def forward(self, x):
            return self.inner(0.5 + self.sign * (x - 0.5))

    x = torch.full((4, 2), 0.45)
    y = torch.zeros(4, dtype=torch.int64)
    attack = PGD(steps=10, loss="margin", random_start=False)
    result = searched(attack, Mirrored(STEP), x, y, Threat(Linf(0.2)), TwinPlan())
    assert result.broken.all()
    one = searched(attack, Mirrored(STEP), x, y, Threat(Linf(0.2)), TwinPlan(copied=False))
    assert one.broken.all()
    assert (result.forward > one.forward).all()
    cut = torch.full((4,), 5)
    short = searched(attack, Mirrored(STEP), x, y, Threat(Linf(0.2)), TwinPlan(), allowance=cut)
    assert (short.forward + short.backward <= cut).all()


def test_the_threats_queries_bound_every_black_box_attack():
    x, y = rand(12, 8), None
    module = mlp()
    y = module(x).argmax(1)
    for attack in (Square(queries=500), HopSkipJump(queries=500)):
        threat = Threat(Linf(0.01), access=attack.needs, queries=37)
        result = searched(attack, module, x, y, threat, TwinPlan())
        assert int(result.forward.max()) <= 37
        own = searched(
            type(attack)(queries=21), module, x, y, Threat(Linf(0.01), access=attack.needs), TwinPlan()
        )
        assert int(own.forward.max()) <= 21
        assert own.finished.all()


def test_nothing_allowed_is_claimed_for_a_budget_of_nothing():
    x = rand(6, 8)
    y = mlp()(x).argmax(1)
    for ball in (Linf(0.0), L2(0.0)):
        result = searched(PGD(steps=3), mlp(), x, y, Threat(ball), TwinPlan())
        assert not result.broken.any()
        assert torch.equal(result.adversarial, x)


def test_the_oracle_of_an_attack_shows_what_it_needs_and_no_more():
    module = mlp()
    x = rand(4, 8)
    y = module(x).argmax(1)
    shown: list[Access] = []
    real = Oracle.__init__

    def spy(self, target, access, **settings):
        shown.append(access)
        real(self, target, access, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Oracle, "__init__", spy)
        searched(HopSkipJump(queries=5), module, x, y, Threat(Linf(0.1)), TwinPlan())
        searched(Square(queries=5), module, x, y, Threat(Linf(0.1)), TwinPlan())
        searched(PGD(steps=2), module, x, y, Threat(Linf(0.1)), TwinPlan())
    assert shown == [Access.LABELS, Access.SCORES, Access.GRADIENTS]
