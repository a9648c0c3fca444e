"""What attacks on a whole data set share: made on one part of the data, judged on another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hardpoint.attacks.base import check_target, checked_capacity, usable_threat
from hardpoint.core.access import Access
from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.core.rng import Rng
from hardpoint.data import MemoryDataset, check_dataset
from hardpoint.engine.attack import Reply
from hardpoint.engine.clean import answers_vary, clean_answers, first_answer
from hardpoint.engine.guard import frozen_parameters, preserved_random_state, refuse_training_layers
from hardpoint.engine.oracle import Objective, Oracle
from hardpoint.engine.randomness import samples_for
from hardpoint.engine.search import Target
from hardpoint.engine.twin import Itself, Twin, choose_twin
from hardpoint.engine.verify import verify
from hardpoint.evidence.rate import Rate
from hardpoint.models.base import Differentiable, Model, refusal_of
from hardpoint.models.loading import load_model
from hardpoint.threats.perturbation import Perturbation, Region
from hardpoint.threats.threat import Threat

Data = tuple[Any, Any]


@dataclass(frozen=True)
class Spent:
    """Passes in all: forward and backward to make the attack, and forward to judge it."""

    forward: int
    backward: int
    verification: int


class CountingOracle:
    """An oracle that counts what its questions cost."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle, self.chunk = oracle, oracle.chunk
        self.forward = self.backward = 0

    def ask(self, query: Tensor) -> Reply:
        self.forward += len(query) * self._oracle.samples
        return self._oracle.ask(query)

    def ask_gradient(self, query: Tensor, objective: Objective) -> Reply:
        self.forward += len(query) * self._oracle.samples
        self.backward += len(query) * self._oracle.samples
        return self._oracle.ask_gradient(query, objective)


@dataclass(frozen=True)
class Bench:
    """A model with inputs to make one attack for all on, and others to judge it on.

    Attributes:
        target: the model and how to search on it.
        threat: the threat, on a rung that the model offers.
        train_x, train_y: what the attack may learn from: inputs whose answer the goal wants changed.
        x, y: held-out inputs that the model gets right and the goal wants changed.
        index: int64 ``[n]``, positions of the held-out inputs in the data given.
        rng: the source of draws.
    """

    target: Target
    threat: Threat
    train_x: Tensor
    train_y: Tensor
    x: Tensor
    y: Tensor
    index: Tensor
    rng: Rng

    @contextmanager
    def search(self) -> Iterator[CountingOracle]:
        """The door to the model's fast copy; random state and parameters are as they were afterwards."""
        twin = self.target.searchable()
        samples = self.target.samples if self.target.is_random else 1
        with preserved_random_state(seed=self.rng.seed % 2**63), _frozen(self.target.model, twin):
            yield CountingOracle(Oracle(twin, Access.GRADIENTS, chunk=self.target.capacity, samples=samples))

    def batch(self, step: int, size: int) -> Tensor:
        """int64 ``[size]``: the training inputs of a step; every input once per round, in a new order each."""
        n = len(self.train_x)
        size = min(size, n)
        everyone = torch.arange(n, device=self.train_x.device)
        places = torch.arange(step * size, (step + 1) * size, device=everyone.device)
        rounds = [int(places[0]) // n, int(places[-1]) // n]
        order = {r: self.rng.fork("order").uniform(everyone, (), r).argsort(stable=True) for r in rounds}
        return torch.stack([order[int(place) // n][int(place) % n] for place in places])

    def judge(self, region: Region, adversarial: Tensor) -> tuple[Tensor, int]:
        """Which of the held-out inputs fall, each verified on the model itself, and the passes."""
        with preserved_random_state(seed=self.rng.seed % 2**63):
            verdict = verify(
                self.target.model,
                region,
                adversarial,
                self.y,
                self.threat.goal,
                chunk=self.target.capacity,
                is_random=self.target.is_random,
            )
        return verdict.stands, verdict.passes


def share(stands: Tensor) -> Rate:
    """How many of the inputs fell."""
    return Rate.of(int(stands.sum()), len(stands))


def set_up(
    model: Any,
    train: Data,
    test: Data,
    threat: Threat | Perturbation,
    seed: int,
    batch_size: int | None = None,
) -> Bench:
    """Check model and data, and split off what the attack is judged on.

    Raises:
        DataError: where an input is in both parts, or their shapes differ.
        NothingToTest: where the model gets none of the held-out inputs right, or the goal wants none changed.
        HardpointError: when the model, the data or the threat cannot be used.
    """
    adapter = load_model(model)
    wanted = usable_threat(threat, adapter, Access.GRADIENTS)
    parts = [MemoryDataset(*part) for part in (train, test)]
    for part in parts:
        check_dataset(part, adapter.box)
    if parts[0].shape != parts[1].shape:
        raise DataError(
            f"training inputs have shape {parts[0].shape}, held-out ones {parts[1].shape}", "give both alike"
        )
    if isinstance(adapter, Differentiable):
        refuse_training_layers(adapter.module)
    both = []
    for part in parts:
        x, y = part.rows(torch.arange(len(part)))
        home = getattr(adapter, "device", x.device)
        both.append((x.to(home), y.to(home)))
    (train_x, train_y), (x, y) = both
    _refuse_shared(train_x, x)
    capacity = checked_capacity(batch_size, x)
    with preserved_random_state(seed=seed % 2**63):
        first_answer(adapter.scores, x[:1])
        check_target(wanted, refusal_of(adapter) or adapter.scores(x[:1]).shape[1])
        is_random = answers_vary(adapter, wanted.access, x[:64])
        index = torch.arange(len(x), device=x.device)
        predicted = clean_answers(
            adapter, wanted.access, x, index, chunk=capacity, is_random=is_random
        ).labels
        plan = choose_twin(adapter, x[:64])
    keep = ((predicted == y) & wanted.goal.attackable(y)).nonzero().squeeze(1)
    learn = wanted.goal.attackable(train_y)
    if not len(keep) or not bool(learn.any()):
        raise NothingToTest(
            "no held-out input is answered right and wanted otherwise", "give more inputs, or another goal"
        )
    rng = Rng(seed)
    target = Target(adapter, plan, capacity, is_random)
    if is_random:
        pilot = keep[:32]
        samples = samples_for(adapter, x[pilot], y[pilot], rng, goal=wanted.goal, chunk=capacity)
        target = replace(target, samples=samples)
    return Bench(target, wanted, train_x[learn], train_y[learn], x[keep], y[keep], keep, rng)


def _refuse_shared(train: Tensor, test: Tensor) -> None:
    seen = {row.numpy().tobytes() for row in train.detach().cpu().contiguous()}
    for place, row in enumerate(test.detach().cpu().contiguous()):
        if row.numpy().tobytes() in seen:
            raise DataError(
                f"held-out input {place} is among the training inputs",
                "split the data: what is judged on inputs it was made for says nothing about others",
            )


def _frozen(model: Model, twin: Twin | Itself) -> Any:
    if twin.plan.copied or not isinstance(model, Differentiable):
        return nullcontext()
    return frozen_parameters(model.module)
