"""Votes over parts of the training data: exact on toys, never violated on digits, blind to order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hardpoint.bounds.poisoning import DeepPartition, FiniteAggregation, OfEstimator, poison_radius
from hardpoint.bounds.poisoning.hashing import buckets_of, digests, order_of
from hardpoint.core.errors import BadModelOutput, ConfigError, DataError, ModelError, NothingToTest
from small_models import rand


class Majority:
    """Answers the label seen most often, the smallest of several."""

    def __init__(self, y: Tensor) -> None:
        self.label = int(torch.bincount(y).argmax())

    def predict(self, x):
        return np.full(len(x), self.label)


def majority(x: Tensor, y: Tensor, seed: int) -> Majority:
    return Majority(y)


ASKED = torch.zeros(1, 1)
KINDS = {
    "partition": lambda: DeepPartition(majority, parts=3),
    "finite": lambda: FiniteAggregation(majority, parts=2, spread=2),
}


def universe(buckets: int) -> list[float]:
    """One input for each bucket."""
    found: dict[int, float] = {}
    for value in range(100):
        found.setdefault(int(buckets_of(digests(torch.tensor([[float(value)]])), buckets)), float(value))
        if len(found) == buckets:
            break
    return [found[b] for b in range(buckets)]


def answer(kind: str, points: Sequence[tuple[float, int]]) -> int:
    """What the members vote, worked out by hand."""
    members = KINDS[kind]().members()
    place = {value: b for b, value in enumerate(universe(len(members)))}
    votes = [0, 0]
    for number in range(int(members.max()) + 1):
        mine = [label for value, label in points if number in members[place[value]].tolist()]
        votes[int(mine.count(1) > mine.count(0))] += 1
    return int(votes[1] > votes[0])


def neighbours(points: tuple[tuple[float, int], ...], everything: list[tuple[float, int]]):
    """Every data set one insertion, deletion or changed label away."""
    for point in everything:
        yield (*points, point)
    for i, (value, label) in enumerate(points):
        rest = points[:i] + points[i + 1 :]
        yield rest
        yield (*rest, (value, 1 - label))


def true_radius(kind: str, points: tuple[tuple[float, int], ...], most: int) -> int:
    """How many changes the answer stands, by trying all of them."""
    everything = list(itertools.product(universe(len(KINDS[kind]().members())), (0, 1)))
    own, known = answer(kind, points), {tuple(sorted(points))}
    edge = known
    for changes in range(1, most + 1):
        edge = {tuple(sorted(z)) for p in edge for z in neighbours(p, everything)} - known
        known |= edge
        if any(answer(kind, p) != own for p in edge):
            return changes - 1
    return most


def fitted_radius(kind: str, points: Sequence[tuple[float, int]]) -> tuple[int, int]:
    x = torch.tensor([[value] for value, _ in points])
    y = torch.tensor([label for _, label in points])
    found = KINDS[kind]().fit(x, y, classes=2).certify(ASKED)
    return int(found.predicted), int(found.radius)


@pytest.mark.parametrize("kind", KINDS)
def test_toys_against_every_poisoning(kind):
    values = universe(len(KINDS[kind]().members()))
    draw, equal = np.random.default_rng(0), 0
    for _ in range(25):
        points = tuple((values[draw.integers(len(values))], int(draw.integers(2))) for _ in range(5))
        predicted, radius = fitted_radius(kind, points)
        assert predicted == answer(kind, points)
        truth = true_radius(kind, points, 2)
        assert min(radius, 2) <= truth
        equal += min(radius, 2) == truth
    assert equal >= 10


def test_a_partition_that_one_point_turns_is_certified_exactly():
    """Members one point from turning are what the bound assumes; then it is the truth."""
    values = universe(3)
    for labels in itertools.product((0, 1), repeat=3):
        points = []
        for value, label in zip(values, labels, strict=True):
            points += [(value, 0), (value, 1)] + [(value, 1)] * label  # a tie answers 0
        assert fitted_radius("partition", points)[1] == true_radius("partition", tuple(points), 2)


def worst_radius(labels: Tensor, members: Tensor, classes: int) -> int:
    """The truth about votes: every set of buckets, their members changed to anything."""
    own = labels.bincount(minlength=classes)
    top = int(own.argmax())
    for count in range(1, len(members) + 1):
        for buckets in itertools.combinations(range(len(members)), count):
            hit = members[list(buckets)].unique()
            for rival in set(range(classes)) - {top}:
                changed = labels.clone()
                changed[hit] = rival
                if int(changed.bincount(minlength=classes).argmax()) != top:
                    return count - 1
    return len(members)


@given(st.integers(1, 7), st.integers(2, 4), st.randoms(use_true_random=False))
def test_without_overlap_the_bound_is_half_the_distance_and_the_truth(parts, classes, draw):
    labels = torch.tensor([[draw.randrange(classes) for _ in range(parts)]])
    members = torch.arange(parts).unsqueeze(1)
    votes = labels[0].bincount(minlength=classes).tolist()
    top = votes.index(max(votes))
    gap = min(votes[top] - votes[c] - (c < top) for c in range(classes) if c != top)
    radius = int(poison_radius(labels, members, classes))
    assert radius == gap // 2 == worst_radius(labels[0], members, classes)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 3), st.randoms(use_true_random=False))
def test_with_overlap_the_bound_lies_between_the_plain_one_and_the_truth(parts, spread, classes, draw):
    members = FiniteAggregation(majority, parts, spread, seed=draw.randrange(100)).members()
    labels = torch.tensor([[draw.randrange(classes) for _ in range(parts * spread)]])
    votes = labels[0].bincount(minlength=classes).tolist()
    top = votes.index(max(votes))
    gap = min(votes[top] - votes[c] - (c < top) for c in range(classes) if c != top)
    assert (
        gap // (2 * spread)
        <= int(poison_radius(labels, members, classes))
        <= worst_radius(labels[0], members, classes)
    )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_every_point_teaches_as_many_and_every_member_learns_as_much(parts, spread, seed):
    members = FiniteAggregation(majority, parts, spread, seed).members()
    assert members.shape == (parts * spread, spread)
    assert all(len(set(row)) == spread for row in members.tolist())
    assert bool((members.flatten().bincount() == spread).all())


def test_chunks_of_many_inputs_change_nothing(monkeypatch):
    from hardpoint.bounds.poisoning import radius

    labels = torch.randint(0, 3, (50, 12), generator=torch.Generator().manual_seed(0))
    members = FiniteAggregation(majority, 4, 3).members()
    whole = poison_radius(labels, members, 3)
    monkeypatch.setattr(radius, "_NUMBERS_AT_ONCE", 1)
    assert torch.equal(poison_radius(labels, members, 3), whole)


def digits() -> tuple[Tensor, Tensor]:
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    return torch.from_numpy(data.data).float(), torch.from_numpy(data.target)


class Centroids:
    """The nearest mean, of classes that were seen."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.known = y.unique()
        self.means = torch.stack([x[y == label].mean(0) for label in self.known])

    def predict(self, x):
        return self.known[torch.cdist(torch.as_tensor(x), self.means).argmin(1)].numpy()


def centroids(x: Tensor, y: Tensor, seed: int) -> Centroids:
    return Centroids(x, y)


def poisoned(x: Tensor, y: Tensor, changes: int, seed: int, target: int) -> tuple[Tensor, Tensor]:
    """Random changes that want ``target``: points removed, relabelled, and added far out."""
    draw = np.random.default_rng(seed)
    keep, y = np.ones(len(x), dtype=bool), y.clone()
    added: list[Tensor] = []
    for _ in range(changes):
        what = draw.integers(3)
        row = int(draw.choice(np.flatnonzero(keep)))
        if what == 0:
            keep[row] = False
        elif what == 1:
            y[row] = target
        else:
            added.append(x[row] + 30 * torch.from_numpy(draw.normal(size=x.shape[1])).float())
    rows = torch.from_numpy(keep)
    more = torch.stack(added) if added else x[:0]
    new = torch.cat([x[rows], more]), torch.cat([y[rows], torch.full((len(more),), target)])
    order = torch.from_numpy(draw.permutation(len(new[0])))
    return new[0][order], new[1][order]


@pytest.mark.parametrize("kind", ["partition", "finite"])
def test_no_poisoning_of_digits_beats_a_certificate(kind):
    x, y = digits()
    x, y, test = x[:200], y[:200], x[1500:1530]
    make = {
        "partition": DeepPartition(centroids, parts=8),
        "finite": FiniteAggregation(centroids, parts=4, spread=2),
    }[kind]
    clean = make.fit(x, y).certify(test)
    assert int((clean.radius >= 1).sum()) >= 10
    turned = 0
    for trial in range(100):
        changes = 1 + trial % 4
        z, labels = poisoned(x, y, changes, trial, trial % 10)
        again = make.fit(z, labels, classes=10).predict(test)
        held = clean.radius >= changes
        assert bool((again == clean.predicted)[held].all())
        turned += int((again != clean.predicted).sum())
    assert turned > 0  # the poison did something, where nothing was promised


def test_finite_aggregation_proves_more_than_a_partition_of_digits():
    x, y = digits()
    train, labels, test, right = x[:900], y[:900], x[1000:1300], y[1000:1300]
    plain = DeepPartition(centroids, parts=12).fit(train, labels).certify(test)
    finite = FiniteAggregation(centroids, parts=12, spread=6).fit(train, labels).certify(test)
    shares = [float(found.certified(right, 3).double().mean()) for found in (plain, finite)]
    assert shares[1] > shares[0]
    once = FiniteAggregation(centroids, parts=12, spread=1).fit(train, labels).certify(test)
    assert torch.equal(once.votes, plain.votes)
    assert torch.equal(once.radius, plain.radius)


def test_order_does_not_matter_and_repeats_are_one_thing():
    x, y = digits()
    x, y, test = torch.cat([x[:120], x[:7]]), torch.cat([y[:120], (y[:7] + 1) % 10]), x[500:520]
    first = DeepPartition(centroids, parts=6).fit(x, y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    second = DeepPartition(centroids, parts=6).fit(x[order], y[order])
    assert torch.equal(first.certify(test).votes, second.certify(test).votes)
    for a, b in zip(first.trained, second.trained, strict=True):
        assert torch.equal(a.means, b.means)  # bit for bit


def test_a_label_moves_no_point():
    x, y = rand(50, 3), torch.arange(50) % 3
    hashes = digests(x)
    assert torch.equal(order_of(hashes, y), order_of(hashes, (y + 1) % 3))
    assert sorted(buckets_of(hashes, 7).unique().tolist()) == list(range(7))


def test_estimators_and_networks():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = digits()
    vote = DeepPartition(OfEstimator(linear.SGDClassifier(loss="log_loss", max_iter=20, tol=None)), parts=3)
    assert (
        float((vote.fit(x[:300] / 16, y[:300]).predict(x[500:600] / 16) == y[500:600]).double().mean()) > 0.7
    )

    def network(rows: Tensor, labels: Tensor, seed: int) -> nn.Module:
        net = nn.Linear(64, 10)
        step = torch.optim.SGD(net.parameters(), lr=0.5)
        for _ in range(30):
            step.zero_grad()
            nn.functional.cross_entropy(net(rows), labels).backward()
            step.step()
        return net

    before, told = torch.get_rng_state(), []
    nets = FiniteAggregation(network, parts=2, spread=2).fit(
        x[:300] / 16, y[:300], progress=lambda done, of: told.append((done, of))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert float((nets.predict(x[500:600] / 16) == y[500:600]).double().mean()) > 0.7
    again = FiniteAggregation(network, parts=2, spread=2).fit(x[:300] / 16, y[:300])
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(nets.trained, again.trained, strict=True))


def test_parts_with_one_class_or_nothing_answer_that():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([2, 2])
    vote = DeepPartition(majority, parts=8).fit(x, y)
    found = vote.certify(ASKED)
    assert found.votes.sum().item() == 8
    assert found.votes[0, 0].item() >= 6  # empty parts answer class 0


def test_training_by_chance_is_refused():
    counter = itertools.count()

    def forgetful(x: Tensor, y: Tensor, seed: int) -> Majority:
        return Majority(torch.full((1,), next(counter) % 2))

    x, y = rand(40, 2), torch.arange(40) % 2
    with pytest.raises(ModelError, match="twice"):
        DeepPartition(forgetful, parts=3).fit(x, y)
    kept = Majority(y)
    with pytest.raises(ModelError, match="same object"):
        DeepPartition(lambda a, b, seed: kept, parts=2).fit(x, y)


def test_bad_input_is_told():
    x, y = rand(10, 2), torch.arange(10) % 2
    good = DeepPartition(majority, parts=2)
    holed = x.clone()
    holed[3, 1] = torch.nan
    for bad in (holed, x.long(), x[:, 0], x.numpy()):
        with pytest.raises(DataError):
            good.fit(bad, y)
    for labels in (y[:3], y.float(), y - 1, y.bool()):
        with pytest.raises(DataError):
            good.fit(x, labels)
    with pytest.raises(NothingToTest):
        good.fit(x[:0], y[:0])
    with pytest.raises(DataError, match="classes"):
        good.fit(x, y, classes=1)
    for parts in (0, -1):
        with pytest.raises(ConfigError):
            DeepPartition(majority, parts=parts)
        with pytest.raises(ConfigError):
            FiniteAggregation(majority, parts=2, spread=parts)
    vote = good.fit(x, y)
    for bad in (holed, rand(3, 5), x.long()):
        with pytest.raises(DataError):
            vote.certify(bad)
    found = vote.certify(x)
    assert vote.certify(x[:0]).radius.shape == (0,)
    with pytest.raises(ConfigError):
        found.certified(y, -1)
    with pytest.raises(DataError):
        found.certified(y[:2], 1)
    for train, error in (
        (lambda a, b, s: None, ModelError),
        (lambda a, b, s: type("T", (), {"predict": lambda self, z: np.full(len(z), 9)})(), BadModelOutput),
        (lambda a, b, s: type("T", (), {"predict": lambda self, z: np.full(len(z), "a")})(), BadModelOutput),
        (lambda a, b, s: type("T", (), {"predict": lambda self, z: np.full(1, 0)})(), BadModelOutput),
    ):
        with pytest.raises((error, ModelError)):
            DeepPartition(train, parts=2).fit(x, y).certify(x)
    with pytest.raises(ModelError):
        OfEstimator(nn.Linear(2, 2))
