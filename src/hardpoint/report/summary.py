"""``report.json``: the run's results for programs, described by ``schemas/report.schema.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from hardpoint.evidence import Assessment
from hardpoint.evidence.store import finite
from hardpoint.report.reading import (
    class_name,
    class_rates,
    counts,
    overall,
    tool_version,
    unfinished,
    weaknesses,
)
from hardpoint.report.words import sentence

SCHEMA = "hardpoint-report/1"


def summary_json(assessments: Sequence[Assessment], header: Mapping[str, Any]) -> dict[str, Any]:
    """Every result of a run as plain JSON values; valid under ``report_schema()``.

    Numbers JSON cannot hold (NaN, infinities) are null.

    >>> summary_json([], {})["verdict"]
    'not run'
    """
    report = {
        "schema": SCHEMA,
        "tool": {"name": "Hardpoint", "version": tool_version(header)},
        "verdict": overall(assessments, header).word,
        "unfinished": unfinished(assessments, header),
        "header": dict(header),
        "assessments": [_assessment(a) for a in assessments],
    }
    plain = json.loads(json.dumps(finite(report), default=str))
    return dict(plain)


def _assessment(a: Assessment) -> dict[str, Any]:
    count = counts(a)
    record = a.to_json()
    record.pop("schema")
    return {
        **record,
        "sentence": sentence(a),
        "weaknesses": weaknesses(a),
        "counts": {
            "clean_error": count.clean_error,
            "broken": count.broken,
            "standing": count.standing,
            "unfinished": count.unfinished,
        },
        "classes": [
            {"label": k, "name": class_name(a, k), "robust_accuracy": rate.describe()}
            for k, rate in class_rates(a)
        ],
    }


def report_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of ``report.json``."""
    text = files("hardpoint.report").joinpath("schemas/report.schema.json").read_text("utf-8")
    return dict(json.loads(text))
