"""What is known of a defence laid out for the page: every string and drawing the template needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from hardpoint.evidence import DefenceRecord, PartKind, PartRecord, Rate, StackPart, ThresholdRecord
from hardpoint.report import charts, words
from hardpoint.report.defence_words import part_sentence, stack_sentence, verdict
from hardpoint.report.diagram import stack_diagram


@dataclass(frozen=True)
class Beside:
    """A naive rate and the adaptive one, drawn; there is no way to show the first alone."""

    naive: Rate | None
    adaptive: Rate | None
    naive_bar: Markup | None
    adaptive_bar: Markup | None


@dataclass(frozen=True)
class PartView:
    """One row of the table: a part, its verdict, where its assessment is on the page."""

    record: PartRecord
    verdict: words.Headline
    sentence: str
    stands: Beside
    anchor: str


@dataclass(frozen=True)
class ThresholdView:
    """One row of the table of thresholds."""

    record: ThresholdRecord
    caught: Beside


@dataclass(frozen=True)
class DefenceView:
    """Everything the page shows of one defence.

    ``covers`` names the assessments that its table shows, which need no verdict of their own at the top.
    """

    anchor: str
    record: DefenceRecord
    threat: str
    access: str
    headline: words.Headline
    sentence: str
    whole: PartRecord | None
    diagram: Markup
    parts: tuple[PartView, ...]
    bare: Beside
    bare_anchor: str
    thresholds: tuple[ThresholdView, ...]
    guarantees: tuple[StackPart, ...]
    doubts: tuple[str, ...]
    covers: tuple[str, ...]


def defence_view(record: DefenceRecord, position: int, anchors: Mapping[str, str]) -> DefenceView:
    """Lay out one defence; ``position`` makes its anchor unique, ``anchors`` says where assessments are."""
    whole = record.parts[-1] if record.parts else None
    return DefenceView(
        anchor=f"defence-{position}",
        record=record,
        threat=words.perturbation_text(record.threat),
        access=str(record.threat.get("access") or "unknown"),
        headline=words.Headline("none", "Not measured", "") if whole is None else verdict(whole),
        sentence=stack_sentence(record),
        whole=whole,
        diagram=Markup(stack_diagram(record.stack)),
        parts=tuple(
            PartView(
                part,
                verdict(part),
                part_sentence(record, part),
                beside(part.naive, part.adaptive, "stands"),
                anchors.get(part.assessment, ""),
            )
            for part in record.parts
        ),
        bare=beside(record.robust, record.robust, "stands"),
        bare_anchor=anchors.get(record.assessment, ""),
        thresholds=tuple(
            ThresholdView(row, beside(row.caught_naive, row.caught_adaptive, "caught"))
            for row in record.thresholds
        ),
        guarantees=tuple(p for p in record.stack if p.kind is PartKind.DETECTOR and p.guarantee),
        doubts=_doubts(record),
        covers=tuple(name for name in (record.assessment, *(p.assessment for p in record.parts)) if name),
    )


def _doubts(record: DefenceRecord) -> tuple[str, ...]:
    """Each reason once, with whom it concerns."""
    whom: dict[str, list[str]] = {}
    for name, reasons in (("undefended", record.doubts), *((p.name, p.doubts) for p in record.parts)):
        for reason in reasons:
            whom.setdefault(reason, []).append(name)
    return tuple(f"{reason} ({', '.join(names)})" for reason, names in whom.items())


def beside(naive: Rate | None, adaptive: Rate | None, what: str) -> Beside:
    """Two rates drawn one below the other."""
    return Beside(
        naive,
        adaptive,
        None if naive is None else Markup(charts.bar(naive, name=f"{what}, naive:", pale=True)),
        None if adaptive is None else Markup(charts.bar(adaptive, name=f"{what}, adaptive:")),
    )
