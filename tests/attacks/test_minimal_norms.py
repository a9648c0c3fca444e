"""Minimal-norm attacks against exact distances of linear models, with the input box in the way and without."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

import hardpoint as hp
from hardpoint.attacks import DDN, EAD, FAB, FMN, PDPGD, CarliniWagner, DeepFool, SigmaZero, SuperDeepFool
from hardpoint.core.errors import ThreatError
from hardpoint.models.torch import TorchModel
from small_models import conv, labelled, linear, mlp, rand

BALLS = {"l0": hp.L0, "l1": hp.L1, "l2": hp.L2, "linf": hp.Linf}
CASES = [
    (DDN(steps=100), "l2"),
    (FMN(steps=100), "l1"),
    (FMN(steps=100), "l2"),
    (FMN(steps=100), "linf"),
    (PDPGD(steps=100), "l1"),
    (PDPGD(steps=100), "l2"),
    (PDPGD(steps=100), "linf"),
    (SuperDeepFool(), "l2"),
    (CarliniWagner(), "l2"),
    (DeepFool(), "l2"),
    (DeepFool(), "linf"),
    (EAD(), "l1"),
    (FAB(steps=100), "l1"),
    (FAB(steps=100), "l2"),
    (FAB(steps=100), "linf"),
    (FAB(steps=100, targets=9), "linf"),
]
COUNTS = [(FMN(steps=100), "l0"), (PDPGD(steps=100), "l0"), (SigmaZero(), "l0")]


def name_of(case) -> str:
    return case.name.split()[0] if hasattr(case, "name") else str(case)


def model_of(classes: int, size: int = 20) -> nn.Module:
    weight = torch.randn(classes, size, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
    return linear(weight, torch.linspace(-0.3, 0.3, classes, dtype=torch.float64))


def exact(norm: str, model: nn.Module, x: torch.Tensor, y: int, box: tuple[float, float]) -> float:
    """The distance to the nearest face inside the box: linear programs, the KKT conditions for L2, sorting for L0."""
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    weight, bias, point = layer.weight.detach().numpy(), layer.bias.detach().numpy(), x.numpy()
    low, high = np.maximum(box[0] - point, -1e6), np.minimum(box[1] - point, 1e6)
    found = []
    for other in range(len(bias)):
        if other == y:
            continue
        w = weight[other] - weight[y]
        needed = -(w @ point + bias[other] - bias[y])  # w d >= needed
        found.append(_to_face(norm, w, needed, low, high))
    return min(found)


def _to_face(norm: str, w: np.ndarray, needed: float, low: np.ndarray, high: np.ndarray) -> float:
    gain = np.where(w > 0, w * high, w * low)
    if gain.sum() < needed:
        return math.inf
    d = len(w)
    if norm == "l0":
        return float(1 + np.searchsorted(np.sort(gain)[::-1].cumsum(), needed))
    if norm == "l2":
        few, many = 0.0, 1e9
        for _ in range(200):
            middle = (few + many) / 2
            reached = w @ np.clip(middle * w, low, high) >= needed
            few, many = (few, middle) if reached else (middle, many)
        return float(np.linalg.norm(np.clip(many * w, low, high)))
    if norm == "linf":
        rows = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
        bounds = [*zip(low, high, strict=True), (0, None)]
        cost, upper, right = (
            np.r_[np.zeros(d), 1.0],
            np.vstack([rows, np.r_[-w, 0.0]]),
            np.r_[np.zeros(2 * d), -needed],
        )
    else:
        bounds = [*((0, h) for h in high), *((0, -lo) for lo in low)]
        cost, upper, right = np.ones(2 * d), np.r_[-w, w][None], np.array([-needed])
    return float(linprog(cost, A_ub=upper, b_ub=right, bounds=bounds).fun)


def distances(attack, norm: str, model, x, y, box) -> torch.Tensor:
    return attack(TorchModel(model, input_range=box), x, y, BALLS[norm](math.inf)).distance


@pytest.mark.parametrize(("attack", "norm"), CASES, ids=name_of)
@pytest.mark.parametrize(
    ("classes", "box"), [(2, (-50.0, 50.0)), (4, (-50.0, 50.0)), (10, (0.0, 1.0)), (2, (0.0, 1.0))]
)
def test_linear_models_are_left_at_the_exact_distance(attack, norm, classes, box):
    model, x = model_of(classes), rand(10, 20, seed=1, dtype=torch.float64)
    y = labelled(model, x)
    truth = np.array([exact(norm, model, row, int(label), box) for row, label in zip(x, y, strict=True)])
    found = distances(attack, norm, model, x, y, box).numpy()
    reachable = np.isfinite(truth)
    assert reachable.any()
    assert (found[reachable] >= truth[reachable] * (1 - 1e-6)).all()
    # FAB in L1 keeps to the face it meets first; among several it is at times 4 % off
    limit = 1.05 if (type(attack), norm) == (FAB, "l1") else 1.02
    assert (found[reachable] <= truth[reachable] * limit + 1e-9).all(), (found / truth).max()


@pytest.mark.parametrize(("attack", "norm"), COUNTS, ids=name_of)
@pytest.mark.parametrize("classes", [2, 10])
def test_linear_models_need_the_exact_number_of_changes(attack, norm, classes):
    model, x = model_of(classes), rand(10, 20, seed=1, dtype=torch.float64)
    y = labelled(model, x)
    truth = np.array(
        [exact(norm, model, row, int(label), (0.0, 1.0)) for row, label in zip(x, y, strict=True)]
    )
    found = distances(attack, norm, model, x, y, (0.0, 1.0)).numpy()
    assert (found >= truth).all()
    assert (found <= truth + 1).all()
    assert found.mean() <= truth.mean() * 1.1


@pytest.mark.parametrize(("attack", "norm"), [*CASES, *COUNTS], ids=name_of)
def test_batch_mates_do_not_matter_and_what_is_returned_is_wrong_and_as_far_as_said(attack, norm):
    net, x = mlp(dtype=torch.float64), rand(9, 8, seed=2, dtype=torch.float64)
    y = labelled(net, x)
    ball = BALLS[norm](math.inf)
    whole = attack(net, x, y, ball, batch_size=64)
    few = attack(net, x, y, ball, batch_size=4)
    same = torch.isclose(whole.distance, few.distance, rtol=1e-6)
    # which coordinate is dropped next may hang on a rounding, and a count then differs by one
    assert same.all() if norm != "l0" else (same.double().mean() > 0.7)
    assert torch.equal(net(whole.adversarial).argmax(1) != y, whole.broken)
    assert whole.broken.all()
    assert ((whole.adversarial >= 0) & (whole.adversarial <= 1)).all()
    flat = (whole.adversarial - x).flatten(1)
    order = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}[norm]
    assert torch.allclose(torch.linalg.vector_norm(flat, ord=order, dim=1).double(), whole.distance)


@pytest.mark.parametrize(("attack", "norm"), CASES, ids=name_of)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_scores_does_not_matter(attack, norm, scale):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(dtype=torch.float64)

        def forward(self, x):
            return scale * self.net(x)

    net, x = mlp(dtype=torch.float64), rand(6, 8, seed=2, dtype=torch.float64)
    y, ball = labelled(net, x), BALLS[norm](math.inf)
    known, other = attack(net, x, y, ball), attack(Scaled().eval(), x, y, ball)
    assert other.broken.all()
    assert float(other.distance.median()) <= 1.05 * float(known.distance.median())


@pytest.mark.parametrize(("attack", "norm"), [*CASES, *COUNTS], ids=name_of)
def test_images_and_finite_budgets(attack, norm):
    net, x = conv(), rand(12, 2, 6, 5, seed=3)
    y = labelled(net, x)
    free = attack(net, x, y, BALLS[norm](math.inf))
    eps = float(free.distance.median()) * 1.05
    eps = math.ceil(eps) if norm == "l0" else eps
    bound = attack(net, x, y, BALLS[norm](eps))
    assert (bound.distance[bound.broken] <= eps).all()
    assert bound.broken.double().mean() >= 0.5
    assert float(bound.queries.double().mean()) <= float(free.queries.double().mean())


def test_a_norm_that_an_attack_does_not_minimise_is_named():
    net, x = mlp(), rand(3, 8)
    with pytest.raises(ThreatError, match="L2"):
        DDN()(net, x, labelled(net, x), hp.Linf(math.inf))
