"""One assessment laid out for the page: every string and drawing the template needs, nothing to compute."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hardpoint.evidence import Assessment, CurvePoint, Finding, Rate
from hardpoint.evidence.catalogue import RULES
from hardpoint.evidence.training import moment_of
from hardpoint.report import charts, words
from hardpoint.report.pictures import Gallery, gallery
from hardpoint.report.reading import (
    Counts,
    by_severity,
    class_name,
    class_rates,
    counts,
    defence_name,
    defences,
    model_name,
    refused,
    threat_name,
)

FIRST_CLASSES = 10  # class bars shown before the rest is folded away


@dataclass(frozen=True)
class Detail:
    """How much a page may hold: examples and class bars per assessment."""

    examples: int
    classes: int


@dataclass(frozen=True)
class Curve:
    """A drawn curve, its caption, and its numbers as a table."""

    svg: Markup
    caption: str
    axis: str
    rows: tuple[tuple[str, Rate], ...]


@dataclass(frozen=True)
class ClassBar:
    """One class: its name, robust accuracy and drawn bar."""

    name: str
    rate: Rate
    svg: Markup


@dataclass(frozen=True)
class FindingView:
    """A finding with the text of its rule."""

    finding: Finding
    title: str
    why: str


@dataclass(frozen=True)
class Section:
    """Everything the page shows of one assessment."""

    anchor: str
    record: Assessment
    moment: str
    model: str
    threat: str
    access: str
    headline: words.Headline
    sentence: str
    is_defended: bool
    refused: Rate | None
    refusals: str
    scale: Markup
    counts: Counts
    curves: tuple[Curve, ...]
    gallery: Gallery | None
    classes: tuple[ClassBar, ...]
    more_classes: int
    findings: tuple[FindingView, ...]
    identifiers: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]


def section(assessment: Assessment, position: int, detail: Detail) -> Section:
    """Lay out one assessment; ``position`` makes its anchors unique on the page."""
    rates = class_rates(assessment)
    shown = rates[: detail.classes]
    name = re.sub(r"[^a-z0-9]+", "-", threat_name(assessment).lower()).strip("-")[:40]
    return Section(
        anchor=f"a{position}-{name}".rstrip("-"),
        record=assessment,
        moment=moment_of(assessment.name) or assessment.name,
        model=model_name(assessment),
        threat=words.perturbation_text(assessment.threat),
        access=str(assessment.threat.get("access") or "unknown"),
        headline=words.headline(assessment),
        sentence=words.sentence(assessment),
        is_defended=bool(defences(assessment)),
        refused=refused(assessment),
        refusals=words.refusals(assessment),
        scale=Markup(
            charts.bar(assessment.robust_accuracy, gate=assessment.gate, clean=assessment.clean_accuracy)
        ),
        counts=counts(assessment),
        curves=tuple(c for c in (_eps_curve(assessment), _query_curve(assessment)) if c is not None),
        gallery=gallery(assessment, detail.examples),
        classes=tuple(
            ClassBar(class_name(assessment, k), rate, Markup(charts.bar(rate))) for k, rate in shown
        ),
        more_classes=len(rates) - len(shown),
        findings=tuple(finding_view(f) for f in by_severity(assessment.findings)),
        identifiers=_identifiers(assessment.threat),
        facts=_facts(assessment),
    )


def finding_view(finding: Finding) -> FindingView:
    """A finding with its rule's text; one of an unknown rule, from a newer version, shows its id."""
    rule = RULES.get(finding.id)
    return FindingView(finding, rule.title if rule else finding.id, rule.why if rule else "")


def _inputs(points: Sequence[CurvePoint]) -> str:
    sizes = sorted({p.rate.n for p in points})
    return words.number(sizes[0]) if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"


def _eps_curve(assessment: Assessment) -> Curve | None:
    points = assessment.eps_curve
    eps, in_255 = words.eps_of(assessment.threat), "/255" in words.eps_text(assessment.threat)
    axis = charts.Axis("budget eps, in 1/255" if in_255 else "budget eps", unit=1 / 255 if in_255 else 1.0)
    marks = [charts.Mark(0.0, assessment.clean_accuracy, "clean")]
    if eps is not None:
        marks.append(charts.Mark(eps, assessment.robust_accuracy, "assessed"))
    svg = charts.curve(points, axis, marks=marks if eps else marks[:1], gate=assessment.gate)
    if not svg:
        return None
    caption = (
        f"Robust accuracy against the attacker's budget. Line and band: n = {_inputs(points)} pilot inputs per "
        f"point, 95 % Wilson intervals. Diamonds: clean accuracy and the assessed budget, "
        f"n = {words.number(assessment.robust_accuracy.n)}."
    )
    rows = tuple((words.number(float(f"{p.x / axis.unit:.6g}")), p.rate) for p in points)
    return Curve(Markup(svg), caption, axis.label, _rows(rows))


def _query_curve(assessment: Assessment) -> Curve | None:
    points = assessment.query_curve
    axis = charts.Axis("queries per input", log=True)
    svg = charts.curve(points, axis, gate=assessment.gate)
    if not svg:
        return None
    caption = (
        f"Robust accuracy against the number of questions the attacker asks. n = {_inputs(points)} inputs per "
        f"point, 95 % Wilson intervals; logarithmic axis."
    )
    return Curve(Markup(svg), caption, axis.label, _rows([(words.number(p.x), p.rate) for p in points]))


def _rows(rows: Sequence[tuple[str, Rate]]) -> tuple[tuple[str, Rate], ...]:
    """The table behind a curve, kept short enough to read."""
    return tuple(charts.thinned(rows, 50))


_CATALOGUES = {
    "atlas": "MITRE ATLAS",
    "nist": "NIST AI 100-2",
    "owasp": "OWASP ML Top Ten",
    "cwe": "MITRE CWE",
    "mitigations": "ATLAS mitigations",
}


def _settings(told: Mapping[str, Any]) -> str:
    """A stage or a detector with its settings."""
    held = {str(k): v for k, v in told.items() if k not in _NOT_SETTINGS and isinstance(v, int | float | str)}
    shown = ", ".join(f"{k.replace('_', ' ')} {words.number(v)}" for k, v in held.items() if v != "")
    return defence_name(told) + (f": {shown}" if shown else "")


_NOT_SETTINGS = ("kind", "name", "code", "fitted", "unit")


def _identifiers(threat: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    given = threat.get("identifiers")
    if not isinstance(given, Mapping):
        return ()
    return tuple((_CATALOGUES.get(k, str(k)), ", ".join(str(i) for i in v)) for k, v in given.items() if v)


def _facts(a: Assessment) -> tuple[tuple[str, str], ...]:
    """The small print of an assessment, as name and value."""
    passes = ", ".join(f"{words.number(round(v, 1))} {k}" for k, v in a.passes.items() if v)
    checked = ", ".join(f"{words.number(v)} {k}" for k, v in a.verification.items())
    twin = str(a.twin.get("text") or ", ".join(f"{k} {words.number(v)}" for k, v in a.twin.items()))
    if isinstance(a.twin.get("speedup"), float):
        twin += f" ({a.twin['speedup']:.1f} times as fast)"
    queries = a.threat.get("queries")
    facts = [
        *((f"Defence {k}", _settings(told)) for k, told in enumerate(defences(a), start=1)),
        ("Mode", a.mode),
        ("Seed", str(a.seed)),
        ("Query budget", words.number(queries) if queries is not None else ""),
        ("Effort per input (mean)", passes),
        ("Successes checked on the model itself", checked),
        ("Searched on a copy of the model" if a.twin.get("copied", True) else "Searched on", twin),
        ("Time", words.duration(a.seconds)),
        *((name, words.number(value)) for name, value in a.metrics.items()),
    ]
    return tuple((name, value) for name, value in facts if value)
