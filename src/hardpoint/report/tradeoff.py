"""A search as a picture: robust accuracy of each network against what it computes."""

from __future__ import annotations

import math

from hardpoint.evidence.search import SearchRecord, Trial
from hardpoint.report.charts import escaped, log_ticks, ticks
from hardpoint.report.words import number

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 660.0, 320.0, 52.0, 172.0, 16.0, 42.0
_KINDS = (
    ("baseline", "as given", "#1c2228"),
    ("front", "no cheaper one is as robust", "#225f9c"),
    ("trial", "others", "#5a636d"),
)


def drawn(record: SearchRecord) -> str:
    """One self-contained SVG: a dot and its 95 % interval per network that was trained to the end."""
    known = [trial for trial in record.trials if trial.robust is not None and trial.operations > 0]
    parts = [f'<rect class="paper" width="{_WIDTH:g}" height="{_HEIGHT:g}" fill="#fff"/>']
    if known:
        parts += _drawn(known, {trial.number for trial in record.front}, record.found)
    for place, (kind, label, colour) in enumerate(_KINDS):
        left, y = _WIDTH - _RIGHT + 16, _TOP + 14 + 20 * place
        parts.append(f'<circle class="{kind} dot" cx="{left:g}" cy="{y:g}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{left + 10:g}" y="{y + 4:g}">{label}</text>')
    body = "\n".join(parts)
    return (
        f'<svg class="chart tradeoff" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="11">\n'
        f"<title>robust accuracy against operations per input</title>\n{body}\n</svg>\n"
    )


def _drawn(known: list[Trial], front: set[int], found: Trial | None) -> list[str]:
    costs = [trial.operations for trial in known]
    low, high = min(costs) / 1.15, max(costs) * 1.15
    rates = [trial.robust for trial in known if trial.robust is not None]
    least, most = max(0.0, min(r.low for r in rates) - 0.02), min(1.0, max(r.high for r in rates) + 0.02)

    def across(cost: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(cost / low) / math.log(high / low)

    def up(share: float) -> float:
        return _TOP + (most - share) / (most - least) * (_HEIGHT - _TOP - _BOTTOM)

    right, parts = _WIDTH - _RIGHT, list[str]()
    for share in ticks(least, most):
        y = up(share)
        parts.append(
            f'<line x1="{_LEFT:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}" class="grid" stroke="#e3e3e3"/>'
        )
        parts.append(f'<text x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{100 * share:g} %</text>')
    for cost in log_ticks(low, high):
        x, y = across(cost), _HEIGHT - _BOTTOM + 16
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{number(cost)}</text>')
    parts.append(
        f'<text x="{(_LEFT + right) / 2:.1f}" y="{_HEIGHT - 6:.1f}" text-anchor="middle">operations per input</text>'
    )
    for trial in sorted(known, key=lambda t: (t.number in front, t.number == 0)):
        assert trial.robust is not None
        kind = "baseline" if trial.number == 0 else "front" if trial.number in front else "trial"
        colour = next(held for name, _, held in _KINDS if name == kind)
        x, y = across(trial.operations), up(trial.robust.value)
        ends = f'y1="{up(trial.robust.low):.1f}" y2="{up(trial.robust.high):.1f}"'
        about = escaped(f"{'baseline' if trial.number == 0 else trial.number}: {trial.robust}; {trial.words}")
        parts.append(
            f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" {ends} stroke="{colour}" stroke-opacity="0.45"/>'
        )
        at = f'cx="{x:.1f}" cy="{y:.1f}"'
        parts.append(f'<circle class="{kind} dot" {at} r="4" fill="{colour}"><title>{about}</title></circle>')
        if found is not None and trial.number == found.number:
            parts.append(f'<circle class="kept" {at} r="8" fill="none" stroke="#1c2228" stroke-width="1.5"/>')
    return parts
