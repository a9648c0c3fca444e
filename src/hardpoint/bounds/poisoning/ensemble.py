"""A vote of models that each learn from some buckets of the training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from hardpoint.bounds.inputs import refuse_inputs, refuse_labels
from hardpoint.bounds.poisoning.hashing import buckets_of, digests, order_of
from hardpoint.bounds.poisoning.radius import poison_radius
from hardpoint.bounds.poisoning.training import Always, Labels, Train, labels_from, trained
from hardpoint.core.access import Access
from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import BadModelOutput, ConfigError, DataError, ModelError, NothingToTest
from hardpoint.core.rows import chunks

MEANING = (
    "the answer stays the same after any `radius` changes of the training data: a point added, a point removed and a "
    "label changed count one each, a point whose input is changed counts two"
)
_AT_ONCE = 512
Progress = Callable[[int, int], None]
"""Told after each member how many of how many are trained."""


class Assignment(Protocol):
    """Which members learn from which bucket; decided without looking at the data."""

    def members(self) -> Tensor:
        """int64 ``[buckets, d]``: the members that learn from each bucket, none twice."""
        ...


@dataclass(frozen=True, eq=False)
class PoisonCertificates:
    """What is proven about training data that may be poisoned.

    Attributes:
        predicted: int64 ``[n]``, the class with the most votes, the smallest of several.
        radius: int64 ``[n]``: how many changes of the training data leave it what it is, whatever they are.
        votes: int64 ``[n, K]``.
        meaning: in words, what counts as one change.
    """

    predicted: Tensor
    radius: Tensor
    votes: Tensor
    meaning: str = MEANING

    def certified(self, y: Tensor, changes: int) -> Tensor:
        """Bool ``[n]``: inputs that are answered ``y`` after any ``changes`` of the training data."""
        refuse_labels(y, len(self.predicted))
        if changes < 0:
            raise ConfigError(f"changes is {changes}", "give 0 or more")
        return (self.predicted == y) & (self.radius >= changes)


@dataclass(frozen=True, eq=False)
class VotingEnsemble:
    """Trained members and their vote. It is a model, whose scores are shares of votes.

    Attributes:
        trained: the members.
        assignment: int64 ``[buckets, d]``, the members that learnt from each bucket.
        classes: how many there are.
        shape: of one input.
    """

    trained: Sequence[nn.Module | Labels]
    assignment: Tensor
    classes: int
    shape: tuple[int, ...]
    box: Box = UNBOUNDED
    access: ClassVar[Access] = Access.SCORES

    def certify(self, x: Tensor) -> PoisonCertificates:
        """The vote on inputs ``x`` ``[n, ...]``, and how much poison it stands.

        Raises:
            DataError: for inputs that are not like those of the training.
        """
        labels = self._labels(x)
        votes = torch.nn.functional.one_hot(labels, self.classes).sum(1)
        return PoisonCertificates(
            votes.argmax(1), poison_radius(labels, self.assignment, self.classes), votes
        )

    def predict(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)

    def scores(self, x: Tensor) -> Tensor:
        """float64 ``[n, K]``: the share of the members that vote for each class."""
        votes = torch.nn.functional.one_hot(self._labels(x), self.classes).sum(1)
        return (votes.double() / len(self.trained)).to(x.device)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "votes over parts of the training data",
            "name": f"vote of {len(self.trained)}",
            "sha256": None,
            "parameters": None,
            "members": len(self.trained),
            "buckets": len(self.assignment),
            "input_range": self.box.describe(),
        }

    def _labels(self, x: Tensor) -> Tensor:
        """int64 ``[n, M]``: what each member answers."""
        refuse_inputs(x, self.box)
        if tuple(x.shape[1:]) != self.shape:
            raise DataError(
                f"inputs have the shape {tuple(x.shape[1:])}, those of the training {self.shape}",
                "give the same",
            )
        if not len(x):
            return torch.zeros(0, len(self.trained), dtype=torch.int64)
        rows = x.detach().cpu()
        said = [
            torch.cat([labels_from(member, part, self.classes) for part in chunks(rows, _AT_ONCE)])
            for member in self.trained
        ]
        return torch.stack(said, dim=1)


def fit_votes(
    train: Train,
    assignment: Assignment,
    x: Tensor,
    y: Tensor,
    *,
    classes: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> VotingEnsemble:
    """Train every member on its buckets.

    A point's bucket is the SHA-256 of its input, and a member's points come sorted by it: nothing depends on the order
    or the number of points, and a label that changes changes no other point's place. One member is trained twice, in
    the end, to see that training answers the same: otherwise nothing would be proven.

    Args:
        train: how a member learns.
        assignment: which members learn from which bucket.
        x: inputs ``[n, ...]``.
        y: int64 ``[n]``.
        classes: how many there are; by default as many as the labels show.
        seed: what the members' seeds are made from.
        progress: told after each member.

    Raises:
        DataError: for inputs or labels that cannot be used.
        ModelError: where training the same member again gives another one.
    """
    refuse_inputs(x)
    refuse_labels(y, len(x))
    if not len(x):
        raise NothingToTest("there is no training point", "give at least one")
    count = max(2, int(y.max()) + 1) if classes is None else classes
    if int(y.max()) >= count or count < 2:
        raise DataError(f"there is a label {int(y.max())} and {count} classes", "give labels below `classes`")
    members = assignment.members()
    hashes, labels = digests(x), y.detach().cpu().long()
    order = order_of(hashes, labels)
    rows, labels = x.detach().cpu()[order], labels[order]
    bucket = buckets_of([hashes[i] for i in order.tolist()], len(members))
    size = int(members.max()) + 1
    learns = torch.zeros(size, len(members), dtype=torch.bool)
    learns[members, torch.arange(len(members)).unsqueeze(1)] = True

    def member(number: int) -> nn.Module | Labels:
        mine = learns[number][bucket]
        return trained(train, rows[mine], labels[mine], seed * 1_000_003 + number)

    made = []
    for number in range(size):
        made.append(member(number))
        if progress is not None:
            progress(number + 1, size)
    _refuse_chance(made, member, rows, count)
    return VotingEnsemble(tuple(made), members, count, tuple(x.shape[1:]))


def _refuse_chance(
    made: Sequence[nn.Module | Labels],
    again: Callable[[int], nn.Module | Labels],
    rows: Tensor,
    classes: int,
) -> None:
    """Raise where the first member that learnt something does not come out the same again."""
    for number, member in enumerate(made):
        if isinstance(member, Always):
            continue
        seen = rows[:_AT_ONCE]
        other = again(number)
        if other is member:
            raise ModelError("training returns the same object each time", "make a new model in each call")
        try:
            first, second = (labels_from(one, seen, classes) for one in (member, other))
        except BadModelOutput as error:
            raise ModelError(f"training made a model of which {error.what}", error.cure) from None
        if not torch.equal(first, second):
            raise ModelError(
                "training twice on the same points gives other answers",
                "let it depend on its arguments alone: seed what it draws, keep nothing between calls",
            )
        return
