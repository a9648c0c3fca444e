"""Attacks on poses, displacements, colours and single patches, against brute force and closed forms."""

from __future__ import annotations

import pytest
import torch

from hardpoint import Threat
from hardpoint.attacks import (
    APGD,
    PGD,
    ParameterAscent,
    ParameterSearch,
    PatchAttack,
    PatchSearch,
    SpatialGrid,
    Square,
)
from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import take_rows
from hardpoint.threats import Colour, Flow, Linf, Patch, Perceptual, Spatial, Targeted
from small_models import Affine, Wrapped, conv, labelled, linear, rand, randn

BOX = Box(0, 1)


def problem(n: int = 12, dtype=torch.float32, channels: int = 3):
    model = conv(channels=channels, dtype=dtype)
    # smooth images, so that moving pixels by a fraction changes little
    coarse = rand(n, channels, 3, 3, dtype=dtype, seed=1)
    x = torch.nn.functional.interpolate(coarse, size=(6, 5), mode="bilinear", align_corners=True)
    return model, x, labelled(model, x)


CASES = [
    (SpatialGrid(), Spatial(rotation=30, translation=0.2, angles=5, shifts=3)),
    (ParameterAscent(steps=8, restarts=2), Colour(hue=60, saturation=0.5, contrast=0.3, brightness=0.2)),
    (ParameterAscent(steps=8, restarts=2), Flow(1.5, spacing=2)),
    (ParameterSearch(queries=100), Colour(hue=60, saturation=0.5, contrast=0.3, brightness=0.2)),
    (ParameterSearch(queries=100, needs=Access.LABELS), Flow(1.5, spacing=2)),
    (PatchAttack(locations=4, steps=6), Patch(area=0.15)),
    (PatchAttack(locations=4, steps=6), Patch(area=0.15, palette=((0, 0, 0), (1, 1, 1), (1, 0, 0)))),
    (PatchAttack(locations=2, steps=6), Patch(area=0.15, location=(2, 2))),
    (PatchSearch(queries=80), Patch(area=0.15)),
    (PatchSearch(queries=80, needs=Access.LABELS), Patch(area=0.15, location=(1, 0))),
    (PGD(steps=10), Perceptual(6.0)),
    (APGD(steps=10), Colour(hue=60, saturation=0.5, contrast=0.3, brightness=0.2)),
    (PGD(steps=10), Flow(1.5, spacing=2)),
    (PGD(steps=10), Patch(area=0.15)),
    (Square(queries=60), Patch(area=0.15)),
]


def named(case) -> str:
    return f"{case[0].name}-{case[1].name}"


@pytest.mark.parametrize("case", CASES, ids=named)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_broken_is_broken_inside_the_threat(case, dtype):
    attack, perturbation = case
    model, x, y = problem(dtype=dtype)
    threat = Threat(perturbation, access=attack.needs)
    result = attack(model, x, y, threat)
    assert result.adversarial.dtype == dtype
    assert result.broken.any()
    region = perturbation.around(x, BOX)
    assert region.contains(result.adversarial).all()
    with torch.no_grad():
        answers = model(result.adversarial).argmax(1)
    assert torch.equal(answers != y, result.broken)
    assert torch.equal(result.adversarial[~result.broken], x[~result.broken])


@pytest.mark.parametrize("case", CASES, ids=named)
def test_batches_and_order_do_not_matter(case):
    attack, perturbation = case
    model, x, y = problem(9, dtype=torch.float64)
    threat = Threat(perturbation, access=attack.needs)
    whole = attack(model, x, y, threat, batch_size=9)
    for size in (1, 4):
        parts = attack(model, x, y, threat, batch_size=size)
        assert torch.equal(parts.broken, whole.broken)
        assert torch.equal(parts.queries, whole.queries)
        assert torch.allclose(parts.adversarial, whole.adversarial, atol=1e-9)


@pytest.mark.parametrize("case", CASES[:11], ids=named)
def test_shifted_scores_make_no_difference(case):
    attack, perturbation = case
    model, x, y = problem(6, dtype=torch.float64)
    threat = Threat(perturbation, access=attack.needs)
    plain = attack(model, x, y, threat)
    other = attack(Wrapped(model, after=Affine(8.0, 64.0)).eval(), x, y, threat)
    assert torch.equal(plain.broken, other.broken)
    assert torch.equal(plain.queries, other.queries)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_nothing_is_broken_by_nothing(case):
    attack, perturbation = case
    model, x, y = problem(4)
    result = attack(model, x, y, Threat(perturbation.scaled(0), access=attack.needs))
    assert not result.broken.any()
    assert torch.equal(result.adversarial, x)


# --- poses ---------------------------------------------------------------------------------------------------


def test_the_grid_is_searched_completely():
    model, x, y = problem(16)
    threat = Spatial(rotation=6, translation=0.03, angles=5, shifts=3)
    region = threat.around(x, BOX)
    count = len(region.poses)
    any_wrong = torch.zeros(16, dtype=torch.bool)
    for row in range(16):
        one = take_rows(region, torch.tensor([row]))
        every = one.images(torch.zeros(count, dtype=torch.int64), torch.arange(count))
        with torch.no_grad():
            any_wrong[row] = bool((model(every).argmax(1) != y[row]).any())
    result = SpatialGrid()(model, x, y, Threat(threat, access="labels"))
    assert torch.equal(result.broken, any_wrong)
    assert 0 < int(any_wrong.sum()) < 16
    assert (result.queries[~any_wrong] == count).all()
    few = SpatialGrid(poses=3)(model, x, y, threat)
    assert (few.queries <= 3).all()
    assert not (few.broken & ~any_wrong).any()


def test_a_query_budget_holds():
    model, x, y = problem(6)
    threat = Threat(Spatial(rotation=1, translation=0.01), access="labels", queries=37)
    assert (SpatialGrid()(model, x, y, threat).queries <= 37).all()


# --- parameters ----------------------------------------------------------------------------------------------


def test_the_worst_brightness_of_a_linear_model_is_found_to_the_edge():
    """The mean decides: breakable exactly where the limit reaches the threshold."""
    x = 0.4 + 0.1 * rand(8, 3, 3, 3, dtype=torch.float64)
    weight = torch.stack([torch.zeros(27), torch.ones(27)]).double()
    need = 0.55 - x.flatten(1).mean(1)
    model = linear(weight, torch.tensor([0.0, -27 * 0.55]).double())
    y = torch.zeros(8, dtype=torch.int64)
    for attack in (ParameterAscent(steps=10, restarts=1), ParameterSearch(queries=64)):
        for row in range(8):
            for factor, falls in ((0.999, False), (1.001, True)):
                threat = Threat(Colour(brightness=float(need[row]) * factor), access=attack.needs)
                result = attack(model, x[row : row + 1], y[row : row + 1], threat)
                assert bool(result.broken) is falls


def test_the_hue_is_turned_as_far_as_it_must():
    x = torch.tensor([0.7, 0.3, 0.3], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()
    weight = torch.zeros(2, 48, dtype=torch.float64)
    weight[0, :16], weight[1, 16:32] = 1, 1  # red against green: equal after a turn of 60 degrees
    model, y = linear(weight), torch.zeros(1, dtype=torch.int64)
    for hue, falls in ((59.5, False), (60.5, True)):
        assert bool(ParameterAscent(steps=20)(model, x, y, Colour(hue=hue)).broken) is falls


def test_gradients_find_displacements_that_draws_do_not():
    """One free displacement per pixel: a linear model's gradient says each one, chance finds few."""
    x, weight = rand(12, 1, 8, 8, seed=3), randn(2, 64, seed=4)
    bias = -(x.flatten(1) @ weight.T).mean(0)
    model = linear(weight, bias)
    y = labelled(model, x)
    flow = Flow(0.25, spacing=1)
    by_gradient = ParameterAscent(steps=20, restarts=1)(model, x, y, flow)
    by_chance = ParameterSearch(queries=21, needs="labels")(model, x, y, Threat(flow, access="labels"))
    assert by_gradient.broken.sum() > by_chance.broken.sum()


# --- patches -------------------------------------------------------------------------------------------------


def worst_patch(weight: torch.Tensor, x: torch.Tensor, side: int) -> torch.Tensor:
    """The most that one patch adds to ``weight · x``, over all windows, exactly."""
    gain = torch.where(weight > 0, weight * (1 - x), -weight * x).sum(1, keepdim=True)
    return torch.nn.functional.avg_pool2d(gain, side, stride=1).flatten(1).amax(1) * side**2


@pytest.mark.parametrize("needs", [Access.GRADIENTS, Access.SCORES])
def test_the_worst_patch_of_a_linear_model_is_found_to_the_edge(needs):
    n, side = 4, 2
    x, w = rand(n, 2, 5, 6, dtype=torch.float64, seed=2), randn(2, 5, 6, dtype=torch.float64, seed=5)
    weight = torch.stack([torch.zeros(60, dtype=torch.float64), w.flatten()])
    most = worst_patch(w, x, side)
    attack = PatchAttack(locations=2, steps=10) if needs is Access.GRADIENTS else PatchSearch(queries=300)
    slack = 1e-3 if needs is Access.GRADIENTS else 0.2
    for row in range(n):
        at = float((w * x[row]).sum())
        for share, falls in ((1 + 1e-6, False), (1 - slack, True)):
            bias = torch.tensor([0.0, -(at + share * float(most[row]))], dtype=torch.float64)
            threat = Threat(Patch(area=side * side / 30), access=needs)
            result = attack(linear(weight, bias), x[row : row + 1], torch.zeros(1).long(), threat)
            assert bool(result.broken) is falls


def test_a_target_is_reached_or_not_claimed():
    model, x, y = problem(12)
    result = PatchAttack(locations=4, steps=15)(model, x, y, Threat(Patch(area=0.4), goal=Targeted(2)))
    with torch.no_grad():
        answers = model(result.adversarial).argmax(1)
    assert (answers[result.broken] == 2).all()
    assert result.broken.any()
    assert not result.broken[y == 2].any()


# --- the wrong threat ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack", [SpatialGrid(), ParameterAscent(), ParameterSearch(), PatchAttack(), PatchSearch()]
)
def test_other_threats_are_refused(attack):
    model, x, y = problem(2)
    with pytest.raises(ThreatError, match="use it with"):
        attack(model, x, y, Threat(Linf(0.1), access=attack.needs))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SpatialGrid(poses=0),
        lambda: ParameterAscent(steps=0),
        lambda: ParameterAscent(loss="what"),
        lambda: ParameterSearch(queries=0),
        lambda: PatchAttack(locations=0),
        lambda: PatchSearch(queries=0),
    ],
)
def test_impossible_attacks_are_refused(make):
    with pytest.raises(ThreatError):
        make()
