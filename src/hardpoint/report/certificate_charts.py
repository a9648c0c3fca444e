"""Proofs as pictures: both sides of robust accuracy on one bar, how large the proven margins are, where time went."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hardpoint.evidence import CertificateRecord, Rate, Standing
from hardpoint.report.charts import escaped, ticks
from hardpoint.report.words import interval, number, percent

_LEFT, _RIGHT, _WIDTH = 12.0, 12.0, 660.0
_BAR, _THICK = 34.0, 26.0
_PARTS = (
    (Standing.ROBUST, "proven"),
    (Standing.UNKNOWN, "unknown"),
    (Standing.VULNERABLE, "broken"),
    (Standing.MISTAKEN, "mistaken"),
)


def two_sided(record: CertificateRecord) -> str:
    """One bar from 0 to 100 %: robust accuracy is at least what is proven, and at most what nothing broke."""
    n, at, parts = len(record.certificates), 0, []
    for standing, kind in _PARTS:
        count = record.count(standing)
        if count:
            left, width = _across(at / n), _across((at + count) / n) - _across(at / n)
            parts.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{_BAR:g}" width="{width:.1f}" height="{_THICK:g}">'
                f"<title>{count} {kind}</title></rect>"
            )
        at += count
    low, high, below = record.certified, record.unbroken, _BAR + _THICK
    parts += _end(low, _BAR - 9, _BAR - 16, f"at least {percent(low.value)}", (_BAR - 9, below))
    parts += _end(high, below + 9, below + 27, f"at most {percent(high.value)}", (_BAR, below + 9))
    if record.gate is not None:
        x = _across(record.gate)
        parts.append(f'<line class="gate" x1="{x:.1f}" x2="{x:.1f}" y1="{_BAR - 7:g}" y2="{below + 7:g}"/>')
    base = below + 48
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(
            f'<text x="{_across(share):.1f}" y="{base:g}" text-anchor="{anchor}">{100 * share:.0f} %</text>'
        )
    said = (
        f"proven {percent(low.value)}, interval {interval(low)}; not broken {percent(high.value)}, interval "
    )
    said += f"{interval(high)}; n = {n}"
    return _svg("twosided", _WIDTH, base + 4, said, parts)


def _across(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(share, 0.0), 1.0)


def _end(rate: Rate, whisker: float, text: float, label: str, ends: tuple[float, float]) -> list[str]:
    """A bound as a line through the bar, its interval as a whisker, and its words."""
    x, low, high = (_across(value) for value in (rate.value, rate.low, rate.high))
    anchor = "start" if rate.value < 0.3 else "end" if rate.value > 0.7 else "middle"
    return [
        f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:g}" y2="{ends[1]:g}"/>',
        f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{whisker:g}" y2="{whisker:g}"/>',
        *(
            f'<line class="whisker" x1="{end:.1f}" x2="{end:.1f}" y1="{whisker - 3:g}" y2="{whisker + 3:g}"/>'
            for end in (low, high)
        ),
        f'<text class="said" x="{x:.1f}" y="{text:g}" text-anchor="{anchor}">{escaped(label)}</text>',
    ]


def histogram(values: Sequence[float], label: str) -> str:
    """How often values lie in each of some equal steps from 0 or the least of them on; empty for fewer than two.

    >>> histogram([1.0], "margin"), histogram([1.0, 2.0, 2.5], "margin").count("<rect")
    ('', 3)
    """
    known = sorted(value for value in values if math.isfinite(value))
    if len(known) < 2:
        return ""
    edges = _edges(min(0.0, known[0]), known[-1])
    step, counts = edges[1] - edges[0], [0] * (len(edges) - 1)
    for value in known:
        counts[min(int((value - edges[0]) / step), len(counts) - 1)] += 1
    width, height, left, right, top, bottom = 480.0, 220.0, 44.0, 12.0, 14.0, 44.0
    base, most = height - bottom, max(counts)

    def across(value: float) -> float:
        return left + (width - left - right) * (value - edges[0]) / (edges[-1] - edges[0])

    parts = []
    for count in ticks(0, most, 5):
        if count == int(count):
            y = base - (base - top) * count / most
            kind = "axis" if count == 0 else "grid"
            parts.append(
                f'<line class="{kind}" x1="{left:g}" x2="{width - right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text x="{left - 7:g}" y="{y + 4:.1f}" text-anchor="end">{number(int(count))}</text>'
            )
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            tall = (base - top) * count / most
            place = f'x="{across(low) + 0.8:.1f}" width="{max(across(high) - across(low) - 1.6, 1):.1f}"'
            about = f"{count} from {number(float(f'{low:.4g}'))} to {number(float(f'{high:.4g}'))}"
            parts.append(
                f'<rect class="proven" {place} y="{base - tall:.1f}" height="{tall:.1f}"><title>{about}</title></rect>'
            )
    for value in ticks(edges[0], edges[-1]):
        x = across(value)
        parts.append(f'<text x="{x:.1f}" y="{base + 18:g}" text-anchor="middle">{number(value)}</text>')
    middle = (left + width - right) / 2
    parts.append(
        f'<text class="axis-label" x="{middle:g}" y="{height - 6:g}" text-anchor="middle">{escaped(label)}</text>'
    )
    return _svg(
        "histogram", width, height, f"{len(known)} values of {label}, up to {number(known[-1])}", parts
    )


def _edges(low: float, high: float) -> list[float]:
    """At most 25 equal steps of a round size that hold both ends."""
    if high <= low:
        high = low + 1.0
    found = ticks(low, high, 21)
    step = found[1] - found[0] if len(found) > 1 else (high - low) / 10
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def length(share: float, label: str) -> str:
    """A plain bar as long as a share of its place."""
    part = f"{100 * min(max(share, 0.0), 1.0):.2f}%"
    return (
        f'<svg class="bar" width="100%" height="14" role="img" aria-label="{escaped(label)}">'
        f'<rect class="track" width="100%" y="2" height="10" rx="2"/>'
        f'<rect class="fill" width="{part}" y="2" height="10" rx="2"/></svg>'
    )


def _svg(kind: str, width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escaped(label)}">'
        f"{''.join(parts)}</svg>"
    )
