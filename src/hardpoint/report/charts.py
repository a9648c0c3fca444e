"""Charts as SVG text: pure functions, coloured by the page's style sheet, readable without colour.

Every rate is drawn with its interval. A curve holds at most ``MAX_POINTS`` points.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hardpoint.evidence import CurvePoint, Rate
from hardpoint.report.words import interval, number, percent, printable

T = TypeVar("T")

MAX_POINTS = 2000
_WIDTH, _HEIGHT = 480.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 16.0, 46.0


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """At most ``count`` round numbers (steps of 1, 2 or 5 times a power of ten) inside ``[low, high]``.

    >>> ticks(0, 1), ticks(0, 8)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 2.0, 4.0, 6.0, 8.0])
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 5) if m * power >= rough * (1 - 1e-9)), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The powers of ten inside ``[low, high]``; with fewer than two of them, also their 2 and 5 fold.

    >>> log_ticks(1, 1000), log_ticks(30, 90)
    ([1.0, 10.0, 100.0, 1000.0], [50.0])
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**e for e in exponents if low <= 10.0**e <= high]
    if len(tens) >= 2:
        return tens[:: max(1, math.ceil(len(tens) / 7))]
    return [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]


def thinned(points: Sequence[T], limit: int = MAX_POINTS) -> list[T]:
    """At most ``limit`` of the points, evenly spread, the first and the last among them.

    >>> thinned(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(points) <= limit:
        return list(points)
    return [points[round(k * (len(points) - 1) / (limit - 1))] for k in range(limit)]


def escaped(text: object) -> str:
    """``text`` safe inside SVG and attributes."""
    return html.escape(printable(text), quote=True)


@dataclass(frozen=True)
class Mark:
    """One measured point set apart from the curve, with its name."""

    x: float
    rate: Rate
    name: str


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: ``unit`` divides the values for the labels; ``log`` drops what is not positive."""

    label: str
    log: bool = False
    unit: float = 1.0


def curve(
    points: Sequence[CurvePoint], axis: Axis, *, marks: Sequence[Mark] = (), gate: float | None = None
) -> str:
    """Robust accuracy against ``axis`` with its interval as a band; empty where nothing can be drawn.

    ``marks`` are single points with whiskers. Points whose x is not finite, or not positive on a
    logarithmic axis, are left out.
    """
    shown = [p for p in sorted(points, key=lambda p: p.x) if _is_drawable(p.x, axis)]
    shown = thinned(shown)
    single = [m for m in marks if _is_drawable(m.x, axis)]
    xs = [p.x for p in shown] + [m.x for m in single]
    if not shown or len(set(xs)) < 2:
        return ""
    low, high = (min(xs), max(xs)) if axis.log else (min(0.0, *xs), max(xs))
    place = _scale(low, high, axis.log)
    parts = [_frame(axis, low, high, place)]
    if gate is not None:
        y = _y(gate)
        parts.append(f'<line class="gate" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="gate-label" x="{_WIDTH - _RIGHT - 4:g}" y="{y - 5}" text-anchor="end">'
            f"gate {percent(gate)}</text>"
        )
    upper = [f"{place(p.x):.1f},{_y(p.rate.high)}" for p in shown]
    lower = [f"{place(p.x):.1f},{_y(p.rate.low)}" for p in reversed(shown)]
    parts.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
    line = " ".join(f"{place(p.x):.1f},{_y(p.rate.value)}" for p in shown)
    parts.append(f'<polyline class="line" points="{line}"/>')
    if len(shown) <= 40:
        parts += [_dot(place(p.x), p.rate, f"{axis.label} {_x_text(p.x, axis)}", "point") for p in shown]
    parts += [_whisker(place(m.x), m, gate) for m in single]
    ends = f"from {percent(shown[0].rate.value)} at {_x_text(shown[0].x, axis)}"
    ends += f" to {percent(shown[-1].rate.value)} at {_x_text(shown[-1].x, axis)}"
    label = f"Robust accuracy against {axis.label}: {ends}"
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escaped(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _is_drawable(x: float, axis: Axis) -> bool:
    return math.isfinite(x) and (x > 0 or not axis.log)


def _scale(low: float, high: float, log: bool) -> Callable[[float], float]:
    width = _WIDTH - _LEFT - _RIGHT
    if log:
        return lambda x: _LEFT + width * (math.log(x / low) / math.log(high / low))
    return lambda x: _LEFT + width * ((x - low) / (high - low))


def _y(share: float) -> float:
    return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - share), 1)


def _x_text(x: float, axis: Axis) -> str:
    return number(float(f"{x / axis.unit:.6g}"))


def _frame(axis: Axis, low: float, high: float, place: Callable[[float], float]) -> str:
    right, base = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        kind = "axis" if share == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{_LEFT:g}" x2="{right:g}" y1="{_y(share)}" y2="{_y(share)}"/>'
        )
        parts.append(
            f'<text x="{_LEFT - 7:g}" y="{_y(share) + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>'
        )
    at = (
        log_ticks(low, high)
        if axis.log
        else [t * axis.unit for t in ticks(low / axis.unit, high / axis.unit)]
    )
    for x in at:
        parts.append(
            f'<line class="axis" x1="{place(x):.1f}" x2="{place(x):.1f}" y1="{base:g}" y2="{base + 4:g}"/>'
        )
        parts.append(
            f'<text x="{place(x):.1f}" y="{base + 18:g}" text-anchor="middle">{_x_text(x, axis)}</text>'
        )
    name = axis.label + (" (log scale)" if axis.log else "")
    parts.append(
        f'<text class="axis-label" x="{(_LEFT + right) / 2:g}" y="{_HEIGHT - 8:g}" text-anchor="middle">'
        f"{escaped(name)}</text>"
    )
    return "".join(parts)


def _title(rate: Rate, what: str) -> str:
    return escaped(f"{what}: {percent(rate.value)} [{interval(rate)}], n = {rate.n}")


def _dot(x: float, rate: Rate, what: str, kind: str) -> str:
    return (
        f'<circle class="{kind}" cx="{x:.1f}" cy="{_y(rate.value)}" r="3">'
        f"<title>{_title(rate, what)}</title></circle>"
    )


def _whisker(x: float, mark: Mark, gate: float | None) -> str:
    top, bottom, y = _y(mark.rate.high), _y(mark.rate.low), _y(mark.rate.value)
    # Curves fall to the right, so above right and below left of a point are free of the line.
    is_gate_above = gate is not None and y - 26 < _y(gate) < y - 2
    is_below = x > _LEFT + 70 and (is_gate_above or x > _WIDTH * 0.7)
    anchor, dx, label_y = ("end", -9, y + 18) if is_below else ("start", 9, y - 9)
    if label_y < _TOP:
        label_y = y + 20
    label_y = min(label_y, _HEIGHT - _BOTTOM - 4)
    return (
        f'<g class="mark"><line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        f'<line x1="{x - 4:.1f}" x2="{x + 4:.1f}" y1="{top}" y2="{top}"/>'
        f'<line x1="{x - 4:.1f}" x2="{x + 4:.1f}" y1="{bottom}" y2="{bottom}"/>'
        f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" transform="rotate(45 {x:.1f} {y})">'
        f"<title>{_title(mark.rate, mark.name)}</title></rect>"
        f'<text x="{x + dx:.1f}" y="{label_y:.1f}" text-anchor="{anchor}">{escaped(mark.name)}</text></g>'
    )


def bar(
    rate: Rate, *, gate: float | None = None, clean: Rate | None = None, name: str = "", pale: bool = False
) -> str:
    """One horizontal bar from 0 to 100 % as wide as its place, with the interval as a whisker below.

    ``name`` says what is drawn to who cannot see it; ``pale`` draws it in the colour of what stands back.
    """
    described = f"{name} {percent(rate.value)}, interval {interval(rate)}, n = {rate.n}".lstrip()
    parts = ['<rect class="track" width="100%" y="2" height="10" rx="2"/>']
    if clean is not None:
        parts.append(f'<rect class="clean" width="{_share(clean.value)}" y="2" height="10" rx="2"/>')
        described += f"; clean accuracy {percent(clean.value)}"
    fill = "clean" if pale else "fill"
    parts.append(f'<rect class="{fill}" width="{_share(rate.value)}" y="2" height="10" rx="2"/>')
    low, high = _share(rate.low), _share(rate.high)
    parts.append(f'<line class="whisker" x1="{low}" x2="{high}" y1="17" y2="17"/>')
    parts += [f'<line class="whisker" x1="{end}" x2="{end}" y1="14" y2="20"/>' for end in (low, high)]
    if gate is not None:
        parts.append(f'<line class="gate" x1="{_share(gate)}" x2="{_share(gate)}" y1="-2" y2="20"/>')
        described += f"; gate {percent(gate)}"
    return (
        f'<svg class="bar" width="100%" height="21" role="img" aria-label="{escaped(described)}">'
        f"{''.join(parts)}</svg>"
    )


def _share(value: float) -> str:
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def series(original: Sequence[float], adversarial: Sequence[float], label: str) -> str:
    """A small line plot of one series before and after the attack, both on the same scale."""
    width, height, edge = 320.0, 110.0, 6.0
    before, after = ([v for v in values if math.isfinite(v)] for values in (original, adversarial))
    if len(before) < 2 or len(after) < 2:
        return ""
    low, high = min(*before, *after), max(*before, *after)
    span = (high - low) or 1.0

    def path(values: Sequence[float]) -> str:
        points = thinned(list(enumerate(values)), MAX_POINTS // 2)
        last = max(len(values) - 1, 1)
        return " ".join(
            f"{edge + (width - 2 * edge) * i / last:.1f},{edge + (height - 2 * edge) * (1 - (v - low) / span):.1f}"
            for i, v in points
            if math.isfinite(v)
        )

    return (
        f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escaped(label)}">'
        f'<polyline class="before" points="{path(original)}"/>'
        f'<polyline class="after" points="{path(adversarial)}"/></svg>'
    )
