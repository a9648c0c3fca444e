"""Defensive distillation: what it teaches, and that it hides gradients and protects nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import hardpoint as hp
from hardpoint.cli.demo.digits import digits_network, digits_split
from hardpoint.core.errors import DataError, ThreatError
from hardpoint.defenses import Schedule, distilled, train_members
from hardpoint.models.torch import weights_sha256
from small_models import rand, randn, seeded


def naive(net: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, steps: int) -> torch.Tensor:
    """Bool ``[n]``: what stands against signed gradients of cross-entropy on softmax; one step is FGSM."""
    z = x.clone()
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        p = net(z).softmax(1)
        loss = functional.nll_loss((p + 1e-30).log(), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
        z = (z + 2.5 * eps / max(steps, 2.5) * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    with torch.no_grad():
        return net(z).argmax(1) == y


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_it_stands_against_naive_gradients_and_falls_to_an_assessment():
    (xt, yt), (x, y) = digits_split()
    xt, yt, x, y = xt[:800], yt[:800], x[:40], y[:40]
    teacher, student = (seeded(digits_network, s) for s in (0, 1))
    schedule = Schedule(epochs=20, lr=5e-3)
    plain, _ = train_members([student, teacher], xt, yt, schedule=schedule)
    cold = distilled(teacher, student, xt, yt, temperature=50.0, schedule=schedule)
    eps, clean = 0.12, (cold(x).argmax(1) == y).double().mean()
    assert clean > 0.8
    for steps in (1, 20):
        hidden, seen = (naive(net, x, y, eps, steps).double().mean() for net in (cold, plain))
        assert hidden > seen + 0.2
    threat, budget = hp.Linf(eps), hp.Budget(passes=300)
    result = hp.assess(cold, x, y, threat=threat, budget=budget, progress=False)
    assert result.robust_accuracy.value < naive(plain, x, y, eps, 20).double().mean() + 0.05
    assert result.robust_accuracy.value < naive(cold, x, y, eps, 20).double().mean() - 0.2


def test_a_linear_student_learns_its_linear_teacher():
    x, state = rand(256, 4, seed=1), torch.get_rng_state()
    teacher, student = seeded(lambda: nn.Linear(4, 3), 0), seeded(lambda: nn.Linear(4, 3), 1)
    before = weights_sha256(teacher), weights_sha256(student)
    told: list[int] = []
    made = distilled(
        teacher,
        student,
        x,
        temperature=2.0,
        schedule=Schedule(epochs=150, lr=0.05),
        progress=lambda epoch, _: told.append(epoch),
    )
    with torch.no_grad():
        assert torch.allclose(made(x).softmax(1), teacher(x).softmax(1), atol=0.02)
    assert (weights_sha256(teacher), weights_sha256(student)) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert told == list(range(1, 151))
    assert not made.training


def test_the_same_seed_gives_the_same_student():
    x = rand(64, 4, seed=1)
    y = (x @ randn(4, 3, seed=2)).argmax(1)
    nets = [nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))]
    made = [distilled(*nets, x, y, schedule=Schedule(epochs=2, seed=s)) for s in (0, 0, 1)]
    first, second, other = map(weights_sha256, made)
    assert first == second != other


def test_what_makes_no_sense_is_refused():
    net, x = nn.Linear(4, 3), rand(8, 4)
    for bad in (0, -1.0, float("nan"), float("inf"), "20"):
        with pytest.raises(ThreatError, match="temperature"):
            distilled(net, net, x, temperature=bad)
    with pytest.raises(DataError, match="labels"):
        distilled(net, net, x, torch.zeros(7, dtype=torch.int64))
    with pytest.raises(DataError, match="labels"):
        distilled(net, net, x, torch.zeros(8))
