"""A model behind defences: the same answers, gradients that cross as declared, refusals that are no success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hardpoint as hp
from hardpoint.attacks import PGD, Square, Transfer
from hardpoint.core.errors import HardpointError, ModelError
from hardpoint.defenses import AdditiveNoise, calibrated
from hardpoint.defenses.alarm import Alarm
from hardpoint.defenses.defended import DefendedModel, defended
from hardpoint.defenses.detectors import FeatureSqueezing, Margin, NearestNeighbours
from hardpoint.defenses.layer import StageLayer
from hardpoint.defenses.looking import look
from hardpoint.defenses.stage import GradientPath
from hardpoint.evidence import Status
from hardpoint.models import TorchModel
from hardpoint.threats.goals import Untargeted, margin_over
from small_models import labelled, mlp, rand

QUIET = {"progress": False}


@dataclass(frozen=True)
class Steps:
    """Rounds to so many steps."""

    steps: int = 4
    gradient: GradientPath = GradientPath.STRAIGHT_THROUGH
    is_random: ClassVar[bool] = False

    def apply(self, x):
        return torch.round(x * self.steps) / self.steps

    def backward(self, x, gradient):
        return 3 * gradient

    def describe(self) -> dict[str, Any]:
        return {"kind": "steps", "steps": self.steps}


@dataclass(frozen=True)
class First:
    """The first number of the input is how suspicious it looks."""

    name: ClassVar[str] = "first"
    layers: ClassVar[tuple[str, ...]] = ()

    def score(self, seen):
        return seen.x[:, 0]

    def describe(self) -> dict[str, Any]:
        return {"kind": "first"}


def halves(width: int = 3) -> nn.Module:
    """Class 1 where the first number is above one half."""
    net = nn.Linear(width, 2).eval()
    with torch.no_grad():
        net.weight.zero_()
        net.weight[1, 0] = 10.0
        net.bias.copy_(torch.tensor([0.0, -5.0]))
    return net


def guarded() -> DefendedModel:
    return defended(halves(), detectors=[Alarm(First(), 0.6, classes=2, unit=0.1)])


def test_the_answers_are_those_of_the_stages_and_then_the_network():
    net, x = mlp(), rand(50, 8, seed=8)
    model = defended(net, [Steps(4), lambda z: z * 0.9])
    assert torch.equal(model.scores(x), net(torch.round(x * 4) / 4 * 0.9).detach())
    assert model.refusal is None
    told = model.describe()["defences"]
    assert [stage["kind"] for stage in told] == ["steps", "<lambda>"]
    assert told[1] != defended(net, [Steps(4), lambda z: z * 0.8]).describe()["defences"][1]


@pytest.mark.parametrize(
    ("path", "slope"),
    [(GradientPath.STRAIGHT_THROUGH, 1.0), (GradientPath.OWN, 3.0), (GradientPath.PROBED, 0.0)],
)
def test_a_gradient_crosses_as_the_stage_says(path, slope):
    x = rand(4, 3).requires_grad_(True)
    out = StageLayer(Steps(gradient=path))(x)
    assert torch.equal(out, torch.round(x * 4) / 4)
    assert torch.allclose(torch.autograd.grad(out.sum(), x)[0], torch.full_like(x, slope))


def test_a_stage_that_changes_the_shape_cannot_be_crossed_straight():
    class Doubles(Steps):
        def apply(self, x):
            return torch.cat([x, x], 1)

    x = rand(4, 3).requires_grad_(True)
    with pytest.raises(ModelError, match="OWN"):
        StageLayer(Doubles())(x).sum().backward()


def test_a_gradient_of_its_own_needs_a_backward():
    class Without:
        gradient, is_random = GradientPath.OWN, False
        apply = staticmethod(lambda x: x)
        describe = staticmethod(dict)

    with pytest.raises(ModelError, match="backward"):
        defended(mlp(), [Without()])


@given(st.integers(0, 10_000))
def test_the_margin_is_positive_exactly_where_a_wrong_class_beats_the_right_one_and_the_refusal(seed):
    scores = torch.randn(16, 5, generator=torch.Generator().manual_seed(seed))
    y, goal = torch.arange(16) % 4, Untargeted(refusal=4)
    answer = scores.argmax(1)
    assert torch.equal(goal.margin(scores, y) > 0, (answer != y) & (answer != 4))
    assert torch.equal(goal.reached(answer, y), (answer != y) & (answer != 4))
    judged = goal.judged(scores, y)
    assert judged.shape == (16, 4)
    assert torch.equal(goal.judged(judged, y), judged)
    assert torch.equal(margin_over(judged, y), goal.margin(scores, y))


def test_an_input_is_refused_exactly_where_a_detector_exceeds_its_threshold():
    x = torch.linspace(0, 1, 101).unsqueeze(1).expand(-1, 3).contiguous()
    answer = guarded().predict(x)
    assert torch.equal(answer == 2, x[:, 0] > 0.6)
    assert torch.equal(answer[x[:, 0] <= 0.6], halves()(x).argmax(1)[x[:, 0] <= 0.6])


@pytest.mark.usefixtures("no_panel", "few_queries")
@pytest.mark.parametrize(("access", "eps"), [("gradients", 0.3), ("scores", 0.15)])
def test_only_what_is_misclassified_and_accepted_counts(access, eps):
    """Wrong and accepted is the first number in (0.5, 0.6]: from 0.4 it is in reach, from 0.1 it is not, and 0.7 is
    refused as it is."""
    x = torch.full((30, 3), 0.5)
    x[:10, 0], x[10:20, 0], x[20:, 0] = 0.4, 0.1, 0.7
    y = (x[:, 0] > 0.5).long()
    model = guarded()
    result = hp.assess(model, x, y, threat=hp.Threat(hp.Linf(eps), access=access), **QUIET)
    assert result.broken[:10].all()
    assert not result.broken[10:20].any()
    assert (result.record.outcomes.status[20:] == int(Status.CLEAN_ERROR)).all()
    found = result.adversarial[:10, 0]
    assert ((found > 0.5) & (found <= 0.6)).all()
    assert (model.predict(result.adversarial[:10]) == 1).all()


@pytest.mark.parametrize("attack", [PGD(steps=20, loss="ce"), PGD(steps=20, loss="dlr"), Square(queries=300)])
def test_attacks_alone_know_that_a_refusal_is_no_success(attack):
    x, y = torch.full((12, 3), 0.4), torch.zeros(12, dtype=torch.int64)
    model = guarded()
    result = attack(model, x, y, hp.Linf(0.15))
    assert (model.predict(result.adversarial[result.broken]) == 1).all()
    assert result.broken.any()


@pytest.mark.usefixtures("few_queries")
def test_rounding_that_is_declared_costs_the_attacker_nothing():
    net = mlp()
    x = rand(60, 8, seed=8)
    y = labelled(net, x)
    bare = hp.assess(net, x, y, threat=hp.Linf(0.1), **QUIET)
    model = defended(net, [Steps(16)])
    told = hp.assess(model, x, y, threat=hp.Linf(0.1), **QUIET)
    assert told.robust_accuracy.value <= bare.robust_accuracy.value + 0.05
    assert "HP113" not in {f.id for f in told.findings}


def test_what_says_nothing_is_probed():
    net = mlp()
    x = rand(60, 8, seed=8)
    y = labelled(net, x)
    model = defended(net, [lambda z: torch.round(z * 16) / 16])
    assert "HP113" in {f.id for f in hp.doctor(model, x, y)}


def test_the_attacker_sees_through_the_squeezers_of_a_detector():
    net = mlp()
    x = rand(6, 8, seed=8).requires_grad_(True)
    detector = FeatureSqueezing((Steps(4),))
    seen = look(net, x)
    (gradient,) = torch.autograd.grad(detector.score(seen).sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_models_that_only_answer_can_have_stages_but_no_detectors():
    class Answers:
        access, box = hp.Threat(hp.Linf(0.1), access="scores").access, defended(mlp()).box

        def scores(self, x):
            return mlp()(x).detach()

        def predict(self, x):
            return self.scores(x).argmax(1)

        def describe(self):
            return {"kind": "own", "name": "own"}

    x = rand(20, 8, seed=8)
    model = defended(Answers(), [Steps(4)])
    assert torch.equal(model.predict(x), mlp()(torch.round(x * 4) / 4).argmax(1))
    with pytest.raises(ModelError, match="torch module"):
        defended(Answers(), detectors=[Alarm(First(), 0.5, classes=4)])
    with pytest.raises(ModelError, match="no defence"):
        defended(mlp(), [3])  # type: ignore[list-item]


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_transfer_and_universal_attacks_know_that_a_refusal_is_no_success(loss):
    x, y = torch.full((12, 3), 0.4), torch.zeros(12, dtype=torch.int64)
    model = guarded()
    found = Transfer((model,), steps=20, loss=loss)(model, x, y, hp.Linf(0.15))
    assert found.broken.all()
    assert (model.predict(found.adversarial) == 1).all()


def test_stages_may_come_before_a_model_that_refuses_and_detectors_may_not():
    x = torch.linspace(0, 1, 101).unsqueeze(1).expand(-1, 3).contiguous()
    twice = defended(guarded(), [Steps(1000)])
    assert twice.refusal == 2
    assert torch.equal(twice.predict(x), guarded().predict(x))
    with pytest.raises(ModelError, match="has detectors"):
        defended(guarded(), detectors=[Alarm(First(), 0.5, classes=2)])


def test_a_small_excess_over_a_large_logit_still_refuses():
    net = halves()
    with torch.no_grad():
        net.bias += 1e4
    model = defended(net, detectors=[Alarm(First(), 0.6, classes=2, unit=1e6)])
    x = torch.tensor([[0.5999, 0, 0], [0.6001, 0, 0], [0.7, 0, 0]])
    assert model.predict(x).tolist() == [1, 2, 2]


def test_scores_are_read_as_the_model_reads_them():
    net = nn.Sequential(mlp(), nn.Softmax(1)).eval()
    model = TorchModel(net, probabilities=True)
    never = Alarm(First(), 10.0, classes=4)
    x = rand(20, 8, seed=8)
    assert torch.allclose(defended(model, detectors=[never]).scores(x)[:, :4], model.scores(x))


def test_two_fits_of_a_detector_are_told_apart_in_a_record():
    def described(seed: int) -> object:
        model = defended(mlp())
        seen = model.look(rand(60, 8, seed=seed), ("3",))
        detector = NearestNeighbours.fit(seen, torch.zeros(60, dtype=torch.int64), "3", k=5)
        return defended(mlp(), detectors=[Alarm(detector, 1.0, classes=4)]).describe()

    assert described(1) == described(1)
    assert described(1) != described(2)


def test_the_users_own_stage_is_left_in_its_mode():
    drop = nn.Dropout(0.5)
    defended(mlp(), [drop])
    assert drop.training


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_a_random_defence_gives_the_same_result_whoever_does_the_work():
    model = defended(mlp(), [AdditiveNoise(0.02)])
    x = rand(40, 8, seed=8)
    y = labelled(mlp(), x)
    settings = {"threat": hp.Linf(0.05), "budget": hp.Budget(passes=200), "batch_size": 8, **QUIET}
    one, two = (hp.assess(model, x, y, workers=w, **settings) for w in (1, 2))
    assert torch.equal(one.broken, two.broken)
    assert torch.equal(one.adversarial, two.adversarial)


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_a_random_defence_with_a_detector_that_refuses_some_is_assessed():
    x = rand(40, 8, seed=8)
    model = calibrated(defended(mlp(), [AdditiveNoise(0.02)]), [Margin()], rand(400, 8, seed=1), alpha=0.3)
    y = labelled(mlp(), x)
    result = hp.assess(model, x, y, threat=hp.Linf(0.1), budget=hp.Budget(passes=100), **QUIET)
    assert result.clean_accuracy.value < 1
    final = result.record.outcomes.final_prediction[result.record.outcomes.status == int(Status.BROKEN)]
    assert (final != model.refusal).all()


def test_alarms_of_another_model_are_refused_in_words():
    with pytest.raises(ModelError, match="calibrated on a model of 7 classes"):
        defended(mlp(), detectors=[Alarm(First(), 0.5, classes=7)]).predict(rand(2, 8))
    with pytest.raises(ModelError, match="calibrated"):
        defended(mlp(), detectors=[Margin()])  # type: ignore[list-item]
    with pytest.raises(ModelError, match="defended network"):
        calibrated(mlp(), [Margin()], rand(400, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("access", ["gradients", "labels"])
def test_the_refusal_is_no_label(access):
    x, y = torch.full((12, 3), 0.4), torch.full((12,), 2)
    with pytest.raises(HardpointError):
        hp.assess(guarded(), x, y, threat=hp.Threat(hp.Linf(0.1), access=access), **QUIET)


def test_probabilities_are_noticed_behind_a_defence():
    x = rand(60, 8, seed=8)
    net = nn.Sequential(mlp(), nn.Softmax(1)).eval()
    assert "HP104" in {f.id for f in hp.doctor(defended(net, [Steps(64)]), x, labelled(net, x))}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: defended(mlp(), Steps(4)), "give a list"),
        (lambda: defended(mlp(), nn.Sequential(nn.ReLU())), "give a list"),
        (lambda: defended(mlp(), detectors=Alarm(First(), 0.5, classes=4)), "give a list"),
        (lambda: defended(mlp(), [Steps]), "is a class"),
        (lambda: calibrated(defended(mlp()), Margin(), rand(400, 8)), "give a list"),
        (lambda: calibrated(defended(mlp()), [Margin()], rand(400, 8).numpy()), "give a tensor"),
        (lambda: FeatureSqueezing(Steps(4)), "give a tuple"),
    ],
)
def test_near_misses_are_answered_in_words(make, said):
    with pytest.raises(HardpointError, match=said):
        make()


def test_calibrating_a_random_model_leaves_the_generator_alone():
    before = torch.get_rng_state()
    calibrated(defended(mlp(), [AdditiveNoise(0.02)]), [Margin()], rand(400, 8), alpha=0.1)
    assert torch.equal(torch.get_rng_state(), before)
