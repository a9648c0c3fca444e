"""Proofs on the page: both sides drawn, words that promise no more than the level, hostile names, forms for machines."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from hardpoint.core.errors import RunError
from hardpoint.evidence import Certificate, CertificateRecord, Level, RunFolder, Standing
from hardpoint.evidence.certificate import StageOutcome
from hardpoint.report import junit, report_schema, sarif, summary_json
from hardpoint.report.certificate_charts import histogram, two_sided
from hardpoint.report.certificate_words import certificate_sentence, says, says_not
from hardpoint.report.certificates import write_certificates
from hardpoint.report.html import page_of

from report_records import HOSTILE  # isort: skip

R, V, U, M = Standing.ROBUST, Standing.VULNERABLE, Standing.UNKNOWN, Standing.MISTAKEN


def record(
    standings: list[Standing], gate: float | None = None, level: Level = Level.REAL, name: str = "linf-0.1"
) -> CertificateRecord:
    certificates = tuple(
        Certificate(
            i,
            i % 3,
            standing,
            i / 7 if standing is R else math.nan,
            "crown",
            0.1,
            HOSTILE if standing is U else "",
        )
        for i, standing in enumerate(standings)
    )
    return CertificateRecord(
        name=name,
        threat={"kind": "Linf", "eps": 0.1, "text": "Linf ≤ 0.1"},
        level=level,
        method="auto",
        seconds_per_input=5.0,
        stages=(StageOutcome("clean", len(standings), 0, 1, 0.0), StageOutcome("crown", 8, 4, 0, 2.0)),
        certificates=certificates,
        gate=gate,
        model={"name": HOSTILE, "sha256": "ab"},
        data={"name": "digits", "classes": ["zero", HOSTILE, "two"]},
    )


MIXED = [R] * 6 + [U] * 2 + [V] * 1 + [M] * 1


@pytest.mark.parametrize("standings", [MIXED, [R], [M], [U, U], [V] * 3, [R] * 500 + [V]])
@pytest.mark.parametrize("gate", [None, 0.0, 0.5, 1.0])
def test_the_picture_is_well_formed_and_its_parts_fill_the_bar(
    standings: list[Standing], gate: float | None
) -> None:
    root = ElementTree.fromstring(two_sided(record(standings, gate)))
    parts = [node for node in root if node.tag.endswith("rect")]
    assert len(parts) == len(set(standings))
    assert sum(float(part.attrib["width"]) for part in parts) == pytest.approx(636, abs=0.3)
    width = float(root.attrib["viewBox"].split()[2])
    for line in (node for node in root if node.tag.endswith("line")):
        assert 0 <= float(line.attrib["x1"]) <= float(line.attrib["x2"]) <= width
    said = " ".join(node.text or "" for node in root if node.tag.endswith("text"))
    assert "at least" in said
    assert "at most" in said


@pytest.mark.parametrize(
    "values",
    [[0.1, 0.2], [1.0, 1.0], [0.0, 0.0], [-1.0, 2.0], [1e-9, 2e-9], [1e6, 3.0], [math.nan, 1.0, 2.0]],
)
def test_every_value_is_in_the_histogram(values: list[float]) -> None:
    root = ElementTree.fromstring(histogram(values, "margin"))
    titles = [node[0].text or "" for node in root if node.tag.endswith("rect")]
    assert sum(int(title.split()[0]) for title in titles) == sum(value == value for value in values)
    assert 1 <= len(titles) <= 25
    assert histogram([1.0, math.inf], "margin") == ""


def test_the_words_promise_no_more_than_the_level() -> None:
    said = {level: " ".join(says(record(MIXED, level=level))) for level in Level}
    assert "no proof" in said[Level.REAL]
    assert "exact arithmetic" in said[Level.RIGOROUS]
    assert "float32" in said[Level.DEPLOYED]
    assert "TF32" in said[Level.DEPLOYED]
    assert "between 60" in said[Level.REAL]
    assert "Unknown is neither" in " ".join(says_not(record(MIXED)))
    assert "Unknown is neither" not in " ".join(says_not(record([R, V])))
    assert certificate_sentence(record([R])).startswith("1 of 1 input is proven to keep its class")
    assert certificate_sentence(record(MIXED)).endswith(
        "1 is broken by a change that was found, 2 are unknown, 1 is wrong unchanged."
    )


def test_the_page_holds_it_all_and_loads_nothing(tmp_path: Path) -> None:
    page = write_certificates(tmp_path / "page.html", [record(MIXED, 0.5), record([R] * 300)], {}).read_text()
    assert "<script>alert" not in page
    assert "Certified robustness report" in page
    assert "the first 200 of 300" in page
    assert page.index('class="chip warn"') < page.index('class="chip fail"')  # what is unknown comes first
    assert "Not run" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    for word in ("proven 6", "unknown 2", "broken 1", "wrong unchanged 1"):
        assert word in page
    assert "Proofs" not in page_of([], {})


def test_what_was_planned_and_not_finished_is_said() -> None:
    header = {"certificates": ["linf-0.1", "l2-1"], "assessments": []}
    page = page_of([], header, certificates=[record(MIXED)])
    assert "Not finished" in page
    assert "l2-1" in page
    report = summary_json([], header, (), [record(MIXED)])
    assert report["unfinished"] == ["l2-1"]
    assert report["verdict"] == "warn"
    assert 'errors="1"' in junit([], header, [record(MIXED)])


@pytest.mark.parametrize(
    ("gate", "verdict", "kind"),
    [(None, "pass", "skipped"), (0.6, "pass", None), (0.7, "warn", "error"), (0.9, "fail", "failure")],
)
def test_machines_read_the_verdict(gate: float | None, verdict: str, kind: str | None) -> None:
    proofs = record(MIXED, gate)
    report = summary_json([], {}, (), [proofs])
    jsonschema.validate(report, report_schema())
    assert report["verdict"] == report["certificates"][0]["verdict"] == verdict
    case = next(ElementTree.fromstring(junit([], {}, [proofs])).iter("testcase"))
    assert kind is None or case.find(kind) is not None
    assert (case.find("system-out") is not None) == (kind is None)
    log = sarif([], {}, [proofs])["runs"][0]
    assert [result["level"] for result in log["results"]] == {
        "pass": [],
        "warn": ["warning"],
        "fail": ["error"],
    }[verdict]
    assert log["properties"]["proofs"][0]["verdict"] == verdict
    json.dumps(log, allow_nan=False)


def test_the_folder_keeps_records_and_refuses_damaged_ones(tmp_path: Path) -> None:
    run, proofs = RunFolder(tmp_path / "run"), record(MIXED, 0.5)
    run.begin({"certificates": [proofs.name], "assessments": []}, resume=False)
    assert run.certificates() == []
    run.write_certificates(proofs, {})
    (kept,) = run.certificates()
    assert json.dumps(kept.as_json()) == json.dumps(proofs.as_json())
    assert run.header()["status"] == "finished"
    file = run.certificates_path / "linf-0.1.json"
    for change in ({"level": "sure"}, {"certificates": [{"index": 0}]}, {"stages": 3}):
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        with pytest.raises(RunError, match="damaged"):
            run.certificates()
        run.write_certificates(proofs, {})
    file.write_text('{"schema": 99}')
    with pytest.raises(RunError, match="schema 99"):
        run.certificates()
    with pytest.raises(RunError, match="plain file name"):
        run.write_certificates(replace(proofs, name="../out"), {})
