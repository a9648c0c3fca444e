from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from report_records import (
    bare_assessment,
    header,
    hostile_assessment,
    image_assessment,
    series_assessment,
    table_assessment,
)

from hardpoint.evidence import Assessment, Severity, finding
from hardpoint.report import junit

# Element name to (required attributes, optional attributes, children), after the schema Jenkins publishes.
SHAPES: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors", "disabled"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests"},
        {"failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package"},
        {"testcase", "properties", "system-out", "system-err"},
    ),
    "testcase": ({"name"}, {"classname", "time", "status"}, {"skipped", "error", "failure", "system-out"}),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"message"}, set()),
    "system-out": (set(), set(), set()),
}


def parsed(assessments: Sequence[Assessment], head: dict[str, Any] | None = None) -> ET.Element:
    root = ET.fromstring(junit(assessments, head if head is not None else header()).encode("utf-8"))
    assert root.tag == "testsuites"
    for element in root.iter():
        required, optional, children = SHAPES[element.tag]
        assert required <= set(element.attrib) <= required | optional
        assert {child.tag for child in element} <= children
    for group in [root, *root.findall("testsuite")]:
        cases = list(group.iter("testcase"))
        assert int(group.get("tests", "-1")) == len(cases)
        for count, tag in (("failures", "failure"), ("errors", "error")):
            assert int(group.get(count, "-1")) == sum(c.find(tag) is not None for c in cases)
    return root


def outcome(root: ET.Element, index: int = 0) -> str:
    case = root.findall("testsuite")[0].findall("testcase")[index]
    return next((child.tag for child in case if child.tag != "system-out"), "passed")


def test_only_a_gate_that_ran_and_held_is_green() -> None:
    assert outcome(parsed([image_assessment(gate=0.4)])) == "passed"
    assert outcome(parsed([image_assessment(gate=0.6)])) == "failure"
    assert outcome(parsed([image_assessment(gate=None)])) == "skipped"
    assert outcome(parsed([table_assessment()])) == "skipped"
    assert outcome(parsed([image_assessment(gate=0.4, complete=False)])) == "error"
    assert outcome(parsed([series_assessment()])) == "error"


@pytest.mark.parametrize("gate", [None, 0.4])
def test_a_failing_finding_is_never_green(gate: float | None) -> None:
    voided = image_assessment(gate=gate, findings=(finding("HP301", "noise won", severity=Severity.FAIL),))
    root = parsed([voided])
    assert outcome(root) == "error"
    error = root.find(".//error")
    assert error is not None
    assert "HP301: noise won" in error.get("message", "")


def test_what_is_missing_is_an_error() -> None:
    assert outcome(parsed([], {})) == "error"
    root = parsed([image_assessment(gate=0.4)], {"assessments": ["linf-8of255", "l2"]})
    assert (outcome(root, 0), outcome(root, 1)) == ("passed", "error")


def test_checks_become_cases_of_their_own() -> None:
    root = parsed([image_assessment(), bare_assessment(), hostile_assessment()])
    checks = root.findall("testsuite")[1].findall("testcase")
    tags = [next((c.tag for c in case if c.tag != "system-out"), "passed") for case in checks]
    assert tags == ["passed", "passed", "passed", "skipped", "skipped", "failure"]
    assert len(parsed([bare_assessment()]).findall("testsuite")) == 1


def test_the_failure_states_number_interval_and_gate() -> None:
    failure = parsed([image_assessment()]).find(".//failure")
    assert failure is not None
    assert "52.9 % [49.8, 56.0] of 1000 is below the gate of 60" in failure.get("message", "")
