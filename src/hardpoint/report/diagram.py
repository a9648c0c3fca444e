"""A defended model drawn as what an input meets, from the top down, with how gradients cross each part."""

from __future__ import annotations

from collections.abc import Sequence

from hardpoint.evidence import PartKind, StackPart
from hardpoint.report.charts import escaped

_WIDTH, _HIGH, _GAP, _EDGE = 340.0, 48.0, 22.0, 14.0
_PILL, _PILL_HIGH = 104.0, 28.0
_LONGEST = 36  # characters that fit into a box


def stack_diagram(stack: Sequence[StackPart]) -> str:
    """The parts in order, from the input to the answer; detectors stand beside one another behind the network.

    >>> "straight-through" in stack_diagram([StackPart("BitDepth", PartKind.STAGE, "straight-through")])
    True
    """
    before = [part for part in stack if part.kind is not PartKind.DETECTOR]
    detectors = [part for part in stack if part.kind is PartKind.DETECTOR]
    middle = _WIDTH / 2
    drawn, y = [_pill(middle, 1.0, "input")], 1.0 + _PILL_HIGH
    for part in before:
        drawn += [_arrow(middle, y, middle, y + _GAP), _box(part, y + _GAP)]
        y += _GAP + _HIGH
    if detectors:
        top = y + _GAP
        drawn.append(_arrow(middle, y, middle, top))
        y = top + 24
        for part in detectors:
            drawn.append(_box(part, y, inset=10.0))
            y += _HIGH + 8
        y += 2
        word = "refuses" if len(detectors) == 1 else "each can refuse"
        drawn.append(
            f'<rect class="group" x="{_EDGE:g}" y="{top:g}" width="{_WIDTH - 2 * _EDGE:g}" '
            f'height="{y - top:g}" rx="6"/><text class="how" x="{_EDGE + 10:g}" y="{top + 16:g}">'
            f"{word} what looks suspicious</text>"
        )
        for x, word in ((_WIDTH * 0.28, "answer"), (_WIDTH * 0.72, "refused")):
            drawn += [_arrow(x, y, x, y + _GAP), _pill(x, y + _GAP, word)]
    else:
        drawn += [_arrow(middle, y, middle, y + _GAP), _pill(middle, y + _GAP, "answer")]
    height = y + _GAP + _PILL_HIGH + 1
    met = ", ".join(f"{part.name} (gradients: {part.gradient})" for part in stack)
    ends = "answer or refused" if detectors else "answer"
    return (
        f'<svg class="stack" viewBox="0 0 {_WIDTH:g} {height:g}" role="img" '
        f'aria-label="{escaped(f"input, {met}, {ends}")}">{"".join(drawn)}</svg>'
    )


def _box(part: StackPart, y: float, inset: float = 0.0) -> str:
    left, width = _EDGE + inset, _WIDTH - 2 * (_EDGE + inset)
    name = part.name if len(part.name) <= _LONGEST else part.name[: _LONGEST - 1] + "…"
    gradient = f"gradients: {part.gradient}"
    return (
        f'<g><title>{escaped(part.name)}</title><rect class="{part.kind.value}" x="{left:g}" y="{y:g}" '
        f'width="{width:g}" height="{_HIGH:g}" rx="5"/>'
        f'<text class="name" x="{left + 12:g}" y="{y + 20:g}">{escaped(name)}</text>'
        f'<text class="how" x="{left + 12:g}" y="{y + 37:g}">{escaped(gradient)}</text></g>'
    )


def _pill(x: float, y: float, word: str) -> str:
    return (
        f'<rect class="end" x="{x - _PILL / 2:g}" y="{y:g}" width="{_PILL:g}" height="{_PILL_HIGH:g}" '
        f'rx="{_PILL_HIGH / 2:g}"/><text class="end-word" x="{x:g}" y="{y + 18.5:g}" text-anchor="middle">{word}</text>'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line class="arrow" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2 - 6:g}"/>'
        f'<path class="head" d="M{x2 - 4:g} {y2 - 7:g}h8l-4 7z"/>'
    )
