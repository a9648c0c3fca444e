"""An ensemble is a model: exact against linear members, seen through by attacks, refused where it makes no sense."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.core.errors import AccessDenied, BadModelOutput, ModelError
from hardpoint.defenses import (
    Ensemble,
    MajorityVote,
    MeanLogits,
    MeanProbability,
    WeightedMean,
    calibrated,
)
from hardpoint.defenses.detectors import Margin
from hardpoint.models import Differentiable, TorchModel, limit_access
from small_models import Noisy, conv, labelled, linear, mlp, rand, randn, worst_margin

RULES = [MeanProbability(), MeanLogits(), WeightedMean((0.5, 0.3, 0.2)), MajorityVote()]
QUIET = {"progress": False}


def three() -> list[nn.Module]:
    return [mlp(seed=0), mlp(seed=1, hidden=16), linear(randn(4, 8, seed=2))]


@pytest.mark.parametrize("rule", RULES)
def test_it_is_a_model_whose_module_gives_its_scores(rule):
    x = rand(64, 8, seed=5)
    model = Ensemble(three(), rule)
    assert isinstance(model, Differentiable)
    whole = model.scores(x)
    assert torch.equal(whole, model.module(x).detach())
    assert torch.equal(model.predict(x), whole.argmax(1))
    for size in (1, 7):
        assert torch.allclose(torch.cat([model.scores(part) for part in x.split(size)]), whole, atol=1e-5)
    expected = torch.stack([member(x) for member in three()]).detach()
    assert torch.equal(model.member_scores(x), expected)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again.scores(x), whole)
        assert again.module.members[0] is again.members[0].module


@pytest.mark.parametrize("rule", RULES)
def test_gradients_reach_every_member(rule):
    model = Ensemble([mlp(seed=s) for s in range(3)], rule)
    x = rand(4, 8).requires_grad_(True)
    weights = [member.module[1].weight for member in model.members]
    gradients = torch.autograd.grad(model.module(x)[:, 0].sum(), [x, *weights])
    assert all((gradient != 0).any() for gradient in gradients)


def test_the_record_names_members_and_weights():
    model = Ensemble(three(), WeightedMean((0.5, 0.3, 0.2)))
    told = json.loads(json.dumps(model.describe()))
    assert told["kind"] == "ensemble"
    assert told["name"] == "Ensemble of Sequential, Sequential, Sequential"
    assert [m["name"] for m in told["members"]] == ["Sequential"] * 3
    assert len({told["sha256"], *(m["sha256"] for m in told["members"])}) == 4
    assert told["combine"] == {"kind": "weighted-mean", "weights": [0.5, 0.3, 0.2]}
    assert told["parameters"] == sum(m["parameters"] for m in told["members"])
    assert Ensemble(three(), name="ours").describe()["name"] == "ours"


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_linear_members_with_mean_logits_break_exactly_where_the_mean_does():
    parts, x = [randn(3, 6, seed=s) for s in range(3)], rand(60, 6, seed=9)
    model = Ensemble([linear(part) for part in parts], MeanLogits())
    mean, y = sum(parts) / 3, model.predict(x)
    worst = worst_margin(mean, torch.zeros(3), x, y, "linf", 0.1)
    result = hp.assess(model, x, y, threat=hp.Linf(0.1), **QUIET)
    clear = worst.abs() > 1e-4
    assert torch.equal(result.broken[clear], (worst > 0)[clear])
    assert 0.1 < float(result.broken.double().mean()) < 0.9


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize("rule", [MajorityVote(), MeanProbability()])
def test_an_assessment_finds_what_trying_every_point_finds(rule):
    model, x = Ensemble([linear(4 * randn(3, 2, seed=s)) for s in range(3)], rule), rand(24, 2, seed=9)
    y, eps = model.predict(x), 0.15
    steps = torch.linspace(-eps, eps, 61)
    moves = torch.cartesian_prod(steps, steps)
    around = (x.unsqueeze(1) + moves).clamp(0, 1)
    reached = (model.predict(around.flatten(0, 1)).view(24, -1) != y.unsqueeze(1)).any(1)
    result = hp.assess(model, x, y, threat=hp.Linf(eps), **QUIET)
    assert (result.broken | ~reached).double().mean() > 0.97  # all that the grid finds
    assert 0.1 < float(reached.double().mean()) < 0.9
    assert not {"HP107", "HP113"} & {f.id for f in result.findings}


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_it_can_be_defended_calibrated_and_nested():
    x = rand(60, 8, seed=9)
    inner = Ensemble([mlp(seed=0), mlp(seed=1)], MeanLogits())
    outer = Ensemble([inner, mlp(seed=2)])
    assert outer.describe()["members"][0]["kind"] == "ensemble"
    stages = hp.Defended(outer, [lambda z: z * 0.9])
    assert torch.equal(stages.scores(x), outer.scores(x * 0.9))
    guarded = calibrated(stages, [Margin()], rand(2000, 8, seed=3), alpha=0.1)
    assert guarded.refusal == 4
    result = hp.assess(guarded, x, labelled(outer.module, x), threat=hp.Linf(0.05), **QUIET)
    accepted = guarded.predict(result.adversarial[result.broken]) != guarded.refusal
    clean = guarded.predict(x) == labelled(outer.module, x)
    assert accepted[clean[result.broken]].all()


def test_a_random_member_makes_the_whole_random():
    model, x = Ensemble([mlp(seed=0), Noisy(mlp(seed=1), 1.0).eval()]), rand(64, 8)
    assert "HP105" in {f.id for f in hp.doctor(model, x, model.predict(x))}
    before = torch.get_rng_state()
    model.member_scores(x)
    assert torch.equal(before, torch.get_rng_state())


def test_a_member_in_training_mode_is_found():
    x, members = rand(32, 2, 6, 5), [conv(seed=0), conv(seed=1)]
    members[1].train()
    with pytest.raises(ModelError, match=r"members\.1\.1"):
        hp.assess(Ensemble(members), x, labelled(conv(), x), threat=hp.Linf(0.1), **QUIET)


def test_members_that_cannot_answer_together_are_refused():
    net = mlp()
    refusing = calibrated(hp.Defended(net), [Margin()], rand(500, 8), alpha=0.1)
    cases = [
        ([net], "1 members"),
        (net, "one Sequential"),
        ([], "0 members"),
        ([net, refusing], "member 1 refuses"),
        ([net, TorchModel(mlp(seed=1), input_range=(-1, 1))], "member 1 takes inputs in"),
        ([net, TorchModel(net, input_range=(torch.zeros(3), torch.ones(3, 1)))], None),
        ([net, mlp(seed=1, dtype=torch.float64)], "different precisions"),
        ([limit_access(TorchModel(net), "scores"), net], "member 0 shows answers only"),
    ]
    for members, words in cases:
        if words is None:
            Ensemble(members)  # a box by another name
            continue
        with pytest.raises(ModelError, match=words):
            Ensemble(members)
    for rule in ("mean", MeanLogits):
        with pytest.raises(ModelError, match="combines nothing"):
            Ensemble([net, net], rule)
    with pytest.raises(ModelError, match="2 weights for 3 members"):
        Ensemble(three(), WeightedMean((0.5, 0.5)))


def test_classes_must_agree():
    x = rand(20, 8)
    with pytest.raises(ModelError, match="4, 3 scores per input"):
        hp.assess(Ensemble([mlp(), mlp(classes=3)]), x, labelled(mlp(), x), threat=hp.Linf(0.1), **QUIET)


def test_undeclared_probabilities_are_not_taken_for_scores():
    x, soft = rand(20, 8), nn.Sequential(mlp(), nn.Softmax(1)).eval()
    with pytest.raises(BadModelOutput, match="member 1 returns probabilities"):
        Ensemble([mlp(seed=1), soft]).scores(x)
    declared = Ensemble([mlp(seed=1), TorchModel(soft, probabilities=True)])
    assert torch.allclose(declared.scores(x), Ensemble([mlp(seed=1), mlp()]).scores(x), atol=1e-5)


def test_access_is_the_least_of_the_members():
    labels_only = TorchModel(mlp(seed=1), access="labels")
    model = Ensemble([mlp(), labels_only])
    assert model.access.word == "labels"
    with pytest.raises(AccessDenied):
        model.scores(rand(2, 8))
    assert model.predict(rand(2, 8)).shape == (2,)
