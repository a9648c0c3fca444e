"""Rates with their intervals, findings and the catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import hardpoint
from hardpoint.core.errors import NothingToTest
from hardpoint.evidence import Finding, Rate, Severity, finding
from hardpoint.evidence.catalogue import RULES


@given(st.integers(1, 3000), st.data())
def test_intervals_are_wilsons(n, data):
    count = data.draw(st.integers(0, n))
    rate = Rate.of(count, n)
    known = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert rate.value == count / n
    assert rate.low == pytest.approx(known.low, abs=1e-9)
    assert rate.high == pytest.approx(known.high, abs=1e-9)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.count == count
    assert Rate.read(json.loads(json.dumps(rate.describe()))) == rate


def test_ends_are_certain_where_they_are():
    assert Rate.of(0, 10).low == 0
    assert Rate.of(10, 10).high == 1
    assert Rate.of(10, 10).low < 1


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(NothingToTest, match="at least one"):
        Rate.of(0, 0)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_makes_a_finding_that_survives_json(rule):
    made = finding(rule, "something", measured=0.5, threshold=0.1)
    assert made.title == RULES[rule].title
    assert made.cure
    assert Finding.read(json.loads(json.dumps(made.describe()))) == made
    assert made.severity.word in ("note", "warning", "fail")
    assert rule in str(made)


def test_severity_and_cure_can_be_overruled():
    made = finding("HP107", "m", severity=Severity.FAIL, cure="do that")
    assert (made.severity, made.cure) == (Severity.FAIL, "do that")


def test_only_ids_of_the_catalogue_are_used():
    used: set[str] = set()
    for file in Path(hardpoint.__file__).parent.rglob("*.py"):
        used |= set(re.findall(r"\bHP[1-9]\d\d\b", file.read_text("utf-8")))
    assert used <= set(RULES)
    assert all(re.fullmatch(r"HP[1-4]\d\d", rule) for rule in RULES)
