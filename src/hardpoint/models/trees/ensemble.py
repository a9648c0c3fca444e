"""An ensemble of decision trees as flat arrays, scored in batches, itself a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import DataError, ModelError
from hardpoint.core.rows import chunks
from hardpoint.models.trees.leaves import LeafTable, leaf_table

_NUMBERS_AT_ONCE = 2**21


class Link(Enum):
    """How the summed leaf values become class probabilities."""

    PROBABILITY = "probability"  # they are the probabilities
    LOGISTIC = "logistic"  # one sum, the log odds of the second of two classes
    SOFTMAX = "softmax"  # one sum per class, the logarithm of its weight


@dataclass(frozen=True)
class Tree:
    """One tree as its library hands it over, nodes numbered from 0, the root.

    Attributes:
        feature: int64 ``[nodes]``, -1 at leaves.
        threshold: float64 ``[nodes]``; a value goes left where it is at most that.
        left, right: int64 ``[nodes]``, the children.
        value: float64 ``[nodes, outputs]``, what a leaf adds to the sums.
        missing_left: bool ``[nodes]``, where NaN goes.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    missing_left: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class TreeEnsemble:
    """Sums of leaf values over trees whose nodes ask ``x[feature] <= threshold``.

    Every library's rule is brought to this one: strict comparisons by the next smaller threshold, and
    ``precision`` is the type to which a value is rounded before it is compared.

    Args:
        trees: the trees.
        base: float64 ``[outputs]``, what the sums start from.
        link: how sums become probabilities.
        features: how many columns a row has.
        precision: float32 for libraries that compare in it.
        name: shown in reports.
        box: inputs the model accepts.

    Raises:
        ModelError: for no trees, or NaN in them.
    """

    trees: Sequence[Tree]
    base: Tensor
    link: Link
    features: int
    precision: torch.dtype = torch.float64
    name: str = "trees"
    box: Box = UNBOUNDED
    access: ClassVar[Access] = Access.SCORES

    def __post_init__(self) -> None:
        if not self.trees:
            raise ModelError(f"{self.name} has no trees", "fit it with at least one")
        for tree in self.trees:
            if bool(tree.threshold.isnan().any() | tree.value.isnan().any()):
                raise ModelError(f"{self.name} has a tree with NaN in it", "fit it again on finite values")

    def __repr__(self) -> str:
        return f"<TreeEnsemble {self.name}: {len(self.trees)} trees, {len(self.leaves.tree)} leaves>"

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return 2 if self.link is Link.LOGISTIC else len(self.base)

    @cached_property
    def _flat(self) -> tuple[Tree, Tensor]:
        """All nodes in one numbering, leaves leading to themselves; and the roots."""
        sizes = [len(tree.feature) for tree in self.trees]
        roots = torch.tensor([0, *sizes]).cumsum(0)[:-1]
        shifts = roots.repeat_interleave(torch.tensor(sizes))
        columns = {
            name: torch.cat([getattr(tree, name) for tree in self.trees])
            for name in ("feature", "threshold", "left", "right", "value", "missing_left")
        }
        leaf, here = columns["feature"] < 0, torch.arange(len(shifts))
        for side in ("left", "right"):
            columns[side] = torch.where(leaf, here, columns[side] + shifts)
        columns["feature"] = columns["feature"].clamp_min(0)
        return Tree(**columns), roots

    @cached_property
    def leaves(self) -> LeafTable:
        """The boxes and values of all leaves."""
        return leaf_table(self.trees)

    def rounded(self, x: Tensor) -> Tensor:
        """float64: the values as the trees compare them."""
        return x.to(self.precision).double()

    def leaf_nodes(self, x: Tensor) -> Tensor:
        """int64 ``[n, trees]``: the node of the leaf in which each row ends."""
        if x.dim() != 2 or x.shape[1] != self.features:
            raise DataError(
                f"the rows have shape {list(x.shape)}, {self.name} was fitted on {self.features} features",
                "give one row of feature values per input, columns as it was fitted on",
            )
        nodes, roots = self._flat
        values = self.rounded(x)
        at = roots.expand(len(x), -1)
        while True:
            value = values.gather(1, nodes.feature[at])
            left = torch.where(value.isnan(), nodes.missing_left[at], value <= nodes.threshold[at])
            below = torch.where(left, nodes.left[at], nodes.right[at])
            if torch.equal(below, at):
                return at
            at = below

    def raw(self, x: Tensor) -> Tensor:
        """float64 ``[n, outputs]``: the sums of leaf values."""
        nodes, _ = self._flat
        size = max(1, _NUMBERS_AT_ONCE // (len(self.trees) * len(self.base)))
        parts = [nodes.value[self.leaf_nodes(part)].sum(1) for part in chunks(x.cpu(), size)]
        return torch.cat([self.base.new_zeros(0, len(self.base)), *parts]) + self.base

    def logits(self, raw: Tensor) -> Tensor:
        """``[..., classes]`` whose order is the model's preference, linear in ``raw`` ``[..., outputs]``."""
        return torch.cat([torch.zeros_like(raw), raw], -1) if self.link is Link.LOGISTIC else raw

    def probabilities(self, x: Tensor) -> Tensor:
        """float64 ``[n, classes]``, as the library's ``predict_proba``."""
        raw = self.raw(x)
        match self.link:
            case Link.PROBABILITY:
                return raw
            case Link.LOGISTIC:
                return torch.cat([torch.sigmoid(-raw), torch.sigmoid(raw)], 1)
            case Link.SOFTMAX:
                return torch.softmax(raw, 1)

    # -- as a model

    def scores(self, x: Tensor) -> Tensor:
        """float64 ``[n, classes]``: log probabilities."""
        tiny = torch.finfo(torch.float64).tiny
        return self.probabilities(x).clamp_min(tiny).log().to(x.device)

    def predict(self, x: Tensor) -> Tensor:
        return self.logits(self.raw(x)).argmax(1).to(x.device)

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256(f"{self.link.value} {self.precision} {self.base.tolist()!r}".encode())
        nodes, roots = self._flat
        for values in (*vars(nodes).values(), roots):
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "trees",
            "name": self.name,
            "sha256": self._sha256,
            "sha256_of": "thresholds, leaf values and shape of all trees",
            "parameters": None,
            "access": self.access.word,
            "trees": len(self.trees),
            "input_range": self.box.describe(),
        }
