"""The loop: no input is lost, doubled or influenced by another; budgets hold to the pass."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.engine import Deadline, Oracle, Task, run_attack
from hardpoint.threats import L2, Linf, Untargeted

LOW, HIGH = torch.tensor([0.1, 0.6], dtype=torch.float64)


class Plane:
    """Answers class 1 where the first coordinate is at least 0.5; writes down who asked, by the second one."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []
        self.differentiated: list[Tensor] = []

    @property
    def raw_scores(self):
        def raw(x: Tensor) -> Tensor:
            self.asked.append(x[:, 1].detach().clone())
            z = torch.stack([torch.zeros(len(x), dtype=x.dtype), x[:, 0] - 0.5 + 1e-12], 1)
            z.register_hook(lambda g: self.differentiated.append(x[:, 1].detach().clone()))
            return z

        return raw

    def scores(self, x: Tensor) -> Tensor:
        self.asked.append(x[:, 1].clone())
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), x[:, 0] - 0.5 + 1e-12], 1)

    def predict(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)

    def count(self, kind: str, n: int) -> Tensor:
        rows = getattr(self, kind)
        return torch.bincount(torch.cat(rows).round().long(), minlength=n) if rows else torch.zeros(n).long()


@dataclass(frozen=True)
class WalkState:
    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    steps: Tensor
    done: Tensor


@dataclass(frozen=True)
class Walk:
    """Asks about x until the ``fall[i]``-th reply, then about a point that breaks; stops by itself at ``stop[i]``."""

    fall: tuple[int, ...]
    stop: tuple[int, ...]
    turns: int
    needs: Access = Access.GRADIENTS
    name: str = "Walk"

    def objective(self, scores: Tensor, task: Task, state: WalkState) -> Tensor:
        return scores[:, 1]

    def start(self, task: Task) -> WalkState:
        assert (task.turn == 0).all()
        zeros = torch.zeros_like(task.index)
        return WalkState(self._at(task, zeros), zeros, zeros.bool())

    def step(self, state: WalkState, reply, task: Task) -> WalkState:
        assert torch.equal(task.turn, state.steps + 1)  # the engine's count and the attack's stay in step
        assert torch.equal(task.region.x[:, 1].round().long(), task.index)
        if reply.gradient is not None:
            assert reply.gradient.shape == state.query.shape
        steps = state.steps + 1
        return WalkState(self._at(task, steps), steps, steps >= torch.tensor(self.stop)[task.index])

    def _at(self, task: Task, steps: Tensor) -> Tensor:
        query = task.x.clone()
        query[:, 0] = torch.where(steps >= torch.tensor(self.fall)[task.index], HIGH, LOW)
        return query


def task_of(n: int) -> Task:
    index = torch.arange(n)
    x = torch.stack([LOW.expand(n), index.double()], 1)
    box = Box(torch.zeros(2), torch.tensor([1.0, 1e6]))
    return Task(
        index,
        torch.zeros_like(index),
        Linf(0.7).around(x, box),
        torch.zeros(n, 2, dtype=torch.int64),
        torch.zeros_like(index),
        Untargeted(),
        box,
        Rng(0),
    )


def run(walk: Walk, n: int, capacity: int, **settings):
    plane = Plane()
    oracle = Oracle(plane, walk.needs, chunk=1)  # nothing to fill up
    return run_attack(walk, oracle, task_of(n), capacity=capacity, **settings), plane, oracle


TIMES = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=40)


@settings(max_examples=80)
@given(TIMES, st.integers(1, 45), st.integers(1, 9), st.booleans())
def test_every_input_is_asked_exactly_what_it_needs(times, capacity, turns, white_box):
    fall, stop = tuple(t[0] for t in times), tuple(t[1] for t in times)
    n = len(times)
    walk = Walk(fall, stop, turns, Access.GRADIENTS if white_box else Access.SCORES)
    found, plane, _ = run(walk, n, capacity)
    life = torch.tensor([min(f + 1, s, turns) for f, s in times])  # replies until it falls, stops or ends
    falls = torch.tensor([f + 1 <= min(s, turns) for f, s in times])
    assert torch.equal(found.hit, falls)
    assert found.finished.all()
    assert torch.equal(found.forward, plane.count("asked", n))
    assert torch.equal(found.backward, plane.count("differentiated", n))
    standing = ~falls
    assert torch.equal(found.forward[standing], life[standing])
    assert (found.forward >= life).all()  # the fallen may ride along in a batch for a while
    expected = (life - (life == turns).long()) if white_box else torch.zeros_like(life)
    assert torch.equal(found.backward[standing], expected[standing])
    assert torch.equal(found.adversarial[:, 1].round().long(), torch.arange(n))
    assert torch.equal(found.adversarial[:, 0], torch.where(falls, HIGH, LOW))
    assert torch.equal(torch.isfinite(found.distance), falls)


@settings(max_examples=80)
@given(TIMES, st.integers(1, 45), st.integers(1, 9), st.booleans(), st.data())
def test_budgets_hold_to_the_pass_and_results_ignore_the_batch(times, capacity, turns, white_box, data):
    fall, stop = tuple(t[0] for t in times), tuple(t[1] for t in times)
    n = len(times)
    walk = Walk(fall, stop, turns, Access.GRADIENTS if white_box else Access.SCORES)
    allowance = torch.tensor(data.draw(st.lists(st.integers(0, 20), min_size=n, max_size=n)))
    found, _, _ = run(walk, n, capacity, allowance=allowance)
    spent = found.forward + found.backward
    assert (spent <= allowance).all()
    alone = [run(walk, n, 1, allowance=allowance)[0]]
    for other in alone:
        assert torch.equal(found.hit, other.hit)
        assert torch.equal(found.finished, other.finished)
        standing = ~found.hit
        assert torch.equal(found.forward[standing], other.forward[standing])
        assert torch.equal(found.backward[standing], other.backward[standing])
    # an input is finished exactly when its allowance covers its whole life
    for i, (f, s) in enumerate(times):
        life = min(f + 1, s, turns)
        cost = life + (min(life, turns - 1) if white_box else 0)
        assert bool(found.finished[i]) == (cost <= int(allowance[i]))


@dataclass(frozen=True)
class ManyState:
    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    asked: Tensor


@dataclass(frozen=True)
class Many:
    """Asks about ``k`` points at once, growing towards the boundary."""

    k: int = 4
    turns: int | None = 6
    needs: Access = Access.SCORES
    name: str = "Many"
    minimises: bool = field(default=False)

    def start(self, task: Task) -> ManyState:
        return self._state(task)

    def step(self, state: ManyState, reply, task: Task) -> ManyState:
        assert reply.labels.shape == state.asked.shape
        return self._state(task)

    def _state(self, task: Task) -> ManyState:
        query = task.x.unsqueeze(1).repeat(1, self.k, 1)
        slots = torch.arange(self.k).double()
        query[:, :, 0] = 0.1 + 0.05 * (task.turn.unsqueeze(1) + slots)
        asked = torch.ones(len(task), self.k, dtype=torch.bool)
        asked[:, 0] = task.index % 2 == 0
        return ManyState(query, asked)


@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 40), st.sampled_from([1, 3]))
def test_queries_in_bundles_obey_the_allowance(n, capacity, limit, samples):
    plane = Plane()
    oracle = Oracle(plane, Access.SCORES, samples=samples, chunk=1)
    allowance = torch.full((n,), limit)
    found = run_attack(Many(), oracle, task_of(n), capacity=capacity, allowance=allowance)
    counted = plane.count("asked", n)
    assert torch.equal(found.forward, counted)
    assert (counted <= limit).all()
    assert not found.backward.any()
    if limit >= 24 * samples:
        assert found.hit.all()


def test_the_nearest_of_a_bundle_is_kept_and_one_that_is_not_allowed_never():
    @dataclass(frozen=True)
    class Bundle(Many):
        def _state(self, task: Task) -> ManyState:
            query = task.x.unsqueeze(1).repeat(1, 4, 1)
            query[:, :, 0] = torch.tensor(
                [0.95, 0.7, 0.55, 0.2], dtype=torch.float64
            )  # 0.95 is outside the ball, 0.2 breaks nothing
            return ManyState(query, torch.ones(len(task), 4, dtype=torch.bool))

    found = run_attack(Bundle(turns=1), Oracle(Plane(), Access.SCORES), task_of(3))
    assert found.adversarial[:, 0].tolist() == [0.55] * 3
    assert found.distance.tolist() == pytest.approx([0.45] * 3)


def test_a_minimising_attack_goes_on_to_the_nearest_when_the_budget_has_no_end():
    @dataclass(frozen=True)
    class Approach(Many):
        def _state(self, task: Task) -> ManyState:
            query = task.x.unsqueeze(1).repeat(1, 1, 1)
            query[:, 0, 0] = (9 - task.turn).double() / 10  # 0.9 0.8 0.7 0.6 0.5 0.4
            return ManyState(query, torch.ones(len(task), 1, dtype=torch.bool))

    task = task_of(3)
    endless = Task(
        **{
            **{f: getattr(task, f) for f in ("index", "y", "ranked", "turn", "goal", "box", "rng")},
            "region": L2(float("inf")).around(task.x, task.box),
        }
    )
    attack = Approach(minimises=True)
    found = run_attack(attack, Oracle(Plane(), Access.SCORES), endless)
    assert found.adversarial[:, 0].tolist() == pytest.approx([0.5] * 3)
    assert found.forward.tolist() == [6] * 3
    first = run_attack(Approach(), Oracle(Plane(), Access.SCORES), endless)
    assert first.adversarial[:, 0].tolist() == pytest.approx([0.9] * 3)
    assert first.forward.tolist() == [1] * 3


def test_a_claim_that_does_not_stand_is_attacked_further():
    walk = Walk((2, 2, 2), (99, 99, 99), 8)
    said: list[list[int]] = []

    def confirm(rows: Tensor, points: Tensor) -> Tensor:
        said.append(rows.tolist())
        assert (points[:, 0] == HIGH).all()
        return (rows == 1) | torch.tensor(len(said) >= 4)  # row 1 at once, the others from the fourth time on

    found, _, _ = run(walk, 3, 8, confirm=confirm)
    assert found.hit.all()
    assert said == [[0, 1, 2], [0, 2], [0, 2], [0, 2]]
    never, _, _ = run(walk, 3, 8, confirm=lambda rows, points: torch.zeros_like(rows, dtype=torch.bool))
    assert not never.hit.any()
    assert torch.equal(never.adversarial, task_of(3).x)
    assert never.finished.all()


def test_a_deadline_leaves_inputs_unfinished_but_keeps_what_was_found():
    walk = Walk((0, 50, 50), (99,) * 3, 60)
    found, plane, _ = run(walk, 3, 1, deadline=Deadline(time.time() - 1))
    assert not found.finished.any()
    assert not plane.asked

    class Ends(Deadline):
        left = 3

        @property
        def passed(self) -> bool:
            Ends.left -= 1
            return Ends.left < 0

    found, plane, _ = run(walk, 3, 2, deadline=Ends())
    assert found.hit.tolist() == [True, False, False]
    assert found.finished.tolist() == [True, False, False]
    assert len(plane.asked) == 3


def test_progress_hears_of_every_input_that_ends():
    heard: list[int] = []
    run(Walk(tuple(range(12)), (99,) * 12, 6), 12, 5, progress=heard.append)
    assert sum(heard) == 12


def test_an_attack_without_an_objective_is_named():
    @dataclass(frozen=True)
    class Blind:
        needs: Access = Access.GRADIENTS
        turns: int = 3
        name: str = "Blind"

        def start(self, task: Task):
            return WalkState(task.x, torch.zeros_like(task.index), torch.zeros_like(task.index).bool())

        def step(self, state, reply, task):
            return state

    with pytest.raises(TypeError, match="Blind"):
        run_attack(Blind(), Oracle(Plane(), Access.GRADIENTS), task_of(2))


def test_no_inputs_no_work():
    found, plane, _ = run(Walk((), (), 5), 0, 4)
    assert len(found.hit) == 0
    assert not plane.asked
