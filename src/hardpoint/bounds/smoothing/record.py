"""Certificates from what was written of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from hardpoint.bounds.smoothing.ablation import Ablation, Encoding
from hardpoint.bounds.smoothing.additive import Gaussian, Laplace, Uniform
from hardpoint.bounds.smoothing.certificates import SmoothedCertificates
from hardpoint.bounds.smoothing.estimators import Anytime, Estimator, Fixed
from hardpoint.bounds.smoothing.grid import IntegerGaussian
from hardpoint.bounds.smoothing.noise import Noise, Norm
from hardpoint.core.errors import RunError
from hardpoint.threats.l0 import L0
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf

T = TypeVar("T")

_NOISES: dict[str, type[Noise]] = {
    kind.__name__: kind for kind in (Gaussian, Uniform, Laplace, Ablation, IntegerGaussian)
}
_ESTIMATORS: dict[str, type[Estimator]] = {kind.__name__: kind for kind in (Anytime, Fixed)}
_NORMS: dict[str, Norm] = {kind.__name__: kind for kind in (L0, L1, L2, Linf)}
_TYPES = {"radius": torch.float64, "asked": torch.float64, "certified": torch.bool}


def read_certificates(told: Mapping[str, Any]) -> SmoothedCertificates:
    """The certificates that ``SmoothedCertificates.describe`` told.

    Raises:
        RunError: for anything else.
    """
    try:
        names = ("predicted", "radius", "certified", "samples", "guess", "hits", "at", "asked")
        tensors = {name: _tensor(name, told[name]) for name in names}
        made = SmoothedCertificates(
            **tensors,  # type: ignore[arg-type]
            alpha=float(told["alpha"]),
            seed=int(told["seed"]),
            noise=_made(_NOISES, told["noise"]),
            estimator=_made(_ESTIMATORS, told["estimator"]),
            shape=tuple(int(side) for side in told["shape"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"this is no record of certificates ({error})", "give what describe() returned"
        ) from error
    if len({len(value) for value in tensors.values() if value is not None}) > 1:
        raise RunError("the record holds lists of different lengths", "give what describe() returned")
    return made


def _tensor(name: str, values: list[Any] | None) -> Tensor | None:
    if values is None and name == "asked":
        return None
    return torch.tensor(values, dtype=_TYPES.get(name, torch.int64))


def _made(kinds: Mapping[str, type[T]], told: Mapping[str, Any]) -> T:
    settings = {name: value for name, value in told.items() if name != "kind"}
    if "norm" in settings:
        settings["norm"] = _NORMS[settings["norm"]]
    if "encoding" in settings:
        settings["encoding"] = Encoding(settings["encoding"])
    return kinds[told["kind"]](**settings)
