"""Votes over small parts of the image: a patch touches only so many of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from hardpoint.bounds.certified import SLACK
from hardpoint.bounds.inputs import refuse_inputs, refuse_labels
from hardpoint.bounds.patches.answers import check_work, refuse_unsettled, scores_of, settled_model
from hardpoint.bounds.patches.sizes import Sizes, patch_sizes
from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import ConfigError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.models.base import Model
from hardpoint.threats.images import check_images


class Kept(Protocol):
    """Which parts of an image are shown, one at a time."""

    def keep(self, height: int, width: int) -> Tensor:
        """Bool ``[positions, height, width]``, True where a pixel is shown."""
        ...

    def touched(self, height: int, width: int, patch: tuple[int, int]) -> int:
        """How many positions show any pixel of a patch of (rows, columns), at most, wherever it lies."""
        ...


def _band(length: int, width: int) -> Tensor:
    """Bool ``[length, length]``: row j shows ``width`` pixels from j on, round the end to the beginning."""
    if not 1 <= width <= length:
        raise ThreatError(
            f"a part of {width} pixels on an axis of {length}", "give from 1 pixel to all of them"
        )
    at = torch.arange(length)
    return (at.unsqueeze(0) - at.unsqueeze(1)) % length < width


def _touching(length: int, width: int, patch: int) -> int:
    return min(length, patch + width - 1)


@dataclass(frozen=True)
class Columns:
    """Upright bands, ``width`` pixels wide, as many as the image has columns.

    >>> Columns(4).touched(32, 32, (5, 5))
    8
    """

    width: int

    def keep(self, height: int, width: int) -> Tensor:
        return _band(width, self.width).unsqueeze(1).expand(-1, height, -1)

    def touched(self, height: int, width: int, patch: tuple[int, int]) -> int:
        return _touching(width, self.width, patch[1])


@dataclass(frozen=True)
class Rows:
    """Level bands, ``width`` pixels high, as many as the image has rows."""

    width: int

    def keep(self, height: int, width: int) -> Tensor:
        return _band(height, self.width).unsqueeze(2).expand(-1, -1, width)

    def touched(self, height: int, width: int, patch: tuple[int, int]) -> int:
        return _touching(height, self.width, patch[0])


@dataclass(frozen=True)
class Blocks:
    """Squares of ``side`` pixels, as many as the image has pixels.

    >>> Blocks(4).touched(32, 32, (5, 5))
    64
    """

    side: int

    def keep(self, height: int, width: int) -> Tensor:
        down, across = _band(height, self.side), _band(width, self.side)
        return (down[:, None, :, None] & across[None, :, None, :]).flatten(0, 1)

    def touched(self, height: int, width: int, patch: tuple[int, int]) -> int:
        return _touching(height, self.side, patch[0]) * _touching(width, self.side, patch[1])


def ablated(x: Tensor, keep: Tensor) -> Tensor:
    """``[n, c + 1, h, w]``: images of which only some pixels are shown, and a channel that says which.

    What is left out is 0 in every channel, so that nothing is left of it; the last channel is 1 where a pixel is shown
    and 0 where not, so that what is left out is not taken for black.

    Args:
        x: images ``[n, c, h, w]``.
        keep: bool ``[n, h, w]``, or ``[h, w]`` for all.

    >>> ablated(torch.full((1, 1, 1, 2), 0.5), torch.tensor([[True, False]]))
    tensor([[[[0.5000, 0.0000]],
    <BLANKLINE>
             [[1.0000, 0.0000]]]])
    """
    shown = keep.expand(len(x), *x.shape[2:]).unsqueeze(1)
    return torch.cat([torch.where(shown, x, torch.zeros_like(x)), shown.to(x.dtype)], dim=1)


@dataclass(frozen=True, eq=False)
class VoteCertificates:
    """What is proven of a vote.

    Attributes:
        predicted: int64 ``[n]``, the class with the most votes, the smallest of several.
        certified: bool ``[n]``: no patch changes it.
        votes: int64 ``[n, K]``.
        margin: int64 ``[n]``: by how many votes it is ahead, a tie with a smaller class counting as one behind.
        needed: int64 ``[n]``: from which margin on a patch cannot change the answer: twice the votes that it touches,
            and twice those too close for rounding.
    """

    predicted: Tensor
    certified: Tensor
    votes: Tensor
    margin: Tensor
    needed: Tensor


@dataclass(frozen=True, eq=False)
class Ablation:
    """A vote over parts of an image, each judged alone: (de)randomised smoothing for patches.

    A patch changes only what parts show that it touches, so an answer that is ahead by more than twice as many votes
    stands (Levine and Feizi, "(De)randomized smoothing for certifiable defense against patch attacks", NeurIPS 2020,
    theorem 1). The certificate speaks about this vote, not about any other classifier.

    Args:
        model: a classifier of what ``ablated`` makes, ``[n, c + 1, h, w]``, trained on such views (``views``); it
            shows scores.
        kept: the parts.
        patches: one side in pixels, a list of (rows, columns), or ``hp.Patch``. One patch, upright.
        threshold: a part votes for every class whose probability is above this, for none or for several; None for
            one vote per part, for the class with the highest score.
        input_range: of the images.
        slack: votes decided by less than this, in scores or probabilities, count as touched: batches of other sizes
            may round otherwise.
        batch: views per pass.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(128, 2)).eval().requires_grad_(False)
    >>> _ = net[1].weight.zero_(), net[1].bias.copy_(torch.tensor([1.0, 0.0]))
    >>> vote = Ablation(net, Columns(2), patches=3)
    >>> found = vote.certify(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    >>> found.votes.tolist(), found.margin.tolist(), found.needed.tolist(), found.certified.tolist()
    ([[8, 0]], [8], [8], [True])
    """

    model: Any
    kept: Kept
    patches: Sizes
    threshold: float | None = None
    input_range: Box | tuple[float, float] = (0.0, 1.0)
    slack: float = SLACK
    batch: int = 256
    base: Model = field(init=False)
    box: Box = field(init=False)
    access: ClassVar[Access] = Access.SCORES

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", settled_model(self.model))
        object.__setattr__(self, "box", Box.of(self.input_range))
        check_work(self.slack, self.batch)
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ConfigError(
                f"threshold is {self.threshold}", "give a probability of 0 or more and below 1, or None"
            )

    def views(self, x: Tensor, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        """``[n, c + 1, h, w]``: each image with one random part shown, to train the classifier on.

        Args:
            x: images ``[n, c, h, w]``.
            rng: where the draws come from.
            index: int64 ``[n]``, the images' indices in the data set.
            counter: which draw this is, for example the epoch.
        """
        self._refuse(x)
        keep = self.kept.keep(*x.shape[-2:]).to(x.device)
        return ablated(x, keep[rng.integers(index.to(x.device), len(keep), (), counter)])

    def certify(self, x: Tensor) -> VoteCertificates:
        """The vote on clean images ``x`` ``[n, c, h, w]``, and whether any patch changes its outcome.

        Raises:
            DataError: for images that cannot be used.
            ThreatError: for patches or parts that do not fit into them.
        """
        votes, unclear = self._votes(x)
        if len(x):
            keep = self.kept.keep(*x.shape[-2:])[:2].to(x.device)
            refuse_unsettled(self.base, ablated(x[:1].expand(len(keep), *x.shape[1:]), keep), self.slack)
        predicted = votes.argmax(1)
        height, width = x.shape[-2:]
        sizes = patch_sizes(self.patches, height, width)
        touched = max(self.kept.touched(height, width, size) for size in sizes)
        classes = torch.arange(votes.shape[1], device=x.device)
        rivals = votes + (classes < predicted.unsqueeze(1)).long()
        best = rivals.scatter(1, predicted.unsqueeze(1), -1).amax(1)
        margin = votes.gather(1, predicted.unsqueeze(1)).squeeze(1) - best
        needed = 2 * (touched + unclear)
        return VoteCertificates(predicted, margin >= needed, votes, margin, needed)

    def certified(self, x: Tensor, y: Tensor) -> Tensor:
        """Bool ``[n]``: images that are answered ``y`` whatever any one patch shows, wherever it lies."""
        found = self.certify(x)
        refuse_labels(y, len(x))
        return found.certified & (found.predicted == y.to(x.device))

    # -- as a model

    def scores(self, x: Tensor) -> Tensor:
        """float64 ``[n, K]``: the share of the parts that vote for each class."""
        votes, _ = self._votes(x)
        return votes.double() / len(self.kept.keep(*x.shape[-2:]))

    def predict(self, x: Tensor) -> Tensor:
        return self._votes(x)[0].argmax(1)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "ablation",
            "name": f"vote of {self.base.describe().get('name')} over {self.kept}",
            "sha256": None,
            "parameters": None,
            "base": self.base.describe(),
            "input_range": self.box.describe(),
        }

    def _refuse(self, x: Tensor) -> None:
        refuse_inputs(x, self.box)
        check_images("ablation", x)

    def _votes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ``[n, K]`` votes, and ``[n]`` how many parts are too close to call."""
        self._refuse(x)
        keep = self.kept.keep(*x.shape[-2:]).to(x.device)
        votes, unclear = [], []
        for image in x:
            scores = scores_of(self.base, ablated(image.expand(len(keep), *image.shape), keep), self.batch)
            if self.threshold is None:
                best = scores.topk(2, dim=1).values
                close = best[:, 0] - best[:, 1] <= self.slack
                cast = torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1])
            else:
                share = torch.softmax(scores.double(), 1)
                close = ((share - self.threshold).abs() <= self.slack).any(1)
                cast = (share > self.threshold).long()
            votes.append(cast.sum(0))
            unclear.append(close.sum())
        if not votes:
            return torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        return torch.stack(votes), torch.stack(unclear)
