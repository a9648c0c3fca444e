"""Goals, threats, names and the descriptions that identify them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.threats import L0, L1, L2, Goal, Linf, Perturbation, Targeted, Threat, Untargeted
from hardpoint.threats.goals import margin_over


@given(st.integers(2, 6), st.integers(0, 10**6))
def test_margins_are_positive_exactly_where_the_goal_is_reached(classes, seed):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(20, classes, generator=g)
    y = torch.randint(classes, (20,), generator=g)
    predicted = scores.argmax(1)
    for goal in (Untargeted(), Targeted(int(y[0]))):
        assert isinstance(goal, Goal)
        assert torch.equal(goal.margin(scores, y) > 0, goal.reached(predicted, y))
        assert not (goal.reached(predicted, y) & ~goal.attackable(y)).any()


def test_margin_over_is_the_gap_to_the_best_other_class():
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, -1.0, -2.0]])
    assert margin_over(scores, torch.tensor([1, 0])).tolist() == [-1.0, -6.0]


def test_a_target_that_is_the_right_answer_is_never_reached():
    goal = Targeted(2)
    y = torch.tensor([2, 1])
    assert goal.reached(torch.tensor([2, 2]), y).tolist() == [False, True]
    assert goal.attackable(y).tolist() == [False, True]
    assert float(goal.margin(torch.tensor([[0.0, 0.0, 9.0]]), y[:1])) < 0


@pytest.mark.parametrize(
    ("ball", "name", "text"),
    [
        (Linf(8 / 255), "linf-8of255", "Linf ≤ 8/255"),
        (Linf(0.3), "linf-0.3", "Linf ≤ 0.3"),
        (L2(0.5), "l2-0.5", "L2 ≤ 0.5"),
        (L1(12), "l1-12", "L1 ≤ 12"),
        (L0(10), "l0-10", "L0 ≤ 10"),
        (L2(math.inf), "l2-inf", "L2 ≤ inf"),
    ],
)
def test_names_and_texts(ball, name, text):
    assert isinstance(ball, Perturbation)
    assert ball.name == name
    assert ball.describe()["text"] == text
    json.dumps(ball.describe(), allow_nan=False)


def test_a_threat_says_everything_in_its_name_and_description():
    threat = Threat(Linf(0.1), goal=Targeted(3), access="scores", queries=500)
    assert threat.name == "linf-0.1-to-3-scores-500q"
    assert json.loads(json.dumps(threat.describe())) == threat.describe()
    assert threat.describe()["queries"] == 500
    assert Threat.of(Linf(0.1)) == Threat(Linf(0.1))
    assert Threat.of(threat) is threat
    assert threat.with_access(Access.LABELS).access is Access.LABELS
    assert threat.scaled(2).perturbation == Linf(0.2)
    assert threat.scaled(2).goal == Targeted(3)


def test_different_threats_have_different_names():
    threats = [
        Threat(p, goal=g, access=a, queries=q)
        for p in (Linf(0.1), Linf(0.2), L2(0.1), L1(1), L0(1))
        for g in (Untargeted(), Targeted(0), Targeted(1))
        for a in ("gradients", "scores", "labels")
        for q in (None, 10)
    ]
    assert len({t.name for t in threats}) == len(threats)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Threat(0.1), "perturbation"),
        (lambda: Threat(Linf(0.1), access="everything"), "labels, scores, gradients"),
        (lambda: Threat(Linf(0.1), queries=0), "1 or more"),
        (lambda: Threat(Linf(0.1), queries=-5), "1 or more"),
    ],
)
def test_impossible_threats_are_refused_with_the_cure(make, words):
    with pytest.raises(ThreatError, match=words):
        make()


def test_white_and_black_box_stand_in_different_places_of_the_catalogues():
    white, black = Threat(Linf(0.1)).identifiers, Threat(Linf(0.1), access="labels").identifiers
    assert white.nist != black.nist
    assert white.atlas != black.atlas
    assert "CWE-799" in black.cwe


def test_scaling_keeps_kinds_and_rounds_counts_down():
    assert L0(3).scaled(0.5) == L0(1)
    assert L2(0.5).scaled(2) == L2(1.0)
    assert Linf(math.inf).scaled(0.5) == Linf(math.inf)
