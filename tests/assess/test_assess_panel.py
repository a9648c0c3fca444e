"""Each check of the panel passes on an honest model and speaks up where something was planted for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.assess import Mode, run
from hardpoint.assess.arsenal import arsenal_for
from hardpoint.assess.cascade import cascade
from hardpoint.assess.panel import Strength, budgets, measure_strength, noise, others, residual
from hardpoint.assess.panel.binarisation import binarisation, last_linear
from hardpoint.assess.panel.claims import claims
from hardpoint.assess.panel.pilot import Pilot
from hardpoint.assess.panel.smoothed import smoothed_surrogate
from hardpoint.assess.work import Table
from hardpoint.engine.budget import Deadline
from hardpoint.evidence import Verdict
from hardpoint.evidence.assessment import Check, CurvePoint, StageRecord, Status
from hardpoint.evidence.rate import Rate
from small_models import Noisy, Shattered, labelled, linear, mlp, rand

X = rand(48, 8, seed=8)
BALL = hp.Linf(0.05)


@pytest.fixture
def examined(monkeypatch):
    """Assess a model with two passes per input and hand out what the panel would see."""

    def look(net, ball=BALL, passes=2, **settings):
        seen = []

        def keep(session, table, stages, *_):
            seen.append((Pilot.of(session, table), table, stages))
            return Strength()

        with monkeypatch.context() as patch:
            patch.setattr(run, "measure_strength", keep)
            y = labelled(net, X)
            budget = hp.Budget(passes=passes) if passes else None
            hp.assess(net, X, y, threat=ball, budget=budget, progress=False, **settings)
        return seen[0]

    return look


def test_what_stands_after_two_passes_falls_to_every_other_attack(examined):
    """A search that stopped at once: every check that searches itself must find what it left."""
    pilot, _, _ = examined(mlp())
    for check in (
        others.one_step(pilot),
        others.step_sizes(pilot),
        others.starts_and_targets(pilot),
        others.by_scores(pilot),
        others.by_labels(pilot),
        others.by_transfer(pilot),
        residual.convergence(pilot),
    ):
        assert check.verdict is Verdict.WARN, check
        assert check.measured > 0
        assert "broke" in check.explanation or "moved" in check.explanation


@pytest.mark.usefixtures("few_queries")
def test_a_full_search_leaves_nothing_to_the_others(examined):
    pilot, table, stages = examined(linear(torch.eye(3, 8) * 4), passes=None)
    for check in (
        others.one_step(pilot),
        others.step_sizes(pilot),
        others.starts_and_targets(pilot),
        others.by_scores(pilot),
        others.by_labels(pilot),
        residual.convergence(pilot),
        binarisation(pilot),
        claims(table),
        others.by_scores_only(pilot, stages, table),
    ):
        assert check.verdict is Verdict.PASS, check


def test_a_pilot_knows_its_inputs(examined):
    pilot, table, _ = examined(mlp())
    assert (pilot.index == torch.arange(48).numpy()).all()
    assert (pilot.lead[pilot.right] < 0).all()
    assert (pilot.standing <= pilot.right).all()
    few = Pilot.at(pilot.session, table, pilot.index[5:9])
    assert torch.equal(few.x, X[5:9])


def test_planted_examples_are_found_through_honest_layers_only(examined):
    honest = binarisation(examined(mlp())[0])
    hidden = binarisation(examined(nn.Sequential(Shattered(), mlp()).eval())[0])
    assert honest.verdict is Verdict.PASS
    assert hidden.verdict is Verdict.WARN
    assert honest.measured > hidden.measured + 0.2


def test_planted_examples_need_features_and_steady_answers(examined):
    odd = nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 3, 1), nn.Flatten()).eval()
    assert binarisation(examined(odd)[0]).verdict is Verdict.NOT_RUN
    assert binarisation(examined(Noisy(mlp(), 0.3).eval())[0]).verdict is Verdict.NOT_RUN
    net = mlp()
    assert last_linear(net, X[:2]) is net[-1]
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_trembling_answers_are_told_from_steady_ones(examined):
    class Rough(nn.Module):
        def forward(self, x):
            wave = torch.sin(3000 * x.sum(1))
            return torch.stack([wave, torch.zeros_like(wave)], 1)

    assert noise.trembling(examined(mlp())[0]).verdict is Verdict.PASS
    assert noise.trembling(examined(Rough().eval())[0]).verdict is Verdict.WARN


def curve(*standing: int, n: int = 64) -> budgets.Curve:
    at = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    points = tuple(CurvePoint(x, Rate.of(k, n)) for x, k in zip(at, standing, strict=True))
    return budgets.Curve(tuple((p.x, 1 - p.rate.value) for p in points), points)


@pytest.mark.parametrize(
    ("standing", "verdict"),
    [
        ((64, 60, 50, 40, 30, 10, 2), Verdict.PASS),
        ((64, 40, 40, 40, 40, 40, 40), Verdict.WARN),  # some fall at once, then nobody does
        ((64, 64, 64, 64, 64, 64, 64), Verdict.PASS),  # too small a budget for any says nothing
        ((64, 3, 3, 3, 3, 3, 3), Verdict.PASS),  # nearly all have fallen
        ((64, 50, 50, 50, 20, 20, 20), Verdict.PASS),
        ((50, 50, 50, 50, 50, 50, 50), Verdict.PASS),  # clean errors have not fallen
    ],
)
def test_a_plateau_is_where_four_times_the_budget_breaks_no_more(standing, verdict):
    assert budgets.plateau(curve(*standing)).verdict is verdict


def test_claims_that_do_not_hold_are_counted():
    table = Table(10, 3)
    table.checks[:] = (100, 4, 0)
    assert claims(table).verdict is Verdict.PASS
    table.checks[:] = (100, 30, 0)
    assert claims(table).verdict is Verdict.WARN
    assert claims(table).measured == 0.3


def test_given_surrogates_take_the_place_of_a_smooth_copy(examined):
    masked = nn.Sequential(Shattered(height=0.02), mlp()).eval()
    pilot, _, _ = examined(masked, surrogates=mlp())
    assert others.by_transfer(pilot).verdict is Verdict.WARN


def test_a_smooth_copy_answers_alike_and_leaves_the_model_alone():
    net = mlp()
    (smooth,) = smoothed_surrogate(hp.models.TorchModel(net), X[:1])
    assert 0 < float((smooth.scores(X) - net(X)).abs().max()) < 0.3
    assert not net.training
    assert smoothed_surrogate(hp.models.TorchModel(linear(torch.eye(3, 8))), X[:1]) == ()


def test_after_widening_only_red_checks_run_again(examined):
    pilot, table, stages = examined(mlp())
    first = Strength.of([Check("HP308", "kept", 0.125, 0.0, Verdict.PASS, "as it was")])
    after = measure_strength(pilot.session, table, stages, first)
    assert {c.id: c for c in after.checks}["HP308"].explanation == "as it was"
    red = replace(first.checks[0], verdict=Verdict.WARN)
    again = measure_strength(pilot.session, table, stages, Strength.of([red]))
    assert {c.id: c for c in again.checks}["HP308"].explanation != "as it was"


def stage(inputs, broken, spared=0, sampled=0, sampled_broken=0):
    return StageRecord("a", inputs, broken, 1, 1, 0, 0.0, spared, sampled, sampled_broken)


def test_the_residual_counts_each_drawn_input_once_and_forgets_whom_a_later_stage_met():
    two = (stage(100, 0), stage(11, 1, spared=89, sampled=1, sampled_broken=1), stage(11, 1, 88, 1, 1))
    assert "of 2 drawn from such 2 fell" in residual.residual(two).explanation
    assert residual.residual(two).verdict is Verdict.WARN
    long_ago = residual.residual((stage(100, 0), *two[1:], stage(98, 0), stage(10, 0, spared=88)))
    assert "88 stood too far" in long_ago.explanation  # that those 89 were spared at first is settled
    assert long_ago.verdict is Verdict.PASS
    idle = residual.residual((*two[:1], stage(20, 0, spared=80), stage(0, 0, spared=100)))
    assert "80 stood too far" in idle.explanation  # a stage that was not due spared nobody
    met = residual.residual((*two, stage(98, 0)))
    assert met.verdict is Verdict.PASS
    assert met.measured == 0.0


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize("mode", ["fast", "standard"])
def test_points_outside_the_budget_are_no_near_misses(examined, mode):
    """FAB and its like ask beyond the budget, where an input that stands may well be wrong."""
    pilot, table, _ = examined(mlp(), passes=None, mode=mode)
    stands = table.status == Status.STANDING
    assert stands.any()
    assert (table.closest[stands] < 0).all()
    assert (pilot.nearest[pilot.standing] < 0).all()


@pytest.mark.usefixtures("few_queries")
def test_checks_that_time_cuts_short_say_nothing(monkeypatch):
    net = mlp()

    def late(session, *_):
        object.__setattr__(session, "deadline", Deadline.after(0.0))
        return Strength.of([Check("HP303", "", 1.0, 0.1, Verdict.FAIL, "all stand")])

    monkeypatch.setattr(run, "measure_strength", late)
    result = hp.assess(net, X, labelled(net, X), threat=BALL, progress=False)
    assert [check.verdict for check in result.record.checks] == [Verdict.NOT_RUN]
    assert "HP303" not in {f.id for f in result.findings}


def test_widening_is_said():
    said = Strength().after(Strength.of([]), ("HP113",), (stage(10, 1),))
    assert said.findings[-1].measured == 1.0
    assert said.findings[-1].id == "HP307"
    assert "HP113" in said.findings[-1].message


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize(("hidden", "verdict"), [(0, Verdict.PASS), (1, Verdict.PASS), (2, Verdict.FAIL)])
def test_inputs_that_only_black_box_attacks_break_speak_up(examined, hidden, verdict):
    """As if Square had broken an input that gradients break too, and some that they do not."""
    pilot, table, stages = examined(linear(torch.eye(3, 8) * 4), passes=None)
    square = len(stages) - 1
    falls = np.flatnonzero(table.status == Status.BROKEN)[:1]
    stands = np.flatnonzero(table.status == Status.STANDING)[:hidden]
    table.stage[:] = 0
    for at in (*falls, *stands):
        table.status[at], table.stage[at] = Status.BROKEN, square
    check = others.by_scores_only(pilot, stages, table)
    assert check.verdict is verdict
    assert check.measured == hidden / len(X)
    assert f"of {1 + hidden} inputs" in check.explanation


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize(
    ("controls", "verdict"),
    [
        ([(30, 0, 0), (30, 12, 0)], Verdict.WARN),
        ([(30, 12, 0), (30, 0, 0)], Verdict.FAIL),  # the last search drew none
        ([(30, 12, 0), (30, 12, 1)], Verdict.FAIL),
        ([(30, 12, 0), (30, 9, 0)], Verdict.FAIL),  # too few to say anything
        ([(30, 0, 0), (0, 0, 0)], Verdict.WARN),  # it spared none
    ],
)
def test_a_clean_control_shows_that_the_last_random_search_went_far_enough(examined, controls, verdict):
    pilot, table, stages = examined(linear(torch.eye(3, 8) * 4), passes=None)
    blind = [i for i, s in enumerate(pilot.session.stages) if not others._only_climbs(s.attack)]
    assert len(blind) == 2
    told = list(stages)
    for i, (spared, sampled, fell) in zip(blind, controls, strict=True):
        told[i] = replace(told[i], inputs=10, spared=spared, sampled=sampled, sampled_broken=fell)
    table.stage[:] = 0
    for at in np.flatnonzero(table.status == Status.STANDING)[:2]:
        table.status[at], table.stage[at] = Status.BROKEN, blind[0]
    assert others.by_scores_only(pilot, tuple(told), table).verdict is verdict


@pytest.mark.parametrize("mode", [Mode.FAST, Mode.STANDARD])
@pytest.mark.parametrize("ball", [hp.Linf(0.1), hp.L2(0.5), hp.L1(2.0)], ids=lambda ball: ball.name)
def test_the_last_random_search_draws_a_control(ball, mode):
    """Without one a few inputs that only it breaks would widen every assessment."""
    last = [stage for stage in cascade(hp.Threat(ball), mode, 10) if not others._only_climbs(stage.attack)][
        -1
    ]
    assert last.sampled


@pytest.mark.parametrize(
    "allowed", [hp.Linf(0.1), hp.L2(0.5), hp.L0(3), hp.Patch(0.05), hp.Colour(0.1), hp.Flow(1.0)], ids=str
)
def test_what_random_search_broke_meets_gradient_attacks_of_every_kind(allowed):
    """Without any, all that it broke would count as missed by gradients."""
    assert any(others._only_climbs(attack) for attack in arsenal_for(allowed, 10).extra())


def test_a_few_among_thousands_warn_without_widening():
    few = Check("HP317", "", 0.0003, 0.0, Verdict.WARN, "")
    assert Strength.of([few]).misleading == ()
    assert Strength.of([replace(few, verdict=Verdict.FAIL)]).misleading == ("HP317",)
    assert Strength.of([replace(few, id="HP308")]).misleading == ("HP308",)


class ByKeyword(nn.Module):
    """Calls its layers by keyword, and keeps one of them in training mode."""

    def __init__(self):
        super().__init__()
        net = mlp()
        self.first, self.drop, self.last = net[1], nn.Dropout(0.0), nn.Linear(24, 4)

    def forward(self, x):
        return self.last(input=torch.relu(self.drop(self.first(input=x))))


def test_layers_called_by_keyword_and_layers_in_training_are_left_as_they_are():
    net = ByKeyword().eval()
    net.drop.train()
    y = net(X).argmax(1)
    result = hp.assess(
        net, X, y, threat=BALL, allow_training=("drop",), progress=False, budget=hp.Budget(passes=60)
    )
    verdicts = {check.id: check.verdict for check in result.record.checks}
    assert verdicts["HP316"] is not Verdict.NOT_RUN
    assert verdicts["HP315"] is Verdict.NOT_RUN
    assert net.drop.training
    assert not net.training
    assert not net.last.training


@pytest.mark.parametrize("queries", [1, 2, 7])
def test_noise_looks_no_more_often_than_the_attack(queries):
    net = mlp()
    threat = hp.Threat(BALL, access="labels", queries=queries)
    result = hp.assess(net, X, labelled(net, X), threat=threat, progress=False)
    check = next(c for c in result.record.checks if c.id == "HP301")
    assert f"{queries} random allowed inputs" in check.explanation


def test_a_search_of_everything_leaves_no_residual():
    whole = residual.residual((stage(6, 3),), exhaustive=True)
    assert whole.verdict is Verdict.PASS
    assert residual.residual((stage(6, 3),)).verdict is Verdict.WARN
