"""One perturbation, one patch for all: optima of linear models, and what is judged on what."""

from __future__ import annotations

import math

import pytest
import torch

from hardpoint import Threat
from hardpoint.attacks import Poses, UniversalPatch, UniversalPerturbation
from hardpoint.attacks.patch.placement import Pose, placed
from hardpoint.attacks.patch.universal import roughness
from hardpoint.core.box import Box
from hardpoint.core.errors import DataError, NothingToTest, ThreatError
from hardpoint.threats import L0, L1, L2, Linf, Patch, Targeted
from small_models import Noisy, conv, labelled, linear, rand, randn

STILL = Poses(rotation=0, contrast=0, brightness=0, sizes=(1.0,))


def halves(x: torch.Tensor, y: torch.Tensor):
    cut = len(x) // 2
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.3), L1(0.8)], ids=lambda b: b.name)
def test_the_best_perturbation_of_one_class_of_a_linear_model(ball):
    """All inputs have the same gradient: the best perturbation is the steepest step of the ball."""
    w = randn(20, seed=1, dtype=torch.float64)
    x = 0.3 + 0.4 * rand(200, 20, dtype=torch.float64)
    model = linear(
        torch.stack([torch.zeros_like(w), w]), torch.tensor([0.0, -float((x @ w).max()) - 0.01]).double()
    )
    y = torch.zeros(200, dtype=torch.int64)
    result = UniversalPerturbation(steps=60, batch=32)(model, *halves(x, y), ball)
    best = {"Linf": 0.05 * w.abs().sum(), "L2": 0.3 * w.norm(), "L1": 0.8 * w.abs().max()}[
        ball.describe()["kind"]
    ]
    assert float(result.perturbation @ w) >= 0.98 * float(best)
    falls = ((x[100:] + result.perturbation).clamp(0, 1) @ w) > float((x @ w).max()) + 0.01
    assert torch.equal(result.broken, falls)
    assert result.success.count == int(falls.sum())
    assert result.control.value <= result.success.value


def test_held_out_inputs_are_judged_inside_the_budget():
    model = conv()
    x = rand(80, 2, 6, 5)
    y = labelled(model, x)
    y[45] = (y[45] + 1) % 5  # a wrong one is not there to break
    result = UniversalPerturbation(steps=40)(model, *halves(x, y), Linf(0.2))
    assert result.success.n == 39
    assert 5 not in result.index
    held_out = x[40:][result.index]
    assert Linf(0.2).around(held_out, Box(0, 1)).contains(result.adversarial).all()
    with torch.no_grad():
        assert torch.equal(model(result.adversarial).argmax(1) != y[40:][result.index], result.broken)
    assert result.success.value >= result.control.value
    assert result.passes.backward == 40 * 40
    again = UniversalPerturbation(steps=40)(model, *halves(x, y), Linf(0.2), batch_size=7)
    assert torch.allclose(again.perturbation, result.perturbation, atol=1e-5)


def test_a_target_for_all():
    model = conv()
    x = rand(80, 2, 6, 5)
    y = labelled(model, x)
    result = UniversalPerturbation(steps=60)(model, *halves(x, y), Threat(Linf(0.5), goal=Targeted(1)))
    with torch.no_grad():
        assert (model(result.adversarial[result.broken]).argmax(1) == 1).all()
    assert result.success.value > 0.5


@pytest.mark.parametrize("attack", [UniversalPerturbation(steps=3), UniversalPatch(steps=3, poses=STILL)])
def test_what_cannot_be_judged_is_refused(attack):
    threat = Patch(area=0.2) if isinstance(attack, UniversalPatch) else Linf(0.1)
    model, x = conv(), rand(20, 2, 6, 5)
    y = labelled(model, x)
    with pytest.raises(DataError, match="among the training inputs"):
        attack(model, (x[:12], y[:12]), (x[10:], y[10:]), threat)
    with pytest.raises(NothingToTest):
        attack(model, (x[:10], y[:10]), (x[10:], (y[10:] + 1) % 5), threat)
    with pytest.raises(DataError, match="shape"):
        attack(model, (x[:10, :, :, :4], y[:10]), (x[10:], y[10:]), threat)
    with pytest.raises(ThreatError):
        attack(model, (x[:10], y[:10]), (x[10:], y[10:]), L0(3))
    with pytest.raises(ThreatError, match="infinite|finite"):
        UniversalPerturbation()(model, (x[:10], y[:10]), (x[10:], y[10:]), L2(math.inf))


# --- patches -------------------------------------------------------------------------------------------------


def poses(n: int, **changes: float) -> Pose:
    given = {"row": 3.0, "column": 3.0, "side": 3.0, "angle": 0.0, "gain": 1.0, "offset": 0.0, **changes}
    return Pose(**{key: torch.full((n,), value, dtype=torch.float64) for key, value in given.items()})


def test_an_upright_patch_is_copied_and_a_turned_one_turns():
    x, patch = rand(2, 2, 8, 9), rand(2, 3, 3, seed=3)
    z = placed(x, patch, poses(2), Box(0, 1))
    assert torch.allclose(z[:, :, 2:5, 2:5], patch.expand(2, -1, -1, -1), atol=1e-6)
    turned = placed(x, patch, poses(2, angle=math.pi / 2), Box(0, 1))
    assert torch.allclose(
        turned[0, :, 2:5, 2:5], torch.rot90(patch, -1, dims=(1, 2)), atol=1e-6
    ) or torch.allclose(turned[0, :, 2:5, 2:5], torch.rot90(patch, 1, dims=(1, 2)), atol=1e-6)
    z[:, :, 2:5, 2:5] = x[:, :, 2:5, 2:5]
    assert torch.equal(z, x)
    lit = placed(x, patch, poses(2, gain=0.5, offset=0.1), Box(0, 1))
    assert torch.allclose(lit[0, :, 2:5, 2:5], (patch - 0.5) * 0.5 + 0.6, atol=1e-6)


def test_a_pose_stays_inside_its_bound():
    x, patch = torch.zeros(1, 1, 32, 32), torch.ones(1, 9, 9)
    for k in range(40):
        pose = poses(1, row=14.0 + 0.1 * k, column=16.3, side=5.0 + 0.2 * k, angle=0.1 * k)
        area = float(pose.bound().square()) / 1024
        assert Patch(area).around(x, Box(0, 1)).contains(placed(x, patch, pose, Box(0, 1)))


def test_the_gradient_reaches_the_patch():
    x, patch = rand(3, 2, 8, 9, dtype=torch.float64), rand(2, 3, 3, seed=3, dtype=torch.float64)
    pose = poses(3, side=3.7, angle=0.3, gain=0.9)
    assert torch.autograd.gradcheck(lambda p: placed(x, p, pose, Box(-1, 2)), patch.requires_grad_(True))


def test_the_best_patch_of_a_linear_model_at_a_fixed_place():
    w = randn(2, 6, 7, seed=1)
    x = 0.3 + 0.4 * rand(120, 2, 6, 7)
    top = float((x * w).flatten(1).sum(1).max()) + 0.01
    model = linear(torch.stack([torch.zeros(84), w.flatten()]), torch.tensor([0.0, -top]))
    y = torch.zeros(120, dtype=torch.int64)
    attack = UniversalPatch(steps=80, poses=STILL)
    result = attack(model, *halves(x, y), Patch(area=9 / 42, location=(2, 3)))
    best = (w[:, 2:5, 3:6] > 0).float()
    assert torch.allclose(result.patch, best, atol=0.02)
    z = x[60:].clone()
    z[:, :, 2:5, 3:6] = result.patch
    falls = (z * w).flatten(1).sum(1) > top
    assert torch.equal(result.broken, falls)
    assert [cell.place for cell in result.cells] == ["fixed"]
    assert result.cells[0].success == result.success
    printed = attack(model, *halves(x, y), Patch(area=9 / 42, location=(2, 3), palette=((0, 0), (1, 1))))
    assert set(printed.patch.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(printed.patch[0], printed.patch[1])


def test_success_is_told_by_size_and_place():
    model = conv()
    x = rand(60, 2, 6, 5)
    y = labelled(model, x)
    attack = UniversalPatch(steps=100, poses=Poses(sizes=(0.5, 1.0)))
    result = attack(model, *halves(x, y), Patch(area=0.3))
    assert result.patch.shape == (2, 3, 3)
    assert len(result.cells) == 18
    assert {cell.place for cell in result.cells} >= {"top left", "middle", "bottom right"}
    assert all(cell.success.n == 30 for cell in result.cells)
    area = {cell.size: cell.area for cell in result.cells}
    assert math.isclose(area[1.0], 9 / 30)
    assert math.isclose(area[0.5], 9 / 120)
    mean = {s: sum(c.success.value for c in result.cells if c.size == s) for s in (0.5, 1.0)}
    assert mean[1.0] > mean[0.5]
    gains = [cell.success.value - cell.control.value for cell in result.cells]
    assert sum(gains) / len(gains) > 0.03  # 540 pictures; a single pose's 30 are too few to tell
    again = attack(model, *halves(x, y), Patch(area=0.3))
    assert torch.equal(again.patch, result.patch)
    assert again.cells == result.cells


def test_smoothness_is_charged_for():
    model = conv()
    x = rand(40, 2, 6, 5)
    y = labelled(model, x)
    rough, smooth = (
        UniversalPatch(steps=40, poses=STILL, smoothness=s)(model, *halves(x, y), Patch(area=0.5)).patch
        for s in (0.0, 20.0)
    )
    assert roughness(smooth) < 0.5 * roughness(rough)


def test_random_models_are_judged_by_their_usual_answer():
    model = Noisy(
        linear(torch.stack([torch.zeros(12), torch.ones(12)]), torch.tensor([0.0, -8.0])), 0.3
    ).eval()
    x = 0.2 + 0.3 * rand(40, 12)
    y = torch.zeros(40, dtype=torch.int64)
    result = UniversalPerturbation(steps=10)(model, *halves(x, y), Linf(0.5))
    assert result.success.value > 0.8


def test_global_random_state_is_left_alone():
    model, x = conv(), rand(20, 2, 6, 5)
    y = labelled(model, x)
    before = torch.get_rng_state()
    UniversalPatch(steps=3, poses=STILL)(model, *halves(x, y), Patch(area=0.3))
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: UniversalPerturbation(steps=0),
        lambda: UniversalPatch(steps=0),
        lambda: UniversalPatch(poses=Poses(sizes=())),
        lambda: UniversalPatch(poses=Poses(sizes=(1.5,))),
        lambda: UniversalPatch(smoothness=-1),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ThreatError):
        make()
