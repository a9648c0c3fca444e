from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from report_records import (
    HOSTILE,
    bare_assessment,
    header,
    hostile_assessment,
    image_assessment,
    series_assessment,
    table_assessment,
)

from hardpoint.evidence import Assessment, Rate, finding
from hardpoint.evidence.catalogue import RULES
from hardpoint.report import sarif

_MESSAGE = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string", "minLength": 1}},
}
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
_DESCRIPTOR = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string"},
        "shortDescription": _MESSAGE,
        "fullDescription": _MESSAGE,
        "help": _MESSAGE,
        "defaultConfiguration": {"type": "object", "properties": {"level": _LEVEL}},
    },
}
# The parts of SARIF 2.1.0 (OASIS, sections 3.13 to 3.58) that the log uses, with the properties it requires.
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "version": {"type": "string"},
                                    "rules": {"type": "array", "uniqueItems": True, "items": _DESCRIPTOR},
                                },
                            }
                        },
                    },
                    "invocations": {
                        "type": "array",
                        "items": {"type": "object", "required": ["executionSuccessful"]},
                    },
                    "taxonomies": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {"taxa": {"type": "array", "items": _DESCRIPTOR}},
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message", "ruleId", "locations", "partialFingerprints"],
                            "properties": {
                                "message": _MESSAGE,
                                "level": _LEVEL,
                                "kind": {"const": "fail"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "locations": {
                                    "type": "array",
                                    "minItems": 1,
                                    "items": {
                                        "type": "object",
                                        "required": ["physicalLocation"],
                                        "properties": {
                                            "physicalLocation": {
                                                "type": "object",
                                                "required": ["artifactLocation"],
                                            }
                                        },
                                    },
                                },
                                "partialFingerprints": {
                                    "type": "object",
                                    "additionalProperties": {"type": "string"},
                                },
                                "taxa": {"type": "array", "uniqueItems": True},
                            },
                        },
                    },
                },
            },
        },
    },
}
CASES: list[list[Assessment]] = [
    [],
    [bare_assessment()],
    [image_assessment(), table_assessment(), series_assessment()],
    [hostile_assessment()],
]


def results(log: dict[str, Any]) -> list[dict[str, Any]]:
    return list(log["runs"][0]["results"])


@pytest.mark.parametrize("assessments", CASES)
def test_the_log_has_the_required_structure(assessments: list[Assessment]) -> None:
    log = sarif(assessments, header(command=HOSTILE, assessments=["lost"]))
    jsonschema.validate(log, SARIF)
    json.dumps(log, allow_nan=False).encode("utf-8")
    run = log["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert set(RULES) <= set(rules)
    known = {(t["name"], taxon["id"]) for t in run["taxonomies"] for taxon in t["taxa"]}
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert {(t["toolComponent"]["name"], t["id"]) for t in result["taxa"]} <= known
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert uri
        assert not set(uri) & set("<>\"' \x00")


@pytest.mark.parametrize("assessments", CASES)
def test_the_log_fits_the_published_schema(assessments: list[Assessment]) -> None:
    reason = "pydantic-sarif, which carries the published schema, is not installed"
    model = pytest.importorskip("pydantic_sarif.model", reason=reason)
    log = sarif(assessments, header())
    model.StaticAnalysisResultsFormatSarifVersion210JsonSchema.model_validate(log)


def test_a_missed_gate_is_an_error_and_findings_keep_their_level() -> None:
    found = {r["ruleId"]: r["level"] for r in results(sarif([image_assessment()], header()))}
    assert found == {"HP001": "error", "HP304": "warning", "HP305": "warning", "HP403": "note"}
    doubtful = {r["ruleId"]: r["level"] for r in results(sarif([series_assessment()], header()))}
    assert doubtful == {"HP001": "warning", "HP301": "error", "HP401": "warning"}


def test_a_pass_is_no_alert_and_no_silence() -> None:
    passed = image_assessment(gate=0.4, findings=())
    log = sarif([passed], header())
    assert results(log) == []
    properties = log["runs"][0]["properties"]
    assert properties["verdict"] == "pass"
    assert properties["threats"][0]["verdict"] == "pass"
    assert log["runs"][0]["invocations"][0]["executionSuccessful"] is True


def test_what_did_not_run_is_reported() -> None:
    assert sarif([], {})["runs"][0]["invocations"][0]["executionSuccessful"] is False
    log = sarif([bare_assessment()], {"assessments": ["bare", "l1-9"]})
    invocation = log["runs"][0]["invocations"][0]
    assert invocation["executionSuccessful"] is False
    assert "l1-9" in invocation["toolExecutionNotifications"][0]["message"]["text"]


def test_fingerprints_are_stable_and_distinct() -> None:
    def prints(a: Assessment) -> list[str]:
        return [r["partialFingerprints"]["hardpointFinding/v1"] for r in results(sarif([a], header()))]

    twice = (finding("HP105", "3 of 64"), finding("HP105", "5 of 64"))
    first = prints(image_assessment(findings=twice))
    assert len(set(first)) == 3
    later = image_assessment(
        findings=(finding("HP105", "4 of 64"), finding("HP105", "6 of 64")),
        robust_accuracy=Rate.of(500, 1000),
        seed=7,
    )
    assert prints(later) == first
    assert not set(prints(image_assessment(findings=twice, model={"name": "other"}))) & set(first)


def test_weaknesses_are_named_by_their_catalogue_number() -> None:
    log = sarif([image_assessment()], header())
    taxonomy = next(t for t in log["runs"][0]["taxonomies"] if t["name"] == "CWE")
    assert taxonomy["taxa"] == [{"id": "1039"}]
    assert {"id": "1039", "toolComponent": {"name": "CWE"}} in results(log)[0]["taxa"]


def test_a_path_or_address_of_the_model_is_its_location() -> None:
    def uri(**model: str) -> str:
        log = sarif([image_assessment(model=model)], header())
        return str(results(log)[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])

    assert uri(name="my model") == "my%20model"
    assert uri(name="m", path="models/a b.onnx") == "models/a%20b.onnx"
    assert uri(name="m", uri="https://host:8080/v1/predict?a=b") == "https://host:8080/v1/predict?a=b"
