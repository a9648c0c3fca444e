"""The page of a smoothed classifier: certified accuracy against the radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from hardpoint.evidence.assessment import CurvePoint
from hardpoint.evidence.rate import Rate
from hardpoint.evidence.store import write_atomically
from hardpoint.report.charts import Axis, curve
from hardpoint.report.html import render


@dataclass(frozen=True)
class SmoothingFacts:
    """What a reader must know besides the curve.

    Attributes:
        noise, norm: in words.
        alpha: the chance that one statement is false.
        cap: the largest radius that so many draws could prove.
        draws: mean per input.
        most: draws that an input could have had.
        abstained: share of inputs of which nothing is proven.
    """

    noise: str
    norm: str
    alpha: float
    cap: float
    draws: float
    most: int
    abstained: Rate


def write_smoothing(path: Path, points: Sequence[CurvePoint], facts: SmoothingFacts) -> Path:
    """Write the page; returns where it is.

    Args:
        path: where it goes.
        points: certified accuracy at each radius.
        facts: see ``SmoothingFacts``.

    Raises:
        RunError: when the file cannot be written.
    """
    drawn = curve(points, Axis(f"radius ({facts.norm}, units of the input)"))
    picture = Markup(drawn.replace("Robust accuracy against", "Certified accuracy against"))
    page = render("smoothing.html.j2", picture=picture, points=points, facts=facts)
    write_atomically(path, page.encode("utf-8"))
    return path
