"""``report.json``: the run's results for programs, described by ``schemas/report.schema.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from hardpoint.evidence import Assessment, CertificateRecord, DefenceRecord
from hardpoint.evidence.store import finite
from hardpoint.report.certificate_words import certificate_sentence
from hardpoint.report.defence_words import stack_sentence
from hardpoint.report.reading import (
    class_name,
    class_rates,
    counts,
    overall,
    refused,
    tool_version,
    unfinished,
    weaknesses,
)
from hardpoint.report.words import sentence

SCHEMA = "hardpoint-report/1"


def summary_json(
    assessments: Sequence[Assessment],
    header: Mapping[str, Any],
    defences: Sequence[DefenceRecord] = (),
    certificates: Sequence[CertificateRecord] = (),
) -> dict[str, Any]:
    """Every result of a run as plain JSON values; valid under ``report_schema()``.

    Numbers JSON cannot hold (NaN, infinities) are null.

    >>> summary_json([], {})["verdict"]
    'not run'
    """
    report = {
        "schema": SCHEMA,
        "tool": {"name": "Hardpoint", "version": tool_version(header)},
        "verdict": overall(assessments, header, certificates).word,
        "unfinished": unfinished(assessments, header, certificates),
        "header": dict(header),
        "assessments": [_assessment(a) for a in assessments],
        "defences": [_defence(d) for d in defences],
        "certificates": [_certificates(c) for c in certificates],
    }
    plain = json.loads(json.dumps(finite(report), default=str))
    return dict(plain)


def _certificates(c: CertificateRecord) -> dict[str, Any]:
    record = c.as_json()
    record.pop("schema")
    rates = {"clean": c.clean, "certified": c.certified, "unbroken": c.unbroken}
    shares = {name: rate.describe() for name, rate in rates.items()}
    return {**record, **shares, "verdict": c.verdict.word, "sentence": certificate_sentence(c)}


def _defence(d: DefenceRecord) -> dict[str, Any]:
    record = d.to_json()
    record.pop("schema")
    return {**record, "sentence": stack_sentence(d)}


def _assessment(a: Assessment) -> dict[str, Any]:
    count = counts(a)
    record, refusals = a.to_json(), refused(a)
    record.pop("schema")
    return {
        **record,
        "sentence": sentence(a),
        "weaknesses": weaknesses(a),
        "refused": None if refusals is None else refusals.describe(),
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
