"""How dense benign inputs of the predicted class lie around an input's features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.core.rng import Rng, split_rows
from hardpoint.defenses.detectors._parts import (
    checked_labels,
    distances,
    features_of,
    fit_features,
    positive,
    present_classes,
)
from hardpoint.defenses.seen import Seen

_WIDTHS: tuple[float, ...] = tuple(
    2.0 ** (e / 2.0) for e in range(-8, 5)
)  # shares of the median distance that are tried
_TRIED = 1000  # inputs are enough to choose a width by


@dataclass(frozen=True, eq=False)
class KernelDensity:
    """Minus the logarithm of a Gaussian kernel density over benign inputs of the predicted class:
    ``-log mean_i exp(-||f - f_i||^2 / width^2)`` (Feinman, Curtin, Shintre and Gardner, 2017).

    Attributes:
        layer: whose features it reads.
        banks: ``[N_c, d]`` for each class.
        width: of the kernel, in the features' unit.
    """

    layer: str
    banks: tuple[Tensor, ...]
    width: float

    @classmethod
    def fit(
        cls, seen: Seen, y: Tensor, layer: str, width: float | None = None, *, seed: int = 0
    ) -> KernelDensity:
        """From benign inputs with labels int64 ``[n]``.

        Args:
            seen: the inputs, of every class the model can predict.
            y: their labels.
            layer: whose features to read.
            width: of the kernel; by default that under which a tenth of the inputs, left out, is most likely.
            seed: draws that tenth.

        >>> seen = Seen(torch.zeros(4, 1), torch.eye(2).repeat(2, 1), {"f": torch.tensor([[0.0], [1], [0], [1]])})
        >>> KernelDensity.fit(seen, torch.tensor([0, 1, 0, 1]), "f", width=1.0).score(seen)
        tensor([-0., -0., -0., -0.])
        """
        features, labels = fit_features(seen, [layer]), checked_labels(seen, y)
        missing = sorted(set(range(seen.logits.shape[1])) - set(labels.tolist()))
        if missing:
            raise DataError(
                f"no input to fit on is of class {missing[0]}",
                "give some of every class that the model predicts",
            )
        if width is None:
            width = _likeliest_width(features, labels, layer, seed)
        positive(width, "width")
        kept = features.to(features_of(seen, layer).dtype)
        return cls(layer, tuple(kept[labels == c] for c in range(seen.logits.shape[1])), width)

    @property
    def name(self) -> str:
        return f"kernel density at {self.layer}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def score(self, seen: Seen) -> Tensor:
        features = features_of(seen, self.layer)
        predicted = seen.logits.argmax(1)
        result = features.new_zeros(len(features))
        for c in present_classes(predicted)[0].tolist():
            (rows,) = (predicted == c).nonzero(as_tuple=True)
            density = _log_mean_kernel(features[rows], self.banks[c].to(features), self.width)
            result = result.index_put((rows,), -density)
        return result

    def describe(self) -> dict[str, Any]:
        sizes = [len(bank) for bank in self.banks]
        return {"kind": "kernel-density", "layer": self.layer, "width": self.width, "n": sizes}


def _log_mean_kernel(rows: Tensor, bank: Tensor, width: float) -> Tensor:
    """``[n]``; the memory it takes is n N."""
    return torch.logsumexp(-(distances(rows, bank) / width).square(), dim=1) - math.log(len(bank))


def _likeliest_width(features: Tensor, labels: Tensor, layer: str, seed: int) -> float:
    """The width under which left-out inputs are likeliest given those of their class that were not."""
    kept, left_out = split_rows(len(features), 0.1, Rng(seed).fork("split"))
    left_out = left_out[:_TRIED]
    pairs = []
    for c in present_classes(labels)[0].tolist():
        bank, rows = features[kept[labels[kept] == c]], features[left_out[labels[left_out] == c]]
        if len(bank) and len(rows):
            pairs.append(distances(rows, bank).square())
    if not pairs:
        raise DataError("there are too few inputs to choose a width by", "give more, or pass width=")
    middle = float(torch.cat([p.flatten() for p in pairs]).median().sqrt())
    if middle == 0.0:
        raise DataError(f"most features of layer {layer!r} are the same within classes", "name another layer")

    def likelihood(width: float) -> float:
        normaliser = features.shape[1] * math.log(width)  # up to a constant
        each = (
            float((torch.logsumexp(-p / width**2, 1) - math.log(p.shape[1]) - normaliser).sum())
            for p in pairs
        )
        return math.fsum(each)

    return max((share * middle for share in _WIDTHS), key=likelihood)
