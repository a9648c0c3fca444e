"""SARIF 2.1.0 for code-scanning services: findings and missed gates as results.

Only what needs attention becomes a result: some services show every result as an alert whatever its kind,
so passed and ungated threats stand under the run's ``properties`` instead, never as silence.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from hardpoint.evidence import Assessment, CertificateRecord, Severity, Verdict
from hardpoint.evidence.catalogue import RULES
from hardpoint.evidence.store import finite
from hardpoint.report.certificate_words import certificate_headline, certificate_sentence, certified_model
from hardpoint.report.reading import (
    by_severity,
    model_name,
    network_name,
    overall,
    threat_name,
    tool_version,
    unfinished,
)
from hardpoint.report.words import headline, printable, sentence

SCHEMA_URI = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
VERDICT_RULE = "HP001"  # under HP1xx, the findings' ids: the verdict on a threat as a whole
_LEVEL = {Severity.NOTE: "note", Severity.WARNING: "warning", Severity.FAIL: "error"}
_TAXONOMIES = {"cwe": ("CWE", "MITRE"), "atlas": ("ATLAS", "MITRE"), "nist": ("NIST AI 100-2", "NIST")}


def sarif(
    assessments: Sequence[Assessment],
    header: Mapping[str, Any],
    certificates: Sequence[CertificateRecord] = (),
) -> dict[str, Any]:
    """The SARIF log of a run: one run, a result per finding, and per threat or proofs of it that fail or warn.

    The location of a result is the model (its ``uri``, ``path`` or name) and, logically, the threat.
    Fingerprints depend on the rule, the model's name and the threat, not on measured numbers.

    >>> log = sarif([], {})
    >>> log["version"], log["runs"][0]["tool"]["driver"]["name"]
    ('2.1.0', 'Hardpoint')
    """
    rules = [VERDICT_RULE, *RULES]
    taxonomies = _taxonomies(assessments)
    results = [r for a in assessments for r in _results(a, rules, taxonomies)]
    results += [_certificate_result(c, rules) for c in certificates if c.verdict is not Verdict.PASS]
    missing = unfinished(assessments, header, certificates)
    verdict = overall(assessments, header, certificates)
    invocation: dict[str, Any] = {
        "executionSuccessful": bool(assessments or certificates) and not missing,
        "toolExecutionNotifications": [
            {"level": "error", "message": {"text": f"{name} was planned and not finished"}}
            for name in map(printable, missing)
        ],
    }
    if isinstance(header.get("command"), str):
        invocation["commandLine"] = printable(header["command"])
    run = {
        "tool": {
            "driver": {
                "name": "Hardpoint",
                "version": tool_version(header),
                "rules": [_rule(rule) for rule in rules],
                "supportedTaxonomies": [{"name": t["name"]} for t in taxonomies.values()],
            }
        },
        "automationDetails": {"id": "hardpoint/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [invocation],
        "taxonomies": list(taxonomies.values()),
        "results": results,
        "properties": {
            "verdict": verdict.word,
            "threats": [
                {
                    "model": model_name(a),
                    "threat": threat_name(a),
                    "verdict": a.verdict.word,
                    "gate": a.gate,
                    "robustAccuracy": a.robust_accuracy.describe(),
                    "cleanAccuracy": a.clean_accuracy.describe(),
                }
                for a in assessments
            ],
            "proofs": [
                {
                    "model": certified_model(c),
                    "threat": c.name,
                    "verdict": c.verdict.word,
                    "gate": c.gate,
                    "certifiedAccuracy": c.certified.describe(),
                    "notBroken": c.unbroken.describe(),
                }
                for c in certificates
            ],
        },
    }
    log = {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]}
    return dict(json.loads(json.dumps(finite(log), default=str)))


def _rule(rule_id: str) -> dict[str, Any]:
    if rule_id == VERDICT_RULE:
        title, level = "Robust accuracy under a threat", "error"
        why = "An attacker within the threat changes the model's answer on more inputs than the gate allows, "
        why += "or the number that the gate rests on cannot be relied on."
        cure = "harden the model or narrow the threat; repair what the findings name"
    else:
        rule = RULES[rule_id]
        title, why, cure = rule.title, rule.why, rule.cure
        level = _LEVEL[Severity[rule.severity.upper()]]
    return {
        "id": rule_id,
        "shortDescription": {"text": title},
        "fullDescription": {"text": why},
        "help": {"text": f"{why} Cure: {cure}."},
        "defaultConfiguration": {"level": level},
        "properties": {"tags": ["security", "machine-learning"]},
    }


def _taxonomies(assessments: Sequence[Assessment]) -> dict[str, dict[str, Any]]:
    """The catalogues the threats refer to, each with the entries used."""
    out: dict[str, dict[str, Any]] = {}
    for key, (name, organization) in _TAXONOMIES.items():
        entries = sorted({entry for a in assessments for entry in _entries(a, key)})
        if entries:
            out[key] = {
                "name": name,
                "organization": organization,
                "shortDescription": {"text": f"Entries of {name} that the threats refer to"},
                "isComprehensive": False,
                "taxa": [{"id": entry} for entry in entries],
            }
    return out


def _entries(a: Assessment, key: str) -> list[str]:
    given = a.threat.get("identifiers")
    values = given.get(key, ()) if isinstance(given, Mapping) else ()
    # The CWE taxonomy's own ids are bare numbers.
    return [printable(v).removeprefix("CWE-") if key == "cwe" else printable(v) for v in values]


def _results(
    a: Assessment, rules: Sequence[str], taxonomies: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    taxa = [
        {"id": entry, "toolComponent": {"name": taxonomy["name"]}}
        for key, taxonomy in taxonomies.items()
        for entry in _entries(a, key)
    ]
    found: list[tuple[str, str, str, str, float | None, float | None]] = []
    if a.verdict is not Verdict.PASS:
        level = "error" if a.verdict is Verdict.FAIL else "warning"
        found.append((VERDICT_RULE, level, f"{sentence(a)} {headline(a).reason}", "", None, None))
    found.extend(
        (f.id, _LEVEL[f.severity], f.message, f" Cure: {f.cure}.", f.measured, f.threshold)
        for f in by_severity(a.findings)
    )
    results: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    for rule_id, level, message, cure, measured, threshold in found:
        properties: dict[str, Any] = {"robustAccuracy": a.robust_accuracy.describe(), "gate": a.gate}
        if measured is not None:
            properties |= {"measured": measured, "threshold": threshold}
        result: dict[str, Any] = {
            "ruleId": rule_id,
            "kind": "fail",
            "level": level,
            "message": {"text": printable(f"{model_name(a)}, {threat_name(a)}: {message}{cure}")},
            "locations": [_location(a.model, network_name(a), model_name(a), threat_name(a))],
            "partialFingerprints": _fingerprints(rule_id, model_name(a), threat_name(a), seen[rule_id]),
            "taxa": taxa,
            "properties": properties,
        }
        if rule_id in rules:
            result["ruleIndex"] = rules.index(rule_id)
        seen[rule_id] += 1
        results.append(result)
    return results


def _certificate_result(c: CertificateRecord, rules: Sequence[str]) -> dict[str, Any]:
    name, threat = certified_model(c), f"proofs {c.name}"
    text = f"{name}, {c.name}: {certificate_sentence(c)} {certificate_headline(c).reason}"
    return {
        "ruleId": VERDICT_RULE,
        "ruleIndex": rules.index(VERDICT_RULE),
        "kind": "fail",
        "level": "error" if c.verdict is Verdict.FAIL else "warning",
        "message": {"text": printable(text)},
        "locations": [_location(c.model, name, name, threat)],
        "partialFingerprints": _fingerprints(VERDICT_RULE, name, threat, 0),
        "properties": {"certifiedAccuracy": c.certified.describe(), "gate": c.gate},
    }


def _location(told: Mapping[str, Any], network: str, model: str, threat: str) -> dict[str, Any]:
    if told.get("uri"):
        uri = quote(printable(told["uri"]), safe=":/?#[]@!$&'()*+,;=%._-~")
    else:
        uri = quote(printable(told.get("path") or network), safe="/._-~")
    name = printable(threat)
    return {
        "physicalLocation": {"artifactLocation": {"uri": uri}},
        "logicalLocations": [
            {"name": name, "fullyQualifiedName": f"{printable(model)}/{name}", "kind": "threat"}
        ],
    }


def _fingerprints(rule_id: str, model: str, threat: str, occurrence: int) -> dict[str, str]:
    """What makes a result the same one in the next run; the second key is the one GitHub reads."""
    identity = json.dumps([rule_id, model, threat, occurrence])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return {"hardpointFinding/v1": digest, "primaryLocationLineHash": f"{digest[:16]}:1"}
