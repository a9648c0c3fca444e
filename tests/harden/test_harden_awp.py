"""Adversarial weight perturbation: where the loss is taken, and that nothing of it stays."""

from __future__ import annotations

import copy

import pytest
import torch
from small_lessons import batch_of, flat, learner_of, normed, pictures, same, state_of
from torch.nn import functional

from hardpoint.harden.recipes import Awp, Pgd, Trades
from hardpoint.threats import Linf
from small_models import rand


@pytest.fixture
def lesson():
    net, (x, y) = normed(), pictures(9)
    learner, batch = learner_of(net, Linf(0.1)), batch_of(x, y, 3)
    recipe = Awp(Pgd(2), gamma=0.05)
    return net, learner, batch, recipe, recipe.attacked(learner, batch)


def test_weights_move_by_their_share_up_the_gradient(lesson):
    net, learner, batch, recipe, attacked = lesson
    other = copy.deepcopy(net)
    loss = functional.cross_entropy(other(attacked.x), batch.y)
    loss.backward()
    with torch.no_grad():
        for p in other.parameters():
            if p.dim() > 1:
                p += 0.05 * p.norm() * p.grad / p.grad.norm()
    with recipe.shifted(learner, batch, attacked):
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q)
        there = recipe.taught(learner, batch, attacked).loss
        there.backward()
    by_hand = functional.cross_entropy(other(attacked.x), batch.y)
    torch.testing.assert_close(there, by_hand)
    assert float(there.detach()) > float(loss.detach())
    other.zero_grad()
    by_hand.backward()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("inner", [Pgd(1), Trades(steps=1)])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored_bit_for_bit(lesson, inner, fails):
    net, learner, batch, _, attacked = lesson
    for seed in range(5):  # moves that are taken back by subtraction round now and then
        with torch.no_grad():
            net[0].weight.copy_(rand(*net[0].weight.shape, seed=seed) * 3**seed)
        before = state_of(net)
        try:
            with Awp(inner, gamma=0.3).shifted(learner, batch, attacked):
                assert not torch.equal(net[0].weight, before["0.weight"])
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
        assert same(state_of(net), before)  # running statistics, too
        assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_frozen_weights_and_those_without_a_gradient_stay():
    net = flat(3)
    net[0].weight.requires_grad_(False)
    net.register_parameter("unused", torch.nn.Parameter(rand(2, 2)))
    learner, batch = learner_of(net, Linf(0.1)), batch_of(rand(6, 2), torch.arange(6) % 3, 3)
    recipe, before = Awp(Pgd(1), gamma=0.1), state_of(net)
    with recipe.shifted(learner, batch, recipe.attacked(learner, batch)):
        moved = {name for name, held in net.state_dict().items() if not torch.equal(held, before[name])}
    assert moved == {"3.weight"}


def test_a_network_without_slope_is_not_moved_to_nan():
    net = flat(3)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    learner, batch = learner_of(net, Linf(0.1)), batch_of(rand(6, 2), torch.arange(6) % 3, 3)
    recipe = Awp(Pgd(1))
    with recipe.shifted(learner, batch, recipe.attacked(learner, batch)):
        assert all(p.isfinite().all() for p in net.parameters())
