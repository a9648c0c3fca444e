"""What random search over windows draws ahead of its turns."""

from __future__ import annotations

import pytest
import torch

from hardpoint.attacks import Square
from hardpoint.attacks.score.draws import turns_ahead
from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.core.rows import cat_rows, take_rows
from hardpoint.engine import Task
from hardpoint.threats import L1, L2, Linf, Untargeted
from small_models import rand

BALLS = [Linf(0.1), L2(0.5), L1(3.0)]


def task(ball, index: list[int], turn: list[int], shape=(2, 6, 5)) -> Task:
    x = rand(32, *shape)[index]
    n = len(index)
    return Task(
        index=torch.tensor(index),
        y=torch.zeros(n, dtype=torch.int64),
        region=ball.around(x, Box(0.0, 1.0)),
        ranked=torch.zeros(n, 2, dtype=torch.int64),
        turn=torch.tensor(turn),
        goal=Untargeted(),
        box=Box(0.0, 1.0),
        rng=Rng(3),
    )


@pytest.mark.parametrize("ball", BALLS, ids=lambda ball: ball.name)
def test_each_turn_finds_what_it_would_have_drawn_alone(ball):
    attack = Square(queries=200)
    ahead, last = attack._draws(task(ball, [4, 9, 7], [0, 30, 150])), turns_ahead((6, 5)) - 1
    for later in (0, 1, last):
        turns = [later, 30 + later, 150 + later]
        assert ahead.cover(torch.tensor(turns))
        windows, sign = ahead.at(torch.tensor(turns))
        assert len(windows) == (1 if isinstance(ball, Linf) else 2)
        for row, (index, turn) in enumerate(zip([4, 9, 7], turns, strict=True)):
            alone, own = attack._draws(task(ball, [index], [turn])).at(torch.tensor([turn]))
            assert torch.equal(sign[row], own[0])
            assert all(torch.equal(a[row], b[0]) for a, b in zip(windows, alone, strict=True))
    assert not ahead.cover(torch.tensor([last + 1, 30, 150]))


def test_windows_are_rectangles_of_the_size_that_the_turn_has():
    attack = Square(queries=10_000)
    turns = [0, 60, 4999, 9000]
    windows, sign = attack._draws(task(Linf(0.1), [0, 1, 2, 3], turns, (3, 16, 12))).at(torch.tensor(turns))
    _, by_halvings = attack._sizes(16, 12, torch.device("cpu"))
    for window, halvings in zip(windows[0][:, 0], [0, 2, 7, 9], strict=True):
        height, width = int(window.any(1).sum()), int(window.any(0).sum())
        assert (height, width) == tuple(by_halvings[halvings].int().tolist())
        assert int(window.sum()) == height * width
    assert sign.shape == (4, 3, 1, 1)
    assert set(sign.flatten().tolist()) <= {-1.0, 1.0}


def test_rows_that_join_later_keep_their_own_turns():
    attack = Square(queries=100)
    old, new = task(Linf(0.1), [1, 2], [40, 41]), task(Linf(0.1), [5], [0])
    both = cat_rows(take_rows(attack._draws(old), torch.tensor([1])), attack._draws(new))
    windows, _ = both.at(torch.tensor([41, 0]))
    assert torch.equal(windows[0][0], attack._draws(old).at(old.turn)[0][0][1])
    assert torch.equal(windows[0][1], attack._draws(new).at(new.turn)[0][0][0])


@pytest.mark.parametrize("shape", [(1, 1, 400_000), (100_000,), (3, 224, 224)])
def test_what_is_drawn_ahead_is_little_beside_the_input(shape):
    draws = Square(queries=100)._draws(task(L2(0.5), [1, 2], [0, 40], shape))
    held = sum(part.numel() * part.element_size() for part in (draws.rows, draws.columns, draws.sign))
    assert held <= max(2 * 2 * rand(1, *shape).nbytes, 2**17)
