"""Diversity terms against their formulas, on tiny cases and where floats end."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from hardpoint.core.errors import ThreatError
from hardpoint.defenses import AdaptiveDiversity, GradientAlignment, TransferReduction
from hardpoint.defenses.networks import Diversity
from small_models import mlp, rand, randn

TERMS = [AdaptiveDiversity(), GradientAlignment(), TransferReduction()]


def batch(n: int = 6, members: int = 3, classes: int = 5) -> tuple[torch.Tensor, ...]:
    x = rand(n, 8, seed=4, dtype=torch.float64).requires_grad_(True)
    nets = [mlp(classes=classes, seed=s, dtype=torch.float64) for s in range(members)]
    return torch.stack([net(x) for net in nets]), x, torch.arange(n) % classes


def gradients(scores, x, y):
    """Of the plain cross-entropies, ``[m, b, d]``."""
    losses = [functional.cross_entropy(own, y, reduction="sum") for own in scores]
    return torch.stack([torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses])


@pytest.mark.parametrize("term", TERMS)
def test_the_order_of_members_and_inputs_and_shifts_do_not_matter(term):
    scores, x, y = batch()
    assert isinstance(term, Diversity)
    value = term.loss(scores, x, y)
    assert value.dim() == 0
    assert torch.allclose(value, term.loss(scores.flip(0), x, y))
    assert torch.allclose(value, term.loss(scores + 7.0, x, y))
    if not term.needs_input_gradients:
        assert torch.allclose(value, term.loss(scores.flip(1), x, y.flip(0)))


def test_adaptive_diversity_is_entropy_and_volume():
    scores, x, y = batch()
    scores = scores.detach()
    p = scores.softmax(2)
    mean = p.mean(0)
    entropy = -(mean * mean.log()).sum(1).mean()
    volume = 0.0
    for i in range(len(y)):
        others = torch.stack([torch.cat([q[i, : y[i]], q[i, y[i] + 1 :]]) for q in p])
        others = others / others.norm(dim=1, keepdim=True)
        volume += math.log(float(torch.det(others @ others.T + 1e-6 * torch.eye(3))))
    expected = -2.0 * float(entropy) - 0.5 * volume / len(y)
    assert float(AdaptiveDiversity().loss(scores, x, y)) == pytest.approx(expected, rel=1e-9)


def test_adaptive_diversity_is_finite_for_certain_and_for_equal_members():
    certain = torch.zeros(3, 2, 5)
    certain[:, :, 0] = 200.0
    for scores in (certain, randn(1, 2, 5).expand(3, -1, -1)):
        scores = scores.clone().requires_grad_(True)
        value = AdaptiveDiversity().loss(scores, torch.zeros(2, 1), torch.tensor([0, 0]))
        (slope,) = torch.autograd.grad(value, scores)
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()


def test_too_many_members_for_the_classes_are_refused():
    scores, x, y = batch(members=3, classes=3)
    with pytest.raises(ThreatError, match="at most 2"):
        AdaptiveDiversity().loss(scores, x, y)


def test_gradient_terms_are_their_formulas():
    scores, x, y = batch()
    g = gradients(scores, x, y)
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosines = torch.stack([functional.cosine_similarity(g[a], g[b], dim=1) for a, b in pairs])
    aligned = 0.7 * cosines.exp().sum(0).log().mean()
    assert torch.allclose(GradientAlignment(0.7).loss(scores, x, y), aligned, atol=1e-6)
    lengths = torch.stack([g[a].norm(dim=1) + g[b].norm(dim=1) for a, b in pairs])
    reduced = 3 * cosines.abs().mean() + 2 * lengths.mean()
    assert torch.allclose(TransferReduction(3.0, 2.0).loss(scores, x, y), reduced, atol=1e-5)


@pytest.mark.parametrize("term", [GradientAlignment(), TransferReduction()])
def test_certain_members_still_have_directions(term):
    x = rand(4, 2).requires_grad_(True)
    steep = torch.tensor([[1e3, 0.0], [0.0, 1e3]])
    scores = torch.stack([x @ steep, x @ steep]) + torch.tensor([1e4, 0.0])
    same = term.loss(scores, x, torch.zeros(4, dtype=torch.int64)).detach()
    expected = {"GradientAlignment": 0.5, "TransferReduction": 1.0}[type(term).__name__]
    assert float(same) == pytest.approx(expected, abs=1e-3)  # cosine 1, and cross-entropy itself is flat


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "1", None])
def test_weights_must_make_sense(bad):
    for make in (AdaptiveDiversity, GradientAlignment, TransferReduction):
        with pytest.raises(ThreatError, match="0 or more"):
            make(bad)
