"""How many passes to average: closed forms for noisy linear models, and what must not matter."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from hardpoint.attacks import PGD, Square
from hardpoint.core.access import Access
from hardpoint.core.rng import Rng
from hardpoint.engine.clean import ranked_classes
from hardpoint.engine.oracle import Oracle
from hardpoint.engine.randomness import AGREEMENT, ANSWER_SAMPLES, DRAWS, LADDER, samples_for, success_rates
from hardpoint.engine.search import Target, search
from hardpoint.engine.twin import TwinPlan, build_twin
from hardpoint.models.limits import limit_access
from hardpoint.models.torch import TorchModel
from hardpoint.threats import Linf, Targeted, Threat
from small_models import Counted, Noisy, Wrapped, conv, linear, mlp, rand, randn


class NoisySlope(nn.Module):
    """Two classes with margin (w + σ ξ)·x, ξ fresh for every row and pass: the gradient is w + σ ξ."""

    def __init__(self, w, sigma):
        super().__init__()
        self.w, self.sigma = nn.Parameter(w), sigma

    def forward(self, x):
        margin = ((self.w + self.sigma * torch.randn_like(x)) * x).sum(1)
        return torch.stack([torch.zeros_like(margin), margin], 1)


class Jitter(nn.Module):
    """Shrinks and pads every batch at random, as a defence does."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        side = int(torch.randint(3, 6, ()))
        small = nn.functional.interpolate(x, (side, side))
        top, left = int(torch.randint(0, 7 - side, ())), int(torch.randint(0, 6 - side, ()))
        return self.inner(nn.functional.pad(small, (left, 5 - side - left, top, 6 - side - top)))


def pilot(d=600, n=24):
    return rand(n, d), torch.zeros(n, dtype=torch.int64)


# --- the choice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [0.2, 2.0, 6.0, 12.0, 25.0, 100.0])
def test_the_choice_for_a_noisy_slope_is_the_closed_form(needed):
    """Two means of k gradients w + σ ξ in d dimensions have cosine s / (s + 1 / k), s = |w|² / (d σ²): ``AGREEMENT`` is
    reached from k = AGREEMENT / (1 - AGREEMENT) / s on."""
    x, y = pilot()
    w = randn(x.shape[1])
    signal = AGREEMENT / (1 - AGREEMENT) / needed
    sigma = float(w.square().mean().sqrt()) / signal**0.5
    known = next((k for k in LADDER if k >= needed), LADDER[-1])
    assert samples_for(TorchModel(NoisySlope(w, sigma)), x, y, Rng(0)) == known


def test_a_lower_agreement_asks_for_fewer():
    x, y = pilot()
    model = TorchModel(NoisySlope(torch.ones(600), 2.0))
    chosen = [samples_for(model, x, y, Rng(0), agreement=a) for a in (0.1, 0.45, 0.75, 0.99)]
    assert chosen == [1, 4, 16, 32]


def test_models_whose_gradient_does_not_vary_need_one_pass():
    x, y = rand(16, 8), torch.zeros(16, dtype=torch.int64)
    assert samples_for(TorchModel(mlp()), x, y, Rng(0)) == 1
    two = linear(randn(2, 8))
    assert samples_for(TorchModel(Noisy(two, 0.5)), x, y, Rng(0)) == 1  # noise on the scores alone
    still = Wrapped(mlp(), after=lambda z: torch.randn_like(z) + 0 * z).eval()
    assert samples_for(TorchModel(still), x, y, Rng(0)) == 1


def test_the_measurement_costs_what_it_says():
    x, y = rand(16, 8), torch.zeros(16, dtype=torch.int64)
    model = TorchModel(Counted(mlp()))
    Counted.reset()
    samples_for(model, x, y, Rng(0), chunk=5)
    assert (Counted.forward_rows, Counted.backward_rows) == (16 * DRAWS, 16 * DRAWS)


def test_models_without_gradients_get_the_fixed_number():
    x, y = rand(16, 8), torch.zeros(16, dtype=torch.int64)
    for access in ("scores", "labels"):
        assert samples_for(limit_access(TorchModel(mlp()), access), x, y, Rng(0)) == ANSWER_SAMPLES
        assert samples_for(TorchModel(mlp(), access=access), x, y, Rng(0)) == ANSWER_SAMPLES


def test_random_resizing_and_padding_needs_several_and_the_choice_is_right():
    """Measured again with other draws: the chosen mean agrees with another one, the rung below does not."""
    net, x, y = Jitter(conv()).eval(), rand(48, 2, 6, 5), torch.zeros(48, dtype=torch.int64)
    chosen = samples_for(TorchModel(net), x, y, Rng(0))
    assert chosen in LADDER[1:]

    def mean_gradient(k):
        oracle = Oracle(build_twin(TorchModel(net), TwinPlan()), Access.GRADIENTS, samples=k)
        reply = oracle.ask_gradient(x, lambda z: z[:, 1:].amax(1) - z[:, 0])
        return reply.gradient.flatten(1)

    def agreement(k):
        return float(torch.cosine_similarity(mean_gradient(k), mean_gradient(k), dim=1).mean())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = {k: sum(agreement(k) for _ in range(8)) / 8 for k in LADDER}
    below = LADDER[LADDER.index(chosen) - 1]
    assert again[below] < AGREEMENT + 0.05
    assert again[chosen] > AGREEMENT - 0.05 or chosen == LADDER[-1]


def test_the_same_rng_gives_the_same_choice_and_nothing_is_disturbed():
    x, y = pilot(d=20, n=4)
    net = NoisySlope(torch.ones(20), 1.2)
    net.w.grad = torch.ones(20)
    model = TorchModel(net)
    before = torch.get_rng_state().tolist(), random.getstate(), net.w.requires_grad
    first = [samples_for(model, x, y, Rng(seed)) for seed in range(12)]
    torch.rand(5)
    torch.set_rng_state(torch.tensor(before[0], dtype=torch.uint8))
    assert [samples_for(model, x, y, Rng(seed)) for seed in range(12)] == first
    assert (torch.get_rng_state().tolist(), random.getstate(), net.w.requires_grad) == before
    assert torch.equal(net.w.grad, torch.ones(20))


def test_the_goal_decides_whose_gradient_is_measured():
    """Class 2 is noisy, class 1 is not."""

    class Partly(nn.Module):
        def forward(self, x):
            noise = (torch.randn_like(x) * x).sum(1)
            return torch.stack([9 + 0 * noise, x.sum(1) + 20, 5 * noise - 900], 1)

    x, y = pilot(d=60)
    assert samples_for(TorchModel(Partly()), x, y, Rng(0)) == 1
    assert samples_for(TorchModel(Partly()), x, y, Rng(0), goal=Targeted(2)) == LADDER[-1]


# --- its use ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 4])
def test_a_target_says_how_many_passes_a_gradient_takes(samples):
    x, y = rand(6, 8), torch.zeros(6, dtype=torch.int64)
    model = TorchModel(Noisy(linear(torch.zeros(2, 8), torch.tensor([30.0, 0.0])), 1.0).eval())
    target = Target(model, TwinPlan(), 64, is_random=True, samples=samples)

    def spent(attack):
        ranked = ranked_classes(model.scores(x))
        index = torch.arange(6)
        threat = Threat(Linf(0.1), access=attack.needs)
        return search(attack, target, target.searchable(), threat, x, y, index, ranked, rng=Rng(0))

    gradient, answers = spent(PGD(steps=3)), spent(Square(queries=5))
    assert gradient.forward.tolist() == [4 * samples] * 6
    assert gradient.backward.tolist() == [3 * samples] * 6
    assert answers.forward.tolist() == [5 * ANSWER_SAMPLES] * 6


def test_averaging_as_chosen_breaks_what_single_passes_do_not():
    """A slope drowned in noise: steps along single gradients go astray, along the chosen mean they do not."""
    d = 400
    w = torch.ones(d) / d
    net = NoisySlope(w, 2.0 / d)
    x, y = torch.full((20, d), 0.5), torch.ones(20, dtype=torch.int64)
    model = TorchModel(Wrapped(net, after=lambda z: z - torch.tensor([0.0, 0.44])).eval())
    chosen = samples_for(model, x, y, Rng(0))
    assert chosen > 1

    def broken(samples):
        target = Target(model, TwinPlan(), 64, is_random=True, samples=samples)
        found = search(
            PGD(steps=1, step_size=0.1, random_start=False),
            target,
            target.searchable(),
            Threat(Linf(0.1)),
            x,
            y,
            torch.arange(20),
            ranked_classes(model.scores(x)),
            rng=Rng(0),
        )
        return int(found.broken.sum())

    assert broken(chosen) > broken(1)


def test_success_rates_hold_the_true_probability():
    """Misread with probability Φ(offset)."""
    for offset, known in ((-1.0, 0.1587), (0.0, 0.5), (1.0, 0.8413)):
        net = Noisy(linear(torch.zeros(2, 3), torch.tensor([0.0, offset * 2**0.5])), 1.0).eval()
        x, y = rand(40, 3), torch.zeros(40, dtype=torch.int64)
        state = torch.get_rng_state()
        rates = success_rates(TorchModel(net), x, y, rng=Rng(3), passes=200, chunk=7)
        assert torch.equal(torch.get_rng_state(), state)
        assert sum(rate.low <= known <= rate.high for rate in rates) >= 34  # 95 % of 40 are 38
        assert {rate.n for rate in rates} == {200}
        assert rates == success_rates(TorchModel(net), x, y, rng=Rng(3), passes=200, chunk=7)
