"""CAPGD and MOEVA: closed-form truths on linear models, validity, independence of batches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hardpoint import Linf, Threat
from hardpoint.attacks import APGD, CAPGD, MOEVA, TableSearch, caa
from hardpoint.attacks.tabular.capgd import Relaxed, distance_to_relations
from hardpoint.attacks.tabular.genes import crossed, gene_of, mutated, of_kind, window
from hardpoint.attacks.tabular.pareto import fronts
from hardpoint.core.access import Access
from hardpoint.core.box import UNBOUNDED
from hardpoint.core.errors import ThreatError
from hardpoint.models.torch import TorchModel
from hardpoint.threats import Targeted
from hardpoint.threats.features import Feature, FeatureEdits, FeatureEditsRegion, Kind, Mutability, Schema
from small_models import linear, mlp, rand, randn

FEATURES = [
    *(Feature(f"r{i}") for i in range(4)),
    Feature("n", Kind.INTEGER, 0, 20),
    Feature("m", Kind.INTEGER, 0, 20, Mutability.INCREASE),
    Feature("flag", Kind.BINARY),
    Feature("fixed", Kind.INTEGER, 0, 9, Mutability.NO),
    *(Feature(c, Kind.ONE_HOT, group="colour", cost=0.3) for c in ("red", "green", "blue")),
    Feature("size", Kind.ORDINAL, levels=(0.5, 1, 4)),
]
RELATIONS = ["r0 <= r1 + 0.2", "n <= m + 10", "flag > 0 implies r2 > 0.1", "r2 + r3 <= 1.8"]
SCHEMA = Schema(FEATURES, RELATIONS)
D = len(FEATURES)


def rows(n: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    """Valid rows."""
    u = rand(20 * n, D, seed=seed, dtype=torch.float64)
    x = u.clone()
    x[:, 4:6], x[:, 6], x[:, 7] = (u[:, 4:6] * 21).floor(), (u[:, 6] < 0.5).double(), (u[:, 7] * 10).floor()
    x[:, 8:11] = nn.functional.one_hot((u[:, 8] * 3).long(), 3).double()
    x[:, 11] = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)[(u[:, 11] * 3).long()]
    x = x.to(dtype)
    return x[SCHEMA.check(x)][:n]


def boxed(net: nn.Module) -> TorchModel:
    return TorchModel(net.eval(), input_range=UNBOUNDED)


def scaled_mlp(dtype=torch.float32, classes: int = 3, seed: int = 0) -> TorchModel:
    """A small net on values divided by their range."""
    width = torch.tensor([1.0] * 4 + [20.0, 20.0, 1.0, 9.0, 1.0, 1.0, 1.0, 4.0], dtype=dtype)

    class Scale(nn.Module):
        def forward(self, x):
            return x / width

    return boxed(nn.Sequential(Scale(), mlp(D, classes, seed=seed, dtype=dtype)))


ATTACKS = [
    CAPGD(steps=12),
    CAPGD(steps=8, loss="margin", random_start=True),
    MOEVA(generations=12, offspring=16, population=16),
]
BUDGETS = [("linf", 0.2), ("l2", 0.4), ("l1", 0.6), ("l0", 3), ("l2", math.inf)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
def test_examples_are_valid_misclassified_and_found(attack, norm, eps):
    model, x = scaled_mlp(), rows(40)
    y = model.predict(x)
    edits = FeatureEdits(SCHEMA, eps, norm)
    result = attack(model, x, y, Threat(edits, access=attack.needs))
    assert SCHEMA.check(result.adversarial).all()
    assert (model.predict(result.adversarial) != y)[result.broken].all()
    assert (result.distance[result.broken] <= eps).all()
    assert torch.equal(result.adversarial[:, 7], x[:, 7])
    assert (result.adversarial[:, 5] >= x[:, 5]).all()
    assert int(result.broken.sum()) >= 10


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
@pytest.mark.parametrize(("norm", "eps"), BUDGETS[:4])
def test_results_do_not_depend_on_the_batch(attack, norm, eps):
    model, x = scaled_mlp(torch.float64), rows(24, dtype=torch.float64)
    y = model.predict(x)
    threat = Threat(FeatureEdits(SCHEMA, eps, norm), access=attack.needs)
    runs = [attack(model, x, y, threat, batch_size=size) for size in (1, 7, 64)]
    for run in runs[1:]:
        assert torch.equal(run.broken, runs[0].broken)
        assert torch.allclose(run.adversarial, runs[0].adversarial, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_is_broken_from_its_exact_distance_on(norm):
    """Real features, no relation that binds: the distance to the plane in scaled space is known."""
    schema = Schema([Feature(f"f{i}", Kind.REAL, -50, 50) for i in range(6)])
    weight, x = randn(2, 6, seed=3), randn(4, 6, seed=4)
    model = boxed(linear(weight))
    y = model.predict(x)
    gap = weight[0] - weight[1]
    steep = gap.norm() if norm == "l2" else gap.abs().sum()
    exact = ((x @ gap).abs() / steep / 100).double()
    for attack in (CAPGD(steps=40), CAPGD(steps=40, random_start=True)):
        for i in range(len(x)):
            one, label = x[i : i + 1], y[i : i + 1]
            assert not attack(model, one, label, FeatureEdits(schema, float(exact[i]) * 0.999, norm)).broken
            assert attack(model, one, label, FeatureEdits(schema, float(exact[i]) * 1.01, norm)).broken


def test_a_relation_in_the_way_is_followed_along():
    """Only the sum matters and may not grow alone: a must rise with b."""
    schema = Schema([Feature("a"), Feature("b"), Feature("c")], ["a == b"])
    model = boxed(linear(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, -1.0]]), torch.tensor([0.0, -1.0])))
    x = torch.tensor([[0.3, 0.3, 0.2], [0.1, 0.1, 0.0]])
    y = torch.zeros(2, dtype=torch.int64)
    for attack in (CAPGD(steps=30), CAPGD(steps=30, penalty=0), MOEVA(generations=30)):
        result = attack(model, x, y, Threat(FeatureEdits(schema, 0.45, "linf"), access=attack.needs))
        assert result.broken.all()
        assert torch.allclose(result.adversarial[:, 0], result.adversarial[:, 1], atol=1e-6)


def test_integers_that_gradients_move_by_fractions_still_move():
    """Each coordinate's share of an L2 budget is less than one whole step; two or three whole steps are enough."""
    schema = Schema([Feature(f"n{i}", Kind.INTEGER, 0, 20) for i in range(16)])
    model = boxed(
        linear(torch.stack([torch.zeros(16), torch.linspace(0.9, 1.1, 16)]), torch.tensor([0.0, -82.5]))
    )
    x = torch.full((1, 16), 5.0)
    y = model.predict(x)
    assert CAPGD(steps=20)(model, x, y, FeatureEdits(schema, 0.1, "l2")).broken
    assert not CAPGD(steps=20)(model, x, y, FeatureEdits(schema, 0.049, "l2")).broken


def test_targets_and_random_models_of_the_goal():
    model, x = scaled_mlp(), rows(30)
    y = model.predict(x)
    for attack in ATTACKS:
        threat = Threat(FeatureEdits(SCHEMA, 1.0, "l2"), Targeted(2), access=attack.needs)
        result = attack(model, x, y, threat)
        assert (model.predict(result.adversarial) == 2)[result.broken].all()
        assert result.broken.sum() >= 10


def test_distance_to_relations_is_in_units_of_the_budget():
    schema = Schema([Feature("a", high=10.0), Feature("b", high=10.0)], ["a <= b"])
    region = FeatureEdits(schema).around(torch.tensor([[1.0, 5.0], [1.0, 5.0]]), UNBOUNDED)
    assert isinstance(region, FeatureEditsRegion)
    away, slope = distance_to_relations(region, torch.tensor([[6.0, 4.0], [2.0, 4.0]]))
    assert torch.allclose(away, torch.tensor([0.2 / math.sqrt(2), 0.0], dtype=torch.float64))
    assert torch.allclose(slope[0] * 10, torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2))
    assert (slope[1] == 0).all()


def test_the_relaxed_region_keeps_what_cannot_take_one_step():
    x = rows(8)
    region = FeatureEdits(SCHEMA, 0.2, "l2").around(x, UNBOUNDED)
    relaxed = Relaxed.of(region, True)
    z = relaxed.project(x + 1.0)
    assert torch.equal(z[:, 6], x[:, 6])  # a flag costs 1
    assert (z[:, 4] != x[:, 4]).any()
    # whole numbers may be fractions, relations may be broken
    assert (z[:, 4] != z[:, 4].round()).any()


@given(st.integers(0, 10_000))
def test_fronts_are_those_of_the_definition(seed):
    points = (rand(1, 9, 3, seed=seed) * 4).floor()
    found = fronts(points)[0].tolist()
    left, front = set(range(9)), 0
    values = points[0].tolist()
    while left:
        beaten = {
            i for i in left for j in left
            if all(b <= a for a, b in zip(values[i], values[j], strict=True)) and values[i] != values[j]
        }  # fmt: skip
        assert {i for i in left if found[i] == front} == left - beaten
        left, front = beaten, front + 1


def test_genes_cross_mutate_and_keep_their_kinds():
    gene = gene_of(SCHEMA)
    assert gene[8:11].unique().numel() == 1
    assert int(gene[7]) == -1
    x = rows(2, seed=5)
    first, second = x[:1].unsqueeze(1).double(), x[1:2].unsqueeze(1).double()
    everything = crossed(first, second, gene, torch.tensor([[[0.0, 0.999]]]))
    assert torch.equal(everything[0, 0, gene >= 0], second[0, 0, gene >= 0])
    assert torch.equal(everything[0, 0, 7], first[0, 0, 7])
    assert torch.equal(crossed(first, second, gene, torch.tensor([[[0.4, 0.4]]])), first)
    zero, one = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    u = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    moved = mutated(zero + 0.4, zero, one, u, 10.0)
    assert torch.allclose(moved[[0, 2, 4]], torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64))
    assert (moved.diff() >= 0).all()
    region = FeatureEdits(SCHEMA, 0.1, "l2").around(x, UNBOUNDED)
    low, high = window(region)
    assert torch.allclose((high - low)[:, 4].clamp(max=4.0), (high - low)[:, 4])
    wild = of_kind(10 * randn(2, D, dtype=torch.float64), SCHEMA, region.low, region.high)
    bare = Schema(FEATURES)
    assert bare.check(wild).all()


def test_the_cascade_by_what_may_be_seen():
    assert [type(stage) for stage in caa(Access.GRADIENTS)] == [CAPGD, CAPGD, MOEVA]
    assert [stage.turns * stage.offspring for stage in caa("scores", queries=320)] == [320]
    assert [type(stage) for stage in caa("labels")] == [TableSearch]
    assert caa("scores", queries=5)[0].offspring == 5


def test_misuse_is_named():
    plain, z = TorchModel(mlp(D)), rand(4, D)
    for attack in (CAPGD(), MOEVA()):
        with pytest.raises(ThreatError, match="rows of a table"):
            attack(plain, z, plain.predict(z), Threat(Linf(0.1), access=attack.needs))
    with pytest.raises(ThreatError, match="steps"):
        CAPGD(steps=0)
    with pytest.raises(ThreatError, match="penalty"):
        CAPGD(penalty=-1.0)
    with pytest.raises(ThreatError, match="generations"):
        MOEVA(generations=0)


def test_it_finds_no_less_than_projecting_every_step():
    model, x = scaled_mlp(seed=2), rows(60, seed=7)
    y = model.predict(x)
    for norm, eps in (("l2", 0.12), ("linf", 0.05)):
        edits = FeatureEdits(SCHEMA, eps, norm)
        ours, plain = CAPGD(steps=20)(model, x, y, edits), APGD(steps=20)(model, x, y, edits)
        assert int(ours.broken.sum()) >= int(plain.broken.sum())
