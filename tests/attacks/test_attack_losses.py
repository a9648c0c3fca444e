"""Losses: scale, shift and order of the classes are no secret weapon; and what attacks refuse, with the cure."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hardpoint.attacks import APGD, FGSM, PGD, HopSkipJump, MultiTargeted, Square, TableSearch
from hardpoint.attacks.gradient.apgd import checkpoints, target_of_rank
from hardpoint.attacks.losses import Loss, goal_loss, targeted, untargeted
from hardpoint.core.box import Box
from hardpoint.core.errors import (
    BadModelOutput,
    ConfigError,
    DataError,
    HardpointError,
    ModelError,
    NonFiniteOutput,
    NothingToTest,
    ThreatError,
)
from hardpoint.core.rng import Rng
from hardpoint.engine import Task
from hardpoint.models.torch import TorchModel
from hardpoint.threats import Linf, Targeted, Threat, Untargeted
from hardpoint.threats.goals import margin_over
from small_models import Affine, Ledger, NaNs, conv, linear, mlp, rand, randn


def scores_of(seed: int, classes: int, n: int = 16, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    z = scale * randn(n, classes, seed=seed, dtype=torch.float64)
    return z, torch.arange(n) % classes


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 12), st.sampled_from(list(Loss)))
def test_losses_know_who_wins(seed, classes, loss):
    z, y = scores_of(seed, classes)
    value, margin = untargeted(loss, z, y), margin_over(z, y)
    if loss is Loss.CE:
        assert (value >= margin - 1e-12).all()  # log Σ exp lies above the maximum by at most log K
        assert (value <= margin + torch.tensor(float(classes)).log() + 1e-12).all()
    else:
        assert torch.equal(value > 0, margin > 0)


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(2, 12),
    st.sampled_from(list(Loss)),
    st.floats(-100, 100),
    st.floats(-3, 3),
)
def test_shift_changes_nothing_and_scale_only_scales(seed, classes, loss, shift, exponent):
    z, y = scores_of(seed, classes)
    scale = 10.0**exponent
    same = untargeted(loss, z, y)
    assert torch.allclose(untargeted(loss, z + shift, y), same, atol=1e-10)
    if loss is Loss.MARGIN or (loss is Loss.DLR and classes == 2):
        assert torch.allclose(untargeted(loss, scale * z, y), scale * same)
    elif loss is Loss.DLR:
        assert torch.allclose(untargeted(loss, scale * z, y), same, atol=1e-6)


@settings(max_examples=30)
@given(
    st.integers(0, 10**6), st.integers(2, 8), st.sampled_from(list(Loss)), st.randoms(use_true_random=False)
)
def test_classes_may_come_in_any_order(seed, classes, loss, random):
    z, y = scores_of(seed, classes)
    order = list(range(classes))
    random.shuffle(order)
    moved = torch.empty_like(z)
    moved[:, order] = z
    renamed = torch.tensor(order)
    assert torch.allclose(untargeted(loss, moved, renamed[y]), untargeted(loss, z, y))
    other = (y + 1) % classes
    assert torch.allclose(targeted(loss, moved, renamed[y], renamed[other]), targeted(loss, z, y, other))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_ce_slopes_as_cross_entropy_does(seed, classes):
    z, y = scores_of(seed, classes, scale=3.0)
    one, two = z.clone().requires_grad_(True), z.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(untargeted(Loss.CE, one, y).sum(), one)
    (known,) = torch.autograd.grad(nn.functional.cross_entropy(two, y, reduction="sum"), two)
    assert torch.allclose(nn.functional.normalize(ours), nn.functional.normalize(known), atol=1e-9)
    label = int(y[0])
    one, two = z.clone().requires_grad_(True), z.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(goal_loss(Loss.CE, one, y, Targeted(label)).sum(), one)
    target = torch.full_like(y, label)
    (known,) = torch.autograd.grad(-nn.functional.cross_entropy(two, target, reduction="sum"), two)
    assert torch.allclose(nn.functional.normalize(ours), nn.functional.normalize(known), atol=1e-9)


def test_ce_has_a_slope_where_cross_entropy_has_none():
    z = torch.tensor([[200.0, 0.0, -50.0]])
    y = torch.tensor([0])
    one, two = z.clone().requires_grad_(True), z.clone().requires_grad_(True)
    (known,) = torch.autograd.grad(nn.functional.cross_entropy(two, y), two)
    assert not known.any()
    (ours,) = torch.autograd.grad(untargeted(Loss.CE, one, y).sum(), one)
    assert torch.allclose(ours, torch.tensor([[-1.0, 1.0, 0.0]]))


def test_dlr_by_hand():
    """Equations 6 and 7 of the paper."""
    z = torch.tensor([[4.0, 2.0, 1.0, 0.0, -3.0]], dtype=torch.float64)
    y = torch.tensor([0])
    assert float(untargeted(Loss.DLR, z, y)) == pytest.approx(-(4 - 2) / (4 - 1))
    assert float(targeted(Loss.DLR, z, y, torch.tensor([3]))) == pytest.approx(-(4 - 0) / (4 - (1 + 0) / 2))


def test_equal_scores_are_no_accident():
    z = torch.zeros(3, 5)
    for loss in Loss:
        assert torch.isfinite(untargeted(loss, z, torch.arange(3))).all()


# --- flags ----------------------------------------------------------------------------------------------------

SAFE = [
    PGD(steps=8, loss="margin"),
    PGD(steps=8, loss="dlr"),
    APGD(steps=12, loss="margin"),
    APGD(steps=12, loss="dlr"),
    APGD(steps=12, loss="dlr", target_rank=1),
    MultiTargeted(targets=3, probe_steps=2, top=2, steps=6),
    MultiTargeted(targets=3, probe_steps=2, top=2, steps=3, restarts=2),
    Square(queries=30),
    HopSkipJump(queries=80),
]


@pytest.mark.parametrize("attack", SAFE, ids=lambda a: a.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shift_scale_and_order_of_classes_change_no_flag(attack, dtype):
    net = mlp(dtype=dtype)
    x = rand(60, 8, seed=6, dtype=dtype)
    y = net(x).argmax(1)
    threat = Threat(Linf(0.07), access=attack.needs)
    known = attack(net, x, y, threat).broken
    for scale, shift in [(1.0, 100.0), (1.0, -100.0), (1e-3, 0.0), (1e3, 0.0)]:
        other = attack(nn.Sequential(net, Affine(scale, shift)).eval(), x, y, threat).broken
        assert int((other != known).sum()) <= (1 if dtype == torch.float32 else 0)
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.argsort(order)
    other = attack(nn.Sequential(net, Affine(permutation=order)).eval(), x, renamed[y], threat).broken
    assert torch.equal(other, known)


def test_ranks_of_targets_skip_the_right_class():
    ranked = torch.tensor([[0, 2, 1], [1, 0, 2], [2, 1, 0]])
    y = torch.tensor([0, 0, 0])
    x = torch.zeros(3, 1)
    zeros = torch.zeros_like(y)
    task = Task(zeros, y, Linf(0.1).around(x, Box(0, 1)), ranked, zeros, Untargeted(), Box(0, 1), Rng(0))
    assert target_of_rank(task, 1).tolist() == [2, 1, 2]
    assert target_of_rank(task, 2).tolist() == [1, 2, 1]
    assert target_of_rank(task, 9).tolist() == [1, 2, 1]
    assert target_of_rank(task, torch.tensor([1, 2, 1])).tolist() == [2, 2, 2]


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 33, 100, 1000])
def test_checkpoints_never_run_past_the_end(steps):
    marks = checkpoints(steps)
    assert marks == sorted(set(marks))
    assert marks[0] >= 1
    assert marks[-1] <= steps


def test_checkpoints_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_a_targeted_attack_reaches_its_target_or_nothing():
    net = mlp()
    x = rand(40, 8, seed=2)
    y = net(x).argmax(1)
    goal = Targeted(1)
    for attack in SAFE:
        result = attack(net, x, y, Threat(Linf(0.2), goal=goal, access=attack.needs))
        assert (net(result.adversarial[result.broken]).argmax(1) == 1).all()
        assert not result.broken[y == 1].any()


# --- what is refused ------------------------------------------------------------------------------------------

ATTACKS = [FGSM(), PGD(steps=2), APGD(steps=2), Square(queries=3), HopSkipJump(queries=3)]
NET, X = mlp(), rand(6, 8)
Y = NET(X).argmax(1)
ONE_COLUMN = linear(torch.ones(1, 8), torch.tensor([-4.0]))


class NoColumns(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :0]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
@pytest.mark.parametrize(
    ("model", "x", "y", "kind", "words"),
    [
        (NET, X[:0], Y[:0], NothingToTest, "at least one"),
        (NET, X, Y[:3], DataError, "one label per input"),
        (NET, X, Y + 9, DataError, "4 classes"),
        (NET, X, Y - 9, DataError, "negative"),
        (NET, X, Y + 0.5, DataError, "whole number"),
        (NET, X.clone().fill_(torch.nan), Y, DataError, "row 0"),
        (NET, X.clone().fill_(torch.inf), Y, DataError, "row 0"),
        (NET, 255 * X, Y, DataError, "input range"),
        (NET, rand(6, 5), Y, ModelError, r"shape \(5,\)"),
        (NET, X.double(), Y, ModelError, "float64"),
        (nn.Sequential(NaNs(0.0), NET), X, Y, NonFiniteOutput, "input 0"),
        (ONE_COLUMN, X, Y.clamp(max=1) + 1, DataError, "2 classes"),
        (NoColumns().eval(), X, Y, BadModelOutput, "two class"),
        (conv(), X, Y, ModelError, "shape"),
        ("no.such:thing", X, Y, ModelError, "install it"),
    ],
)
def test_what_cannot_be_attacked_is_refused_with_the_cure(attack, model, x, y, kind, words):
    if (attack.needs.word == "labels" and kind in (BadModelOutput, NonFiniteOutput)) or (
        attack.needs.word == "labels" and words.endswith("classes")
    ):
        pytest.skip("labels alone do not show it")
    with pytest.raises(kind, match=words) as caught:
        attack(model, x, y, Threat(Linf(0.1), access=attack.needs))
    assert isinstance(caught.value, HardpointError)
    assert caught.value.cure


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: PGD(steps=0), ThreatError),
        (lambda: PGD(restarts=0), ThreatError),
        (lambda: PGD(loss="hinge"), ThreatError),
        (lambda: APGD(steps=0), ThreatError),
        (lambda: APGD(target_rank=0), ThreatError),
        (lambda: MultiTargeted(targets=0), ThreatError),
        (lambda: MultiTargeted(probe_steps=0), ThreatError),
        (lambda: MultiTargeted(targets=2, top=3), ThreatError),
        (lambda: MultiTargeted(restarts=0), ThreatError),
        (lambda: Square(queries=0), ThreatError),
        (lambda: Square(p_init=0), ThreatError),
        (lambda: HopSkipJump(queries=0), ThreatError),
        (lambda: TableSearch(parents=1), ThreatError),
        (lambda: TableSearch(needs="everything"), ThreatError),
        (lambda: PGD(steps=1)(NET, X, Y, Linf(0.1), batch_size=0), ConfigError),
        (lambda: PGD(steps=1)(NET, X, Y, Linf(0.1), batch_size=-3), ConfigError),
        (lambda: PGD(steps=1)(NET, X, Y, 0.1), ThreatError),
        (lambda: PGD(steps=1)(NET, X, Y, Linf(-0.1)), ThreatError),
        (lambda: PGD(steps=1)(NET, X, Y, Threat(Linf(0.1), goal=Targeted(9))), ThreatError),
        (lambda: PGD(steps=1)(NET, X, Y, Threat(Linf(0.1), access="scores")), ThreatError),
        (lambda: PGD(steps=1)(Ledger(NET, "scores"), X, Y, Linf(0.1)), ThreatError),
        (lambda: Square(queries=1)(Ledger(NET, "labels"), X, Y, Linf(0.1)), ThreatError),
        (
            lambda: Square(queries=1)(Ledger(NET, "labels"), X, Y, Threat(Linf(0.1), access="scores")),
            ThreatError,
        ),
        (
            lambda: PGD(steps=2)(TorchModel(NET, input_range=(-torch.inf, torch.inf)), X, Y, Linf(torch.inf)),
            ThreatError,
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_cure(make, kind):
    with pytest.raises(kind) as caught:
        make()
    assert caught.value.cure


def test_arrays_lists_and_labels_of_other_types_are_taken():
    known = FGSM()(NET, X, Y, Linf(0.1))
    for x, y in [
        (X.numpy(), Y.numpy()),
        (X, Y.to(torch.uint8)),
        (X, Y.double()),
        (X.tolist(), Y.tolist()),
        (X, Y.unsqueeze(1)),
    ]:
        assert torch.equal(FGSM()(NET, x, y, Linf(0.1)).adversarial, known.adversarial)


def test_a_budget_of_nothing_breaks_nothing():
    for attack in ATTACKS:
        result = attack(NET, X, Y, Threat(Linf(0.0), access=attack.needs))
        assert not result.broken.any()
        assert torch.equal(result.adversarial, X)


def test_restarts_pursue_the_same_targets_from_other_starts():
    attack = MultiTargeted(targets=3, probe_steps=2, top=2, steps=3, restarts=2)
    assert attack.turns == 3 * 3 + 2 * 2 * 4
    assert attack.name == "MultiTargeted 3×2 + 2×(2×3)"
    order = torch.tensor([[3, 1, 2]])
    first_turns = torch.tensor([0, 3, 6, 9, 13, 17, 21])
    legs, taken, _ = attack._place(first_turns)
    assert taken.tolist() == [0] * 7
    assert [int(attack._rank(leg[None], order)) for leg in legs] == [1, 2, 3, 3, 1, 3, 1]
    once = MultiTargeted(targets=3, probe_steps=2, top=2, steps=3)
    assert once.name == "MultiTargeted 3×2 + 2×3"
    assert once.turns == 3 * 3 + 2 * 4
