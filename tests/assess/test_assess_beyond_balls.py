"""Assessments under threats that are no norm balls, and through surrogates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.assess.cascade import Mode, cascade
from hardpoint.attacks import SpatialGrid, Transfer
from hardpoint.core.errors import HardpointError, ThreatError
from hardpoint.evidence.assessment import Status
from hardpoint.threats import perceptual
from small_models import conv, labelled, mlp, rand

QUIET = {"progress": False}
NET = conv(channels=3)
X = rand(24, 3, 6, 5, seed=3)
Y = labelled(NET, X)


@pytest.mark.parametrize(
    "what",
    [
        hp.Patch(area=4 / 30),
        hp.Spatial(rotation=20, translation=0.2, angles=5, shifts=3),
        hp.Colour(hue=60, saturation=0.5, contrast=0.3, brightness=0.2),
        hp.Flow(1.0, spacing=2),
        hp.SNR(20),
        hp.Perceptual(8.0),
    ],
    ids=lambda what: what.name,
)
@pytest.mark.parametrize("access", ["gradients", "scores", "labels"])
@pytest.mark.usefixtures("no_panel")
def test_every_access_breaks_inputs_inside_the_threat_and_in_any_batch(what, access):
    threat = hp.Threat(what, access=access, queries=None if access == "gradients" else 80)
    results = [
        hp.assess(NET, X, Y, threat=threat, budget=hp.Budget(passes=200), batch_size=b, **QUIET)
        for b in (5, 24)
    ]
    result = results[0]
    fell = torch.from_numpy(result.record.outcomes.status == Status.BROKEN)
    assert fell.any()
    assert (NET(result.adversarial[fell]).argmax(1) != Y[fell]).all()
    region = what.around(X[fell], hp.models.TorchModel(NET).box)
    assert region.contains(result.adversarial[fell]).all()
    assert torch.equal(results[1].broken, result.broken)


@pytest.mark.usefixtures("no_panel")
def test_the_grid_of_poses_is_searched_completely():
    threat = hp.Spatial(rotation=10, translation=0.2, angles=3, shifts=3)
    result = hp.assess(NET, X, Y, threat=threat, **QUIET)
    region = threat.around(X, hp.models.TorchModel(NET).box)
    falls = torch.zeros(len(X), dtype=torch.bool)
    for pose in range(len(region.poses)):
        made = region.images(torch.arange(len(X)), torch.full((len(X),), pose))
        falls |= NET(made).argmax(1) != Y
    assert torch.equal(result.broken, falls)
    assert [stage.name for stage in result.record.stages] == [SpatialGrid(poses=27).name]


@pytest.mark.parametrize(
    "what",
    [
        hp.Spatial(rotation=20, angles=5, shifts=3),
        hp.Colour(hue=20),
        hp.Flow(0.5),
        hp.SNR(30),
        hp.Perceptual(2.0),
    ],
    ids=lambda what: what.name,
)
def test_the_panel_runs_under_every_threat(what, monkeypatch):
    monkeypatch.setattr(perceptual, "_HALVINGS", 5)  # projections that are coarse, and inside all the same
    y = Y.clone()
    y[:3] = (y[:3] + 1) % 5  # some are wrong to begin with
    result = hp.assess(NET, X, y, threat=what, budget=hp.Budget(passes=300), **QUIET)
    checks = {check.id: check for check in result.record.checks}
    assert {"HP301", "HP303", "HP304", "HP305"} <= set(checks)
    assert all(check.explanation for check in checks.values())
    at_one = [point.rate.value for point in result.record.eps_curve if point.x == what.eps]
    assert at_one == ([] if isinstance(what, hp.Spatial) else [result.robust_accuracy.value])


def test_limits_on_queries_are_kept_and_said_for_poses_too():
    threat = hp.Threat(hp.Spatial(rotation=2, translation=0.02, angles=5, shifts=3), access="labels")
    result = hp.assess(NET, X, Y, threat=threat, budget=hp.Budget(queries=10), **QUIET)
    assert int(result.record.outcomes.queries.max()) <= 10
    assert "HP401" in {f.id for f in result.findings}


def test_a_threat_may_allow_more_queries_than_any_mode():
    stages = cascade(hp.Threat(hp.Linf(0.1), access="scores", queries=100_000), Mode.FAST, 10)
    assert stages[0].attack.queries == 100_000


def test_the_panel_runs_what_applies_to_a_patch():
    result = hp.assess(NET, X, Y, threat=hp.Patch(area=2 / 30), **QUIET)
    checks = {check.id: check for check in result.record.checks}
    assert {"HP301", "HP302", "HP303", "HP304", "HP311", "HP314"} <= set(checks)
    assert "HP309" not in checks
    assert checks["HP303"].measured == 0.0


def test_what_a_surrogate_breaks_costs_a_black_box_attacker_few_queries():
    x = rand(40, 8, seed=8)
    net = mlp()
    threat = hp.Threat(hp.Linf(0.08), access="labels", queries=200)
    blind = hp.assess(net, x, labelled(net, x), threat=threat, **QUIET)
    helped = hp.assess(net, x, labelled(net, x), threat=threat, surrogates=mlp(), **QUIET)
    assert helped.record.stages[0].name.startswith("Transfer")
    assert helped.record.stages[0].broken > 0
    assert helped.passes.queries < blind.passes.queries
    assert helped.robust_accuracy.value <= blind.robust_accuracy.value
    assert int(helped.record.outcomes.queries.max()) <= 200


def test_surrogates_without_gradients_are_refused_with_the_cure():
    class Answers:
        access, box = hp.models.TorchModel(mlp()).access, hp.models.TorchModel(mlp()).box

    x = rand(4, 8)
    with pytest.raises(HardpointError):
        hp.assess(mlp(), x, labelled(mlp(), x), threat=hp.Linf(0.1), surrogates=Answers(), **QUIET)


def test_thorough_tries_every_idea_once():
    stages = cascade(hp.Threat(hp.L2(0.5)), Mode.THOROUGH, 10, surrogates=())
    attacks = [stage.attack for stage in stages]
    assert len(set(attacks)) == len(attacks)
    through = cascade(
        hp.Threat(hp.L2(0.5)), Mode.THOROUGH, 10, surrogates=(hp.models.TorchModel(nn.Linear(2, 2)),)
    )
    assert [type(s.attack) for s in through[len(stages) :]] == [Transfer, Transfer]


@pytest.mark.parametrize(
    "make",
    [
        lambda: hp.Patch(location=5),
        lambda: hp.Patch(location=("a", "b")),
        lambda: hp.Patch(palette=3),
        lambda: hp.Patch(area="x"),
        lambda: hp.Colour(hue="red"),
        lambda: hp.Spatial(border="x"),
        lambda: hp.SNR(-7000),
        lambda: hp.Threat(hp.Linf(0.1), access="labels", queries=2.5),
        lambda: hp.Threat(hp.Linf(0.1), access="labels", queries="5"),
        lambda: hp.Threat(hp.Linf(0.1), access="labels", queries=10**20),
    ],
)
def test_what_makes_no_threat_is_refused_in_words(make):
    with pytest.raises(ThreatError):
        make()


@pytest.mark.parametrize("surrogate", [nn.Linear(5, 3), nn.Sequential(nn.Flatten(), nn.Linear(90, 7))])
def test_surrogates_that_do_not_fit_are_refused_before_anything_is_spent(surrogate):
    with pytest.raises(ThreatError, match="surrogate"):
        hp.assess(NET, X, Y, threat=hp.Linf(0.1), surrogates=surrogate.eval(), **QUIET)


def test_borders_may_be_words():
    assert hp.Spatial(border="edge").describe()["border"] == "edge"
