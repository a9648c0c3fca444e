"""What a smoothed classifier is asked, checked."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.bounds.smoothing.certificates import check_alpha
from hardpoint.bounds.smoothing.estimators import Estimator
from hardpoint.bounds.smoothing.noise import Noise
from hardpoint.core.errors import ConfigError, DataError, ThreatError
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

Radius = float | Tensor | Threat | Perturbation


def checked_inputs(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
        told = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"inputs are {told}", "give a tensor of floats [n, ...]")
    return x


def checked_labels(y: Tensor, n: int, classes: int) -> Tensor:
    if not isinstance(y, Tensor) or y.shape != (n,):
        told = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise DataError(f"there are {n} inputs and labels of shape {told}", "give one label per input")
    if y.is_floating_point() or y.dtype is torch.bool or bool(((y < 0) | (y >= classes)).any()):
        raise DataError(f"labels are no class numbers from 0 to {classes - 1}", "give int64 class numbers")
    return y.detach().cpu().long()


def check_estimator(estimator: Estimator, alpha: float) -> None:
    check_alpha(alpha)
    if not isinstance(estimator, Estimator):
        raise ConfigError(f"{estimator!r} is not an estimator", "give Anytime() or Fixed()")
    if estimator.cap(alpha) <= 0.5:
        raise ConfigError(
            f"{estimator.most} draws can prove nothing at alpha {alpha:g}, whatever they show",
            "draw more, for example 10000",
        )


def asked_radius(radius: Radius | None, n: int, noise: Noise) -> Tensor | None:
    """float64 ``[n]``: the radius asked for each input."""
    if radius is None:
        return None
    if isinstance(radius, Threat | Perturbation):
        perturbation = Threat.of(radius).perturbation
        if not isinstance(perturbation, noise.norm):
            raise ThreatError(
                f"{type(noise).__name__} noise for {noise.norm.__name__} says nothing about "
                f"{perturbation.name}",
                f"certify against {noise.norm.__name__}, or smooth with another noise",
            )
        radius = perturbation.eps
    try:
        asked = torch.as_tensor(radius, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"the radius is {radius!r}", "give a number, or one for each input") from None
    if asked.dim() > 1 or (asked.dim() == 1 and len(asked) != n):
        raise DataError(f"radii have the shape {tuple(asked.shape)}", f"give one, or {n}")
    if not bool((asked >= 0).all()):
        raise DataError("a radius is negative or NaN", "give radii of 0 or more")
    return asked.expand(n).clone()
