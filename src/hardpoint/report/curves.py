"""Training as a picture: accuracy with and without attack, and the loss, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardpoint.evidence.training import Epoch, best_epoch
from hardpoint.report.charts import ticks

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 660.0, 300.0, 46.0, 172.0, 16.0, 38.0


@dataclass(frozen=True)
class _Line:
    """One curve: its name, what it shows of an epoch, and how it looks."""

    label: str
    of: Callable[[Epoch], float | None]
    kind: str
    colour: str
    dashes: str = ""


_LINES = (
    _Line("clean, held back", lambda epoch: epoch.clean, "clean", "#5a636d"),
    _Line("under attack, held back", lambda epoch: epoch.robust, "robust", "#225f9c"),
    _Line(
        "attacked, trained on", lambda epoch: epoch.attacked, "trained", "#225f9c", ' stroke-dasharray="4 3"'
    ),
)


def drawn(history: Sequence[Epoch]) -> str:
    """One self-contained SVG; shares on the left axis, epochs below, a ring around the epoch whose weights are kept."""
    drawn_lines = [line for line in _LINES if any(line.of(epoch) is not None for epoch in history)]
    parts = [_frame(len(history))]
    for place, line in enumerate(drawn_lines):
        at = [(number, line.of(epoch)) for number, epoch in enumerate(history)]
        known = [(_x(number, len(history)), _y(share)) for number, share in at if share is not None]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
        look = f'class="{line.kind}" fill="none" stroke="{line.colour}" stroke-width="2"' + line.dashes
        parts.append(f'<polyline points="{points}" {look}/>')
        parts += [
            f'<circle class="{line.kind} dot" cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{line.colour}"/>'
            for x, y in known
        ]
        left, y = _WIDTH - _RIGHT + 12, _TOP + 14 + 20 * place
        parts.append(f'<line x1="{left:g}" x2="{left + 18:g}" y1="{y}" y2="{y}" {look}/>')
        parts.append(f'<text x="{left + 23:g}" y="{y + 4}">{line.label}</text>')
    best = best_epoch(tuple(history))
    if best is not None and best.robust is not None:
        x, y = _x(best.number - 1, len(history)), _y(best.robust)
        parts.append(
            f'<circle class="kept" cx="{x:.1f}" cy="{y:.1f}" r="7" fill="none" stroke="#1c2228" stroke-width="1.5">'
            f"<title>kept: epoch {best.number}, {100 * best.robust:.1f} % under attack</title></circle>"
        )
    body = "\n".join(parts)
    return (
        f'<svg class="chart curves" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="11">\n<title>accuracy by epoch</title>\n{body}\n</svg>\n'
    )


def _x(at: int, n: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at / (n - 1) if n > 1 else 0.5)


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _frame(n: int) -> str:
    right, parts = (
        _WIDTH - _RIGHT,
        [f'<rect class="paper" width="{_WIDTH:g}" height="{_HEIGHT:g}" fill="#fff"/>'],
    )
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        y = _y(share)
        parts.append(
            f'<line x1="{_LEFT:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}" class="grid" stroke="#e3e3e3"/>'
        )
        parts.append(f'<text x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    for number in ticks(1, max(2, n), 8):
        if number == int(number) and 1 <= number <= n:
            x = _x(int(number) - 1, n)
            parts.append(
                f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16:.1f}" text-anchor="middle">{number:g}</text>'
            )
    parts.append(
        f'<text x="{(_LEFT + right) / 2:.1f}" y="{_HEIGHT - 6:.1f}" text-anchor="middle">epoch</text>'
    )
    return "\n".join(parts)
