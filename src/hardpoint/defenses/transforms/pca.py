"""Only the directions in which the data vary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.defenses.fingerprint import fingerprint
from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import fit_data, of_shape


@dataclass(frozen=True, eq=False)
class PcaProjection:
    """The nearest point of the flat that holds most of the training data's variance.

    Bhagoji, Cullina, Sitawarin, Mittal, "Enhancing robustness of machine learning systems via data transformations"
    (CISS 2018). Takes inputs of any shape, that of the training data. Values may leave the range of the inputs.

    Attributes:
        mean: ``[d]``, of the training data.
        components: ``[k, d]``, orthonormal, by falling variance.
        shape: of one input; ``d`` numbers.
        explained: the share of the training data's variance that they hold.

    >>> line = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    >>> PcaProjection.fit(line, components=1).apply(torch.tensor([[3.0, 1.0]]))
    tensor([[1., 2.]])
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = False

    mean: Tensor
    components: Tensor
    shape: tuple[int, ...]
    explained: float

    @classmethod
    def fit(cls, x: Tensor, components: int | float = 0.95) -> PcaProjection:
        """Find the directions of the data ``x`` ``[n, ...]``.

        Args:
            x: training inputs, at least two.
            components: how many, a whole number; or the share of the variance to hold, above 0 and below 1.

        Raises:
            ConfigError: where ``components`` is neither.
            DataError: where the data do not vary, or not in that many directions.
        """
        flat = fit_data("PcaProjection", x).flatten(1).double()
        mean = flat.mean(0)
        variances, directions = _spectrum(flat - mean)
        rank = int((variances > variances.max() * 1e-12).sum())
        if rank == 0:
            raise DataError("PcaProjection was given inputs that are all alike", "fit it on varied inputs")
        shares = variances.cumsum(0) / variances.sum()
        count = _count(components, shares)
        if count > rank:
            raise DataError(
                f"PcaProjection was asked for {count} components, the inputs vary in {rank} directions",
                f"ask for {rank} or fewer",
            )
        basis = directions(count)
        return cls(mean.to(x.dtype), basis.to(x.dtype), tuple(x.shape[1:]), float(shares[count - 1]))

    def apply(self, x: Tensor) -> Tensor:
        of_shape("PcaProjection", x, self.shape)
        mean, components = self.mean.to(x), self.components.to(x)
        made: Tensor = mean + (x.flatten(1) - mean) @ components.T @ components
        return made.reshape(x.shape)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "PcaProjection",
            "components": len(self.components),
            "of": len(self.mean),
            "explained": self.explained,
            "fitted": fingerprint(self.mean, self.components),
        }


def _count(components: int | float, shares: Tensor) -> int:
    if isinstance(components, bool) or not isinstance(components, int | float) or not components > 0:
        sound = False
    else:
        sound = isinstance(components, int) or components < 1
    if not sound:
        raise ConfigError(
            f"PcaProjection components is {components!r}",
            "give a whole number of 1 or more, or a share of the variance above 0 and below 1",
        )
    if isinstance(components, int):
        return components
    return min(int((shares < components).sum()) + 1, len(shares))


def _spectrum(centred: Tensor) -> tuple[Tensor, Callable[[int], Tensor]]:
    """Squared lengths along the principal directions, falling, and what gives the first so many directions ``[k, d]``.

    From the table of products of features, or of rows where there are fewer of these.
    """
    n, d = centred.shape
    if d <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        return values.flip(0).clamp_min(0.0), lambda count: vectors.flip(1)[:, :count].T.contiguous()
    values, vectors = torch.linalg.eigh(centred @ centred.T)

    def directions(count: int) -> Tensor:
        # nearly so after the product already; the decomposition makes the weak ones exactly orthogonal
        basis: Tensor = torch.linalg.qr(centred.T @ vectors.flip(1)[:, :count]).Q
        return basis.T.contiguous()

    return values.flip(0).clamp_min(0.0), directions
