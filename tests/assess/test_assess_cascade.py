"""Who meets which stage: decided for each input alone, free of scale, with a control that is honest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.assess.cascade import QUOTA, Mode, cascade, quota, wider
from hardpoint.assess.stage import Stage, disagree
from hardpoint.attacks import PGD
from hardpoint.evidence import StageRecord, Status, Verdict
from hardpoint.threats import Threat
from small_models import Affine, labelled, mlp, rand

NET = mlp(dtype=torch.float64)
X = rand(300, 8, seed=8, dtype=torch.float64)
Y = labelled(NET, X)
QUIET = {"progress": False}


def test_an_input_whose_lead_is_not_known_meets_every_stage():
    lead = np.array([0.0, 0.5, 0.500001, 1.0, -0.1, np.nan])
    calm = np.zeros(6, dtype=bool)
    assert Stage(PGD(), left=0.5).beyond(lead, calm).tolist() == [False, False, True, True, False, False]
    assert not Stage(PGD()).beyond(lead, calm).any()


def test_inputs_about_which_searches_disagree_meet_stages_that_look_for_them():
    before = np.array([np.nan, 1.0, 1.0, 0.9, 0.5])
    left = np.array([0.9, 0.9, 0.7, 0.9, 0.6])
    rugged = disagree(before, left)
    assert rugged.tolist() == [False, False, True, False, False]
    assert Stage(PGD(), left=0.5, rugged=True).beyond(left, rugged).tolist() == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert Stage(PGD(), left=0.5).beyond(left, rugged).all()


@pytest.mark.parametrize(
    ("inputs", "broken", "due"), [(10, 2, True), (10, 1, False), (100, 3, True), (100, 2, False)]
)
def test_a_stage_that_must_pay_follows_two_finds_and_a_share(inputs, broken, due):
    before = StageRecord("Memetic", inputs, broken, 0, 0, 0, 0.0)
    assert Stage(PGD(), left=0.3, pays=0.03).is_due(before) is due
    assert not Stage(PGD(), left=0.3, pays=0.03).is_due(None)
    assert Stage(PGD(), left=0.3).is_due(None)


def test_the_quota_belongs_to_the_input_and_has_its_size():
    everyone = np.arange(20_000)
    drawn = quota(everyone, seed=3)
    assert abs(drawn.mean() - QUOTA) < 0.005
    shuffled = np.random.default_rng(0).permutation(everyone)
    assert np.array_equal(quota(shuffled, seed=3), drawn[shuffled])
    assert not np.array_equal(quota(everyone, seed=4), drawn)


@pytest.mark.parametrize("mode", [Mode.FAST, Mode.STANDARD])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_dear_stages_meet_only_the_close_and_the_first_ones_all(classes, mode):
    threat = Threat(hp.Linf(0.1))
    stages = cascade(threat, mode, classes)
    fast = cascade(threat, Mode.FAST, classes)
    assert stages[: len(fast)] == fast
    for part in (fast, stages[len(fast) :]):
        always = [s.left for s in part if not s.pays]
        assert always == sorted(always, reverse=True)
    assert stages[0].left == stages[1].left == np.inf
    assert stages[-1].left < 1
    assert wider(Threat(hp.Linf(0.1), access="scores"), mode, classes) == ()


@pytest.mark.parametrize(
    "perturbation",
    [hp.Linf(0.1), hp.L0(3), hp.Spatial(), hp.Patch(0.05), hp.Colour(0.1), hp.Flow(1.0)],
    ids=str,
)
def test_a_dearer_mode_does_all_that_a_cheaper_one_does(perturbation):
    fast, standard, thorough = (cascade(Threat(perturbation), mode, 10) for mode in Mode)
    assert standard[: len(fast)] == fast
    assert {s.attack for s in standard} <= {s.attack for s in thorough}


@pytest.mark.parametrize("classes", [2, 10])
def test_a_wider_search_spares_nobody_and_repeats_nothing(classes):
    threat = Threat(hp.Linf(0.1))
    standard, thorough = (cascade(threat, mode, classes) for mode in (Mode.STANDARD, Mode.THOROUGH))
    assert all(s.left == np.inf for s in (*wider(threat, Mode.FAST, classes), *thorough))
    spared = dict.fromkeys(Stage(s.attack) for s in standard if not s.meets_all)
    assert wider(threat, Mode.STANDARD, classes) == tuple(spared)
    assert wider(threat, Mode.THOROUGH, classes) == ()


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_every_standing_input_is_met_or_spared_and_the_far_ones_cost_little():
    result = hp.assess(NET, X, Y, threat=hp.Linf(0.02), **QUIET)
    right, broken = int((result.record.outcomes.status != Status.CLEAN_ERROR).sum()), 0
    seen: set[str] = set()
    for stage in result.record.stages:
        met_before = stage.name in seen  # nobody meets an attack twice
        assert stage.inputs + stage.spared <= right - broken
        assert met_before or stage.inputs + stage.spared == right - broken
        seen.add(stage.name)
        assert stage.sampled <= stage.inputs
        assert stage.sampled_broken <= min(stage.sampled, stage.broken)
        broken += stage.broken
    spent = result.record.outcomes.forward + result.record.outcomes.backward
    standing = result.record.outcomes.status == Status.STANDING
    assert np.median(spent[standing]) == 21 + 61
    assert spent.max() > 300


@pytest.mark.usefixtures("no_panel", "few_queries")
@pytest.mark.parametrize(("scale", "shift"), [(2.0, 0.0), (1.0, 100.0), (1.0, -100.0)])
def test_who_meets_a_stage_does_not_depend_on_the_scores_shift_or_unit(scale, shift):
    """Another unit changes what cross-entropy climbs; the rule itself, which the first stage's margins feed, not."""
    known = hp.assess(NET, X, Y, threat=hp.Linf(0.03), **QUIET)
    other = hp.assess(nn.Sequential(NET, Affine(scale, shift)).eval(), X, Y, threat=hp.Linf(0.03), **QUIET)
    if scale == 1.0:
        for ours, theirs in zip(known.record.stages, other.record.stages, strict=True):
            assert (ours.inputs, ours.spared) == (theirs.inputs, theirs.spared)
    assert torch.equal(known.broken, other.broken)


class Own(nn.Module):
    """Masks in its own forward, where nothing can be put in the mask's place."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(torch.round(x * 16) / 16)


@pytest.mark.usefixtures("few_queries")
def test_masked_gradients_widen_the_search_and_the_record_says_so():
    net = Own(mlp()).eval()
    x = rand(48, 8, seed=8)
    short = hp.Budget(passes=1000)
    result = hp.assess(net, x, labelled(net, x), threat=hp.Linf(0.08), budget=short, **QUIET)
    said = {f.id: f.message for f in result.findings}
    assert "HP113" in said["HP307"]
    fast = len(cascade(Threat(hp.Linf(0.08)), Mode.FAST, 4))
    assert len(result.record.stages) > fast
    assert any(c.verdict in (Verdict.WARN, Verdict.FAIL) for c in result.record.checks)


@pytest.mark.usefixtures("few_queries")
def test_a_wider_search_meets_whom_the_stages_spared_and_each_of_them_once():
    net = Own(mlp()).eval()
    x = rand(48, 8, seed=8)
    budget = hp.Budget(passes=700)
    result = hp.assess(
        net, x, labelled(net, x), threat=hp.Linf(0.03), mode="standard", budget=budget, **QUIET
    )
    stages = result.record.stages
    names = [s.attack.name for s in cascade(Threat(hp.Linf(0.03)), Mode.STANDARD, 4)]
    first, again = stages[: len(names)], stages[len(names) :]
    whole = {s.attack.name for s in cascade(Threat(hp.Linf(0.03)), Mode.STANDARD, 4) if s.meets_all}
    assert [s.name for s in again] == list(dict.fromkeys(name for name in names if name not in whole))
    assert sum(s.spared for s in first) > 0
    for late in again:
        early = [s for s in first if s.name == late.name]
        assert sum(s.inputs for s in early) + late.inputs <= len(x)
        assert late.inputs <= early[-1].spared
        assert late.spared == 0


@pytest.mark.usefixtures("few_queries")
def test_honest_models_are_not_widened():
    result = hp.assess(NET, X, Y, threat=hp.Linf(0.03), **QUIET)
    assert "HP307" not in {f.id for f in result.findings}
    assert len(result.record.stages) == len(cascade(Threat(hp.Linf(0.03)), Mode.FAST, 4))


def test_one_control_input_that_falls_stands_for_twenty():
    from hardpoint.assess.panel.residual import residual

    first = StageRecord("first", 1000, 100, 0, 0, 0, 0.0)
    calm = StageRecord("last", 50, 0, 0, 0, 0, 0.0, spared=850, sampled=45)
    assert residual((first, calm)).verdict is Verdict.PASS
    alarmed = StageRecord("last", 50, 1, 0, 0, 0, 0.0, spared=850, sampled=45, sampled_broken=1)
    check = residual((first, alarmed))
    assert check.verdict is Verdict.WARN
    assert check.measured == pytest.approx(1 / 1000 + 19 / 1000)
