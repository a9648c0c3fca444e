from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import HOSTILE, bare_assessment, hostile_assessment, image_assessment, labels, record

from hardpoint.evidence import Assessment, Rate, Status, finding
from hardpoint.report import compare, write_comparison_html
from hardpoint.report.compare import paired_difference, unpaired_difference

B, S, E, U = Status.BROKEN, Status.STANDING, Status.CLEAN_ERROR, Status.UNFINISHED


def of(*status: Status, **changes: Any) -> Assessment:
    return record(np.array(status, np.uint8), labels(len(status)), **changes)


def test_flips_are_found_by_index() -> None:
    a = of(B, S, E, S, B, U)
    b = of(S, B, B, S, S, E)
    (t,) = compare([a], [b]).threats
    assert t.why_unpaired == ""
    assert t.repaired.tolist() == [0, 4]
    assert t.lost.tolist() == [1, 5]
    assert t.robust.paired
    assert t.robust.n == 6
    assert t.robust.value == pytest.approx(0)
    assert t.clean.value == pytest.approx(0)


def test_inputs_are_matched_whatever_their_order() -> None:
    a, b = of(B, S, S, B), of(S, S, B, B)
    order = np.array([2, 0, 3, 1])
    shuffled = replace(b, outcomes=type(b.outcomes)(**{k: v[order] for k, v in b.outcomes.arrays().items()}))
    (one,), (two,) = compare([a], [b]).threats, compare([a], [shuffled]).threats
    assert one.repaired.tolist() == two.repaired.tolist() == [0]
    assert one.lost.tolist() == two.lost.tolist() == [2]
    assert one.robust == two.robust


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": {"sha256": "00" * 32}}, "different data"),
        ({"data": {"sha256": None}}, "did not record"),
        ({"data": {}}, "did not record"),
    ],
)
def test_different_data_are_not_paired(change: dict[str, Any], reason: str) -> None:
    a = of(B, S, S)
    (t,) = compare([a], [replace(of(S, S, B), **change)]).threats
    assert reason in t.why_unpaired
    assert not t.robust.paired
    assert t.repaired.size == t.lost.size == 0
    assert t.robust == unpaired_difference(a.robust_accuracy, a.robust_accuracy)


def test_other_labels_or_other_inputs_are_not_paired() -> None:
    a = of(B, S, S)
    relabelled = replace(a, outcomes=replace(a.outcomes, label=a.outcomes.label + 1))
    assert "labels" in compare([a], [relabelled]).threats[0].why_unpaired
    elsewhere = replace(a, outcomes=replace(a.outcomes, index=a.outcomes.index + 100))
    assert "in common" in compare([a], [elsewhere]).threats[0].why_unpaired


def test_findings_metrics_and_lone_threats() -> None:
    hp1, hp2 = finding("HP105", "3 of 64"), finding("HP403", "few")
    a = of(S, findings=(hp1, hp1, hp2), metrics={"mcc": 0.5, "old": 1.0})
    b = of(S, findings=(hp1, finding("HP401", "late")), metrics={"mcc": 0.4, "new": 2.0})
    lone = of(S, threat={"name": "l2"}, model={"name": "other"})
    c = compare([a, lone], [b])
    (t,) = c.threats
    assert [f.id for f in t.appeared] == ["HP401"]
    assert [f.id for f in t.gone] == ["HP105", "HP403"]
    assert t.metrics == {"mcc": (0.5, 0.4), "new": (None, 2.0), "old": (1.0, None)}
    assert (c.only_a, c.only_b) == (("l2",), ())
    assert (c.model_a, c.model_b) == ("resnet-small, other", "resnet-small")
    assert compare([], []).threats == ()


def test_several_assessments_of_one_threat_are_matched_in_order() -> None:
    c = compare([of(S), of(B)], [of(S), of(S), of(S)])
    assert [t.robust.value for t in c.threats] == [0.0, 1.0]
    assert c.only_b == ("linf-8of255",)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_paired_interval_holds_its_value_and_mirrors(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    d, mirrored = paired_difference(a, b), paired_difference(b, a)
    assert -1 <= d.low <= d.value <= d.high <= 1
    assert d.value == pytest.approx(b.mean() - a.mean())
    assert (mirrored.low, mirrored.high) == pytest.approx((-d.high, -d.low))
    flips = int((a != b).sum())
    assert d.is_clear <= (flips > 0)


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    n = 12
    truths = [(0.6, 0.1, 0.1, 0.2), (0.4, 0.05, 0.25, 0.3), (0.3, 0.3, 0.3, 0.1), (0.8, 0.02, 0.08, 0.1)]
    for p11, p10, p01, p00 in truths:
        truth, covered = p01 - p10, 0.0
        for x11, x10, x01 in product(range(n + 1), repeat=3):
            x00 = n - x11 - x10 - x01
            if x00 < 0:
                continue
            ways = comb(n, x11) * comb(n - x11, x10) * comb(n - x11 - x10, x01)
            a = np.repeat([True, True, False, False], [x11, x10, x01, x00])
            b = np.repeat([True, False, True, False], [x11, x10, x01, x00])
            d = paired_difference(a, b)
            if d.low <= truth <= d.high:
                covered += ways * p11**x11 * p10**x10 * p01**x01 * p00**x00
        assert covered > 0.92


def test_pairing_narrows_the_interval_when_few_inputs_flip() -> None:
    a = np.arange(400) < 200
    b = np.arange(400) < 215
    paired = paired_difference(a, b)
    free = unpaired_difference(Rate.of(200, 400), Rate.of(215, 400))
    assert paired.is_clear
    assert not free.is_clear
    assert paired.high - paired.low < 0.5 * (free.high - free.low)


def test_the_page_lists_the_first_flips_and_escapes_names(tmp_path: Path) -> None:
    n = 700
    a = record(np.full(n, S, np.uint8), labels(n))
    b = record(np.where(np.arange(n) < 300, B, S).astype(np.uint8), labels(n))
    path = write_comparison_html(tmp_path / "c.html", compare([a], [b]), ("main", HOSTILE))
    text = path.read_text("utf-8")
    assert "Less robust" in text
    assert "−42.9 points" in text
    assert text.count(">lost</span>") == 200
    assert "100 more flipped" in text
    assert "<script>alert" not in text
    odd = compare([hostile_assessment(), bare_assessment()], [hostile_assessment(), image_assessment()])
    text = write_comparison_html(tmp_path / "d.html", odd).read_text("utf-8")
    assert "<script>alert" not in text
    assert "No clear change" in text
    assert "different data" not in text
    empty = write_comparison_html(tmp_path / "e.html", compare([], [])).read_text("utf-8")
    assert "Nothing to compare" in empty


def test_a_number_in_doubt_is_never_an_improvement(tmp_path: Path) -> None:
    n = 200
    a = record(np.full(n, B, np.uint8), labels(n))
    voided = record(np.full(n, S, np.uint8), labels(n), findings=(finding("HP301", "noise won"),))
    text = write_comparison_html(tmp_path / "c.html", compare([a], [voided])).read_text("utf-8")
    assert "More robust" not in text
    assert "In doubt" in text
    assert "after: HP301: noise won" in text


def test_partly_shared_inputs_are_compared_on_what_both_hold(tmp_path: Path) -> None:
    a, b = of(B, S, S, B), of(S, S, B, B)
    some = type(b.outcomes)(**{k: v[:2] for k, v in b.outcomes.arrays().items()})
    part = replace(b, outcomes=some, robust_accuracy=Rate.of(2, 2))
    (t,) = compare([a], [part]).threats
    assert (t.robust.n, t.robust.value, t.repaired.tolist()) == (2, 0.5, [0])
    text = write_comparison_html(tmp_path / "c.html", compare([a], [part])).read_text("utf-8")
    assert "on the 2 inputs that both runs hold" in text
