"""The input stages and detectors that a file of settings can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def whole(text: str) -> int:
    """A whole number."""
    return int(text)


def number(text: str) -> float:
    """A number or a fraction.

    >>> number("4/255") == 4 / 255, number("0.5")
    (True, 0.5)
    """
    over, slash, under = text.partition("/")
    return float(over) / float(under) if slash else float(over)


def count_or_share(text: str) -> int | float:
    """A whole number, or a share below 1."""
    return int(text) if text.isdigit() else float(text)


def word(text: str) -> str:
    """As it is written."""
    return text


def path(text: str) -> Path:
    """The path of a file, which may hold anything and so comes last."""
    return Path(text)


def words(text: str) -> tuple[str, ...]:
    """Names joined by ``+``."""
    return tuple(text.split("+"))


def flag(text: str) -> bool:
    """``true`` or ``false``."""
    return {"true": True, "false": False}[text.lower()]


Reader = Callable[[str], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of stage or detector.

    Attributes:
        name: of the class in ``hardpoint.defenses`` or ``hardpoint.defenses.detectors``.
        options: its settings, and how each is read.
        is_fitted: whether it is made by ``fit`` from benign inputs.
        is_loaded: whether it is read by ``load`` from the ``file`` that is named.
        has_range: whether it wants to know the lowest and the highest value of an input, ``low`` and ``high``.
    """

    name: str
    options: Mapping[str, Reader] = field(default_factory=dict)
    is_fitted: bool = False
    is_loaded: bool = False
    has_range: bool = False

    @property
    def known(self) -> dict[str, Reader]:
        """All its options."""
        return {**self.options, **({"low": number, "high": number} if self.has_range else {})}


_TRAINED: dict[str, Reader] = {"epochs": whole, "noise": number, "hidden": whole, "seed": whole}

STAGES = {
    "bit-depth": Kind("BitDepth", {"bits": whole}, has_range=True),
    "gaussian": Kind("GaussianSmoothing", {"sigma": number}),
    "median": Kind("MedianSmoothing", {"size": whole}),
    "jpeg": Kind("JpegCompression", {"quality": whole}, has_range=True),
    "non-local-means": Kind("NonLocalMeans", {"search": whole, "patch": whole, "strength": number}),
    "total-variation": Kind("TotalVariation", {"weight": number, "steps": whole, "keep": number}),
    "pca": Kind("PcaProjection", {"components": count_or_share}, is_fitted=True),
    "autoencoder": Kind("DenoisingAutoencoder", _TRAINED, is_fitted=True),
    "denoiser": Kind("DenoisingAutoencoder", {"file": path}, is_loaded=True),
    "noise": Kind("AdditiveNoise", {"sigma": number, "kind": word}, has_range=True),
    "resize-pad": Kind("RandomResizePad", {"low": number, "high": number, "fill": number}),
    "thermometer": Kind("ThermometerEncoding", {"levels": whole}, has_range=True),
    "quantile": Kind("QuantileEncoding", {"levels": whole}, is_fitted=True),
    "standardise": Kind("Standardise", is_fitted=True),
    "min-max": Kind("MinMaxScaling", is_fitted=True),
    "gradient-masking": Kind("GradientMasking", has_range=True),
}

_LAYER: dict[str, Reader] = {"layer": word}
_LAYERS: dict[str, Reader] = {"layers": words}

DETECTORS = {
    "energy": Kind("Energy", {"temperature": number}),
    "max-logit": Kind("MaxLogit"),
    "margin": Kind("Margin"),
    "entropy": Kind("Entropy"),
    "mahalanobis": Kind("Mahalanobis", {**_LAYER, "relative": flag}, is_fitted=True),
    "nearest-neighbours": Kind("NearestNeighbours", {**_LAYER, "k": whole}, is_fitted=True),
    "deep-nearest-neighbours": Kind("DeepNearestNeighbours", {**_LAYERS, "k": whole}, is_fitted=True),
    "kernel-density": Kind("KernelDensity", {**_LAYER, "width": number}, is_fitted=True),
    "local-dimensionality": Kind("LocalDimensionality", {**_LAYER, "k": whole}, is_fitted=True),
    "activation-anomaly": Kind("ActivationAnomaly", {**_LAYER, "sharpness": number}, is_fitted=True),
    "layer-disagreement": Kind("LayerDisagreement", {**_LAYERS, "ridge": number}, is_fitted=True),
    "feature-squeezing": Kind("FeatureSqueezing", {"bits": whole, "median": whole}, has_range=True),
    "reconstruction-error": Kind("ReconstructionError", _TRAINED, is_fitted=True),
    "predictive-uncertainty": Kind("PredictiveUncertainty", {"passes": whole}),
}
"""All but the one that is trained on attacked inputs, which a file does not hold."""

DEFAULT_DETECTORS = ("energy", "mahalanobis", "nearest-neighbours")
"""What is calibrated where no detector is named: one that reads scores, two that read features."""
