"""JUnit XML for continuous integration: green only where a gate was set, run in full and reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from hardpoint.evidence import Assessment, CertificateRecord, Check, Verdict
from hardpoint.report.certificate_words import certificate_headline, certificate_sentence, certified_model
from hardpoint.report.reading import model_name, threat_name, unfinished, weaknesses
from hardpoint.report.words import percent, printable, refusals, sentence


def junit(
    assessments: Sequence[Assessment],
    header: Mapping[str, Any],
    certificates: Sequence[CertificateRecord] = (),
) -> str:
    """One test case per assessment, per record of proofs and per attack-strength check, as JUnit XML text.

    A missed gate is a failure. A number that cannot be relied on, and an assessment that was planned and
    not finished, is an error. An assessment without a gate, and a check that did not run or decided
    nothing, is skipped with the reason. A run without any assessment is an error.

    >>> "errors=\\"1\\"" in junit([], {})
    True
    """
    gates = [_assessment_case(a) for a in assessments] + [_certificate_case(c) for c in certificates]
    gates += [
        _case("hardpoint", name, 0.0, "error", "not finished", "It was planned and not finished.")
        for name in unfinished(assessments, header, certificates)
    ]
    if not gates:
        gates = [_case("hardpoint", "run", 0.0, "error", "nothing was assessed", "The run has no result.")]
    suites = [_suite("robust accuracy", gates)]
    checks = [_check_case(a, check) for a in assessments for check in a.checks]
    if checks:
        suites.append(_suite("strength of the attacks", checks))
    root = ET.Element("testsuites", {"name": "hardpoint", **_totals([c for s in suites for c in s])})
    root.extend(suites)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _assessment_case(a: Assessment) -> ET.Element:
    where = f"hardpoint.{model_name(a)}"
    text = f"{sentence(a)}\nclean accuracy {a.clean_accuracy}\nrobust accuracy {a.robust_accuracy}"
    if refusals(a):
        text += f"\n{refusals(a)}"
    reasons = weaknesses(a)
    if reasons:
        text += "\n" + "\n".join(reasons)
    name, verdict = threat_name(a), a.verdict
    if verdict is Verdict.FAIL and a.gate is not None:
        message = f"robust accuracy {a.robust_accuracy} is below the gate of {percent(a.gate)}"
        return _case(where, name, a.seconds, "failure", message, text)
    if verdict is Verdict.NOT_RUN:
        return _case(where, name, a.seconds, "error", "the assessment did not run", text)
    if verdict is not Verdict.PASS:
        message = f"the number cannot be relied on: {'; '.join(reasons) or 'see the report'}"
        return _case(where, name, a.seconds, "error", message, text)
    if a.gate is None:
        return _case(where, name, a.seconds, "skipped", "no gate was set; this is a measurement", text)
    return _case(where, name, a.seconds, None, "", text)


def _certificate_case(c: CertificateRecord) -> ET.Element:
    where, name = f"hardpoint.{certified_model(c)}", f"proofs {c.name}"
    text = (
        f"{certificate_sentence(c)}\nclean accuracy {c.clean}\nproven {c.certified}\nnot broken {c.unbroken}"
    )
    if c.gate is None:
        return _case(where, name, c.seconds, "skipped", "no gate was set; this is a measurement", text)
    kinds = {Verdict.PASS: None, Verdict.FAIL: "failure"}
    return _case(where, name, c.seconds, kinds.get(c.verdict, "error"), certificate_headline(c).reason, text)


def _check_case(a: Assessment, check: Check) -> ET.Element:
    where = f"hardpoint.{model_name(a)}.{threat_name(a)}"
    name = f"{check.id} {check.name}"
    text = f"{check.explanation}\nmeasured {check.measured}, limit {check.threshold}"
    kinds = {Verdict.PASS: None, Verdict.FAIL: "failure"}
    message = {Verdict.FAIL: check.explanation, Verdict.NOT_RUN: "the check did not run"}.get(
        check.verdict, f"inconclusive: {check.explanation}"
    )
    return _case(where, name, 0.0, kinds.get(check.verdict, "skipped"), message, text)


def _case(where: str, name: str, seconds: float, kind: str | None, message: str, text: str) -> ET.Element:
    case = ET.Element(
        "testcase", {"classname": printable(where), "name": printable(name), "time": f"{seconds:.3f}"}
    )
    if kind is None:
        ET.SubElement(case, "system-out").text = printable(text)
    else:
        attributes = {"message": printable(message)}
        if kind != "skipped":
            attributes["type"] = "hardpoint"
        ET.SubElement(case, kind, attributes).text = printable(text)
    return case


def _suite(name: str, cases: Sequence[ET.Element]) -> ET.Element:
    suite = ET.Element("testsuite", {"name": f"hardpoint: {name}", **_totals(cases)})
    suite.set("skipped", str(sum(c.find("skipped") is not None for c in cases)))
    suite.extend(cases)
    return suite


def _totals(cases: Sequence[ET.Element]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(c.find("failure") is not None for c in cases)),
        "errors": str(sum(c.find("error") is not None for c in cases)),
        "time": f"{sum(float(c.get('time', '0')) for c in cases):.3f}",
    }
