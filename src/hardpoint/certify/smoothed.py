"""The report of a smoothed classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from hardpoint.bounds.smoothing import ABSTAINED, SmoothedCertificates
from hardpoint.bounds.smoothing.noise import Noise
from hardpoint.core.errors import NothingToTest
from hardpoint.evidence.assessment import CurvePoint
from hardpoint.evidence.rate import Rate
from hardpoint.report.smoothing import SmoothingFacts, write_smoothing

_POINTS = 21


def smoothing_report(
    path: str | Path, certificates: SmoothedCertificates, y: Tensor, radii: Sequence[float] | None = None
) -> Path:
    """Write the page with the curve of certified accuracy; returns where it is.

    Args:
        path: where it goes.
        certificates: what ``Smoothed.certify`` returned, best without a radius asked for.
        y: int64 ``[n]``, the true labels.
        radii: where the curve is drawn; evenly up to the largest radius that was proven by default.

    Raises:
        NothingToTest: without inputs.
        DataError: for labels that do not fit.
        RunError: when the file cannot be written.
    """
    if not len(certificates.predicted):
        raise NothingToTest("there are no certificates to report", "certify one input or more")
    largest = float(certificates.radius.max())
    if radii is None:
        radii = torch.linspace(0.0, largest or 1.0, _POINTS, dtype=torch.float64).tolist()
    rates = certificates.certified_accuracy(radii, y)
    abstained = int((certificates.predicted == ABSTAINED).sum())
    facts = SmoothingFacts(
        noise=_words(certificates.noise),
        norm=certificates.noise.norm.__name__,
        alpha=certificates.alpha,
        cap=certificates.cap,
        draws=float(certificates.samples.double().mean()),
        most=certificates.estimator.most,
        abstained=Rate.of(abstained, len(certificates.predicted)),
    )
    points = [CurvePoint(radius, rate) for radius, rate in zip(radii, rates, strict=True)]
    return write_smoothing(Path(path), points, facts)


def _words(noise: Noise) -> str:
    """A noise by its name and its numbers."""
    known = {part.name: getattr(noise, part.name) for part in fields(noise)}  # type: ignore[arg-type]
    said = ", ".join(f"{name} {value:g}" for name, value in known.items() if isinstance(value, int | float))
    return f"{type(noise).__name__} noise, {said}"
