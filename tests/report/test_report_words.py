from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import HOSTILE, bare_assessment, image_assessment, labels, record, statuses, threat

from hardpoint.evidence import Rate, Severity, Status, Verdict, finding
from hardpoint.report import words
from hardpoint.report.reading import class_rates, counts, overall, weaknesses


def spaced(text: str) -> str:
    return text.replace("\u202f", " ")


@given(st.integers(1, 10**6), st.data())
def test_percent_never_rounds_to_none_or_all(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    text = spaced(words.percent(k / n))
    assert (text == "0 %") == (k == 0)
    assert (text == "100 %") == (k == n)


@given(st.text())
def test_printable_text_is_valid_xml_and_utf8(text: str) -> None:
    out = words.printable(text)
    out.encode("utf-8")
    assert len(out) == len(text)
    assert all(c in "\t\n" or ord(c) >= 32 for c in out)
    assert words.printable(out) == out


def test_the_sentence_of_the_classic_threat() -> None:
    assert spaced(words.sentence(image_assessment())) == (
        "An attacker who sees the model's gradients and changes every pixel by at most 8/255 "
        "breaks 42 % of the 912 inputs the model gets right."
    )


@pytest.mark.parametrize(
    ("kind", "eps", "text", "part"),
    [
        ("L2", 0.5, "L2 ≤ 0.5", "changes each input by at most 0.5 in Euclidean distance"),
        ("L1", 12.0, "L1 ≤ 12", "makes changes that sum to at most 12"),
        ("L0", 1.0, "L0 ≤ 1", "changes at most 1 value breaks"),
        ("L0", 10.0, "L0 ≤ 10", "changes at most 10 values"),
        ("Linf", 0.0, "Linf ≤ 0", "may change nothing"),
        ("Linf", "inf", "Linf ≤ inf", "may change pixels without limit"),
        ("Patch", 0.02, "Patch of 2 %", "makes changes within “Patch of 2 %”"),
    ],
)
def test_each_kind_of_change_is_named(kind: str, eps: Any, text: str, part: str) -> None:
    a = image_assessment(threat=threat("t", kind, eps, text))
    assert part in words.sentence(a)


def test_access_and_queries_and_targets_are_named() -> None:
    goal = {"kind": "targeted", "label": 3}
    a = image_assessment(threat=threat(access="scores", queries=1000, goal=goal))
    text = words.sentence(a)
    assert "sees only the model's scores, asks at most 1,000 times per input and changes" in text
    assert "gets the answer “cat” for" in text
    assert "sees only the model's answers" in words.sentence(image_assessment(threat=threat(access="labels")))


def test_short_data_read_well() -> None:
    assert words.sentence(bare_assessment()).endswith("does not break the one input the model gets right.")
    none_right = record(statuses(4, 0, 0), labels(4))
    assert "none of these inputs right" in words.sentence(none_right)
    assert "breaks all of the 3 inputs" in words.sentence(record(statuses(0, 3, 0), labels(3)))
    assert "breaks none of the 3 inputs" in words.sentence(record(statuses(0, 0, 3), labels(3)))


def test_an_unreadable_threat_is_still_described() -> None:
    assert words.sentence(image_assessment(threat={"name": "odd"}))
    assert words.eps_of({}) is None
    assert words.eps_of({"perturbation": {"eps": "inf"}}) == math.inf
    assert HOSTILE in words.sentence(image_assessment(threat=threat(kind=HOSTILE, text=HOSTILE)))


def test_headlines() -> None:
    tones = {
        "fail": image_assessment(gate=0.6),
        "pass": image_assessment(gate=0.4),
        "none": image_assessment(gate=None),
        "warn": image_assessment(gate=0.4, complete=False),
    }
    for tone, a in tones.items():
        assert words.headline(a).tone == tone
    assert "could decide otherwise" in words.headline(image_assessment(gate=0.53)).reason
    assert "could decide otherwise" not in words.headline(image_assessment(gate=0.6)).reason
    bad = image_assessment(gate=0.4, findings=(finding("HP301", "noise won", severity=Severity.FAIL),))
    assert words.headline(bad).tone == "warn"
    assert "HP301: noise won" in words.headline(bad).reason
    assert "HP301: noise won" in words.headline(image_assessment(gate=0.9, findings=bad.findings)).reason


def test_the_overall_verdict_is_the_worst_and_silence_is_no_pass() -> None:
    good, bad = image_assessment(gate=0.4), image_assessment(gate=0.9)
    doubtful = image_assessment(gate=0.4, complete=False)
    assert overall([], {}) is Verdict.NOT_RUN
    assert overall([good], {}) is Verdict.PASS
    assert overall([good, doubtful], {}) is Verdict.WARN
    assert overall([good, bad, doubtful], {}) is Verdict.FAIL
    assert overall([good], {"assessments": ["linf-8of255", "l2"]}) is Verdict.WARN
    assert overall([good], {"assessments": ["linf-8of255"]}) is Verdict.PASS
    assert weaknesses(good) == []


def test_counts_and_class_rates_agree_with_the_record() -> None:
    a = image_assessment()
    count = counts(a)
    assert (count.clean_error, count.broken, count.standing, count.unfinished) == (88, 383, 529, 0)
    rates = class_rates(a)
    assert sum(rate.count for _, rate in rates) == a.robust_accuracy.count
    assert sum(rate.n for _, rate in rates) == 1000
    values = [rate.value for _, rate in rates]
    assert values == sorted(values)
    unfinished = record(statuses(0, 0, 0, 2), labels(2, 1))
    assert class_rates(unfinished) == [(0, Rate.of(2, 2))]
    assert Status.UNFINISHED in unfinished.outcomes.status
