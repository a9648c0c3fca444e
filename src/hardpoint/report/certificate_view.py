"""Proofs against one threat laid out for the page: every string and drawing the template needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from hardpoint.evidence.certificate import Certificate, CertificateRecord, StageOutcome, Standing
from hardpoint.report import certificate_charts, words
from hardpoint.report.certificate_words import (
    certificate_headline,
    certificate_sentence,
    certified_model,
    certified_threat,
    says,
    says_not,
)

SHOWN_INPUTS = 200
_ORDER = (Standing.UNKNOWN, Standing.VULNERABLE, Standing.MISTAKEN, Standing.ROBUST)
_WORDS = {
    Standing.ROBUST: ("proven", "pass"),
    Standing.VULNERABLE: ("broken", "fail"),
    Standing.UNKNOWN: ("unknown", "warn"),
    Standing.MISTAKEN: ("wrong unchanged", "none"),
}


@dataclass(frozen=True)
class InputView:
    """One row of the table of inputs."""

    certificate: Certificate
    label: str
    word: str
    tone: str


@dataclass(frozen=True)
class StageView:
    """One row of the table of stages, with its time drawn."""

    outcome: StageOutcome
    bar: Markup


@dataclass(frozen=True)
class CertificateView:
    """Everything the page shows of the proofs against one threat."""

    anchor: str
    record: CertificateRecord
    model: str
    threat: str
    headline: words.Headline
    sentence: str
    picture: Markup
    margins: Markup
    counts: tuple[tuple[str, str, int], ...]
    stages: tuple[StageView, ...]
    inputs: tuple[InputView, ...]
    says: tuple[str, ...]
    says_not: tuple[str, ...]


def certificate_view(record: CertificateRecord, position: int) -> CertificateView:
    """Lay out one record; ``position`` makes its anchors unique on the page."""
    margins = [each.bound for each in record.certificates if each.standing is Standing.ROBUST]
    longest = max((stage.seconds for stage in record.stages), default=0.0) or math.inf
    order = sorted(record.certificates, key=lambda each: (_ORDER.index(each.standing), each.index))
    return CertificateView(
        anchor=f"c{position}",
        record=record,
        model=certified_model(record),
        threat=certified_threat(record),
        headline=certificate_headline(record),
        sentence=certificate_sentence(record),
        picture=Markup(certificate_charts.two_sided(record)),
        margins=Markup(certificate_charts.histogram(margins, "proven margin of the scores, at least")),
        counts=tuple(
            (kind, word, record.count(standing))
            for standing, kind, word in (
                (Standing.ROBUST, "proven", "proven"),
                (Standing.UNKNOWN, "unknown", "unknown"),
                (Standing.VULNERABLE, "broken", "broken"),
                (Standing.MISTAKEN, "mistaken", "wrong unchanged"),
            )
        ),
        stages=tuple(
            StageView(
                stage,
                Markup(
                    certificate_charts.length(
                        stage.seconds / longest, f"{stage.name} {words.duration(stage.seconds)}"
                    )
                ),
            )
            for stage in record.stages
        ),
        inputs=tuple(_input(record, each) for each in order[:SHOWN_INPUTS]),
        says=tuple(says(record)),
        says_not=tuple(says_not(record)),
    )


def _input(record: CertificateRecord, certificate: Certificate) -> InputView:
    names = record.data.get("classes")
    label = f"class {certificate.label}"
    if isinstance(names, list | tuple) and certificate.label < len(names):
        label = str(names[certificate.label])
    return InputView(certificate, label, *_WORDS[certificate.standing])
