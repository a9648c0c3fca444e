"""The comparison of two runs as one self-contained page, in the look of the report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from hardpoint.evidence import Assessment, Status
from hardpoint.evidence.store import write_atomically
from hardpoint.report import charts, words
from hardpoint.report.compare import Comparison, ThreatComparison
from hardpoint.report.html import render
from hardpoint.report.reading import (
    by_severity,
    class_name,
    defences,
    model_name,
    refusal,
    tool_version,
    weaknesses,
)
from hardpoint.report.view import FindingView, finding_view

MAX_FLIPS = 200
_STATUS = {
    Status.CLEAN_ERROR: "wrong without attack",
    Status.BROKEN: "broken",
    Status.STANDING: "standing",
    Status.UNFINISHED: "not attacked in full",
}


@dataclass(frozen=True)
class Flip:
    """One input that changed sides, as text."""

    index: int
    label: str
    before: str
    after: str
    tone: str
    word: str


@dataclass(frozen=True)
class Panel:
    """Everything the page shows of one threat."""

    record: ThreatComparison
    anchor: str
    title: str
    tone: str
    word: str
    say: str
    bar_a: Markup
    bar_b: Markup
    appeared: tuple[FindingView, ...]
    gone: tuple[FindingView, ...]
    flips: tuple[Flip, ...]
    more_flips: int


def write_comparison_html(
    path: str | os.PathLike[str], comparison: Comparison, names: tuple[str, str] = ("before", "after")
) -> Path:
    """Write the comparison page; ``names`` are what the two runs are called. Returns where it is.

    Per threat it lists the inputs that flipped, the first 200.

    Raises:
        RunError: when the file cannot be written.
    """
    panels = [_panel(t, i, names) for i, t in enumerate(comparison.threats, start=1)]
    page = render(
        "compare.html.j2",
        c=comparison,
        panels=panels,
        names=names,
        version=tool_version({}),
        max_flips=MAX_FLIPS,
    )
    target = Path(path)
    write_atomically(target, page.encode("utf-8"))
    return target


def _panel(t: ThreatComparison, position: int, names: tuple[str, str]) -> Panel:
    d = t.robust
    doubts = [
        f"{name}: {reason}"
        for name, record in zip(names, (t.a, t.b), strict=True)
        for reason in weaknesses(record)
    ]
    if doubts:
        tone, word = "warn", "In doubt"
    elif not d.is_clear:
        tone, word = "none", "No clear change"
    elif d.value > 0:
        tone, word = "pass", "More robust"
    else:
        tone, word = "fail", "Less robust"
    say = f"Robust accuracy goes from {words.percent(t.a.robust_accuracy.value)} ({names[0]}) to "
    say += f"{words.percent(t.b.robust_accuracy.value)} ({names[1]}): "
    say += f"{words.points(d.value)} points [{words.points(d.low)} to {words.points(d.high)}]"
    if d.paired and not len(t.a.outcomes) == len(t.b.outcomes) == d.n:
        say += f" on the {words.number(d.n)} inputs that both runs hold"
    say += "." if d.is_clear else ". The interval includes no change at all."
    if doubts:
        say += f" The comparison rests on a number that cannot be relied on ({'; '.join(doubts)})."
    return Panel(
        record=t,
        anchor=f"t{position}",
        title=words.perturbation_text(t.a.threat) + (f" · {model_name(t.b)}" if defences(t.b) else ""),
        tone=tone,
        word=word,
        say=say,
        bar_a=Markup(charts.bar(t.a.robust_accuracy, clean=t.a.clean_accuracy)),
        bar_b=Markup(charts.bar(t.b.robust_accuracy, clean=t.b.clean_accuracy)),
        appeared=tuple(finding_view(f) for f in by_severity(t.appeared)),
        gone=tuple(finding_view(f) for f in by_severity(t.gone)),
        flips=tuple(_flips(t)[:MAX_FLIPS]),
        more_flips=max(0, len(t.lost) + len(t.repaired) - MAX_FLIPS),
    )


def _flips(t: ThreatComparison) -> list[Flip]:
    """Lost inputs first, then repaired ones, each in data order."""
    rows_a = {int(v): k for k, v in enumerate(t.a.outcomes.index)}
    rows_b = {int(v): k for k, v in enumerate(t.b.outcomes.index)}
    out = []
    for indices, tone, word in ((t.lost, "fail", "lost"), (t.repaired, "pass", "repaired")):
        for index in (int(i) for i in indices[:MAX_FLIPS]):
            i, j = rows_a[index], rows_b[index]
            label = class_name(t.a, int(t.a.outcomes.label[i]))
            out.append(Flip(index, label, _state(t.a, i), _state(t.b, j), tone, word))
    return out


def _state(record: Assessment, row: int) -> str:
    status = Status(int(record.outcomes.status[row]))
    text = _STATUS[status]
    answer = int(record.outcomes.final_prediction[row])
    if status is Status.CLEAN_ERROR and answer == refusal(record):
        return "refused without attack"
    if status in (Status.CLEAN_ERROR, Status.BROKEN):
        text += f", answers {class_name(record, answer)}"
    return text
