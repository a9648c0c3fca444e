"""What the examples on real pictures share: where the data is, a training loop, and a bar chart."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hardpoint import Rate, Result, Severity
from hardpoint.assess.ablation import Ablation

COLOURS = ("#9aa3ad", "#e3a33c", "#1f5f99")


def data_file(path: str) -> Path:
    """A file in the folder of real data that ``HARDPOINT_DATA`` names."""
    return Path(os.environ.get("HARDPOINT_DATA", "../shared/data")) / path


def fit(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    epochs: int,
    weight: Tensor | None = None,
    seen_as: Callable[[Tensor], Tensor] = lambda batch: batch,
) -> nn.Module:
    """``net`` trained by Adam; classes may weigh differently, and pictures be changed each time they are shown.
    Returned ready to be assessed."""
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            adam.zero_grad()
            nn.functional.cross_entropy(net(seen_as(x[rows])), y[rows], weight).backward()
            adam.step()
    return net.eval()


def bars_of(table: Ablation) -> dict[str, dict[str, Rate]]:
    """The bars of an ablation: the undefended model, then every part."""
    alone = table.undefended
    bars = {"undefended": {"no attack": alone.clean_accuracy, "attacker who knows": alone.robust_accuracy}}
    for part in table.parts:
        rates = {"no attack": part.clean, "attacker who does not know": part.naive}
        bars[part.name] = {**rates, "attacker who knows": part.adaptive}
    return bars


def doubts(results: Mapping[str, Result]) -> None:
    """Print what weakens or voids each number: whatever is listed here, an attacker may well do better."""
    for name, result in results.items():
        for finding in result.findings:
            if finding.severity >= Severity.WARNING:
                print(f"  in doubt, {name}: {finding}")


def results_of(table: Ablation) -> dict[str, Result]:
    """The assessments of an ablation by name."""
    names = ("undefended", *(part.name for part in table.parts))
    return dict(zip(names, (table.undefended, *table.results), strict=True))


def chart(path: str, title: str, groups: Mapping[str, Mapping[str, Rate]]) -> None:
    """Write horizontal bars with their 95 % intervals, as SVG: ``groups`` by name, bars by series."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    # a series has its colour and its place wherever it is drawn
    colours = dict(zip(names, COLOURS if len(names) == 3 else (COLOURS[0], COLOURS[2]), strict=True))
    left, width, y = 250, 360, 64
    parts = [f'<text x="12" y="22" font-size="15" font-weight="600">{html.escape(title)}</text>']
    at = 12.0
    for name in names:
        parts.append(f'<rect x="{at:.0f}" y="34" width="11" height="11" fill="{colours[name]}"/>')
        parts.append(f'<text x="{at + 16:.0f}" y="44">{html.escape(name)}</text>')
        at += 34 + 6.6 * len(name)
    for group, rates in groups.items():
        middle = y + 8 * len(rates) + 4
        parts.append(f'<text x="{left - 10}" y="{middle}" text-anchor="end">{html.escape(group)}</text>')
        for name, rate in rates.items():
            value, low, high = (left + width * part for part in (rate.value, rate.low, rate.high))
            fill = colours[name]
            parts.append(f'<rect x="{left}" y="{y}" width="{value - left:.1f}" height="12" fill="{fill}"/>')
            parts.append(f'<path d="M{low:.1f} {y + 6}H{high:.1f}" stroke="#222" stroke-width="1.5"/>')
            parts.append(f'<text x="{high + 6:.1f}" y="{y + 10}">{100 * rate.value:.0f} %</text>')
            y += 16
        y += 12
    ends = (left, left + width)
    parts += [f'<path d="M{x} 56V{y - 6}" stroke="#222" stroke-width="0.6"/>' for x in ends]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {y}" width="680" height="{y}" '
    body = '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts)
    Path(path).write_text(
        f'{head}font-family="sans-serif" font-size="12" fill="#222">\n{body}\n</svg>\n', encoding="utf-8"
    )
