"""Guards, clean answers, executors and budgets."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardpoint.core.access import Access
from hardpoint.core.errors import (
    BadModelOutput,
    ModelError,
    ModelInTrainingMode,
    NonFiniteOutput,
    RunError,
    ThreatError,
)
from hardpoint.engine import Budget, Deadline, InProcess, LocalProcesses, RayCluster, executor_of
from hardpoint.engine.clean import answers_vary, clean_answers, first_answer
from hardpoint.engine.guard import (
    frozen_parameters,
    preserved_random_state,
    refuse_training_layers,
    training_layers,
)
from hardpoint.models.torch import TorchModel
from small_models import Ledger, NaNs, Noisy, linear, mlp, rand


def random_states() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_random_states_come_back_after_errors_too():
    before = random_states()
    with pytest.raises(ZeroDivisionError), preserved_random_state(seed=3):
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        raise ZeroDivisionError
    assert random_states() == before


def test_seeding_inside_is_reproducible():
    def draw() -> tuple:
        with preserved_random_state(seed=2**40):
            return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    assert draw() == draw()


def test_parameters_come_back_as_they_were():
    net = mlp()
    net[1].bias.requires_grad_(False)
    flags = [p.requires_grad for p in net.parameters()]
    with pytest.raises(KeyError), frozen_parameters(net):
        assert not any(p.requires_grad for p in net.parameters())
        raise KeyError
    assert [p.requires_grad for p in net.parameters()] == flags


class ReadsMode(nn.Module):
    def forward(self, x):
        return x + 1 if self.training else x


class Plain(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.BatchNorm1d(2), True),
        (nn.Dropout(0.1), True),
        (nn.Dropout2d(0.1), True),
        (nn.AlphaDropout(0.1), True),
        (nn.RReLU(), True),
        (ReadsMode(), True),
        (nn.Linear(2, 2), False),
        (nn.LayerNorm(2), False),
        (Plain(), False),
    ],
)
def test_layers_whose_mode_matters_are_named(layer, named):
    net = nn.Sequential(nn.Linear(2, 2), layer)
    assert training_layers(net.train()) == (["1"] if named else [])
    assert training_layers(net.eval()) == []
    assert training_layers(net.train(), allowed=("1",)) == []
    if named:
        with pytest.raises(ModelInTrainingMode, match=r"'1'.*model.eval"):
            refuse_training_layers(net)


def test_clean_answers_are_the_models():
    net, x = mlp(), rand(30, 8)
    labels, ranked, _ = clean_answers(TorchModel(net), Access.SCORES, x, torch.arange(30), chunk=7)
    scores = net(x)
    assert torch.equal(labels, scores.argmax(1))
    assert torch.equal(ranked, scores.argsort(dim=1, descending=True))
    model = Ledger(net, "labels")
    labels, ranked, _ = clean_answers(model, Access.LABELS, x, torch.arange(30), chunk=7)
    assert torch.equal(labels, scores.argmax(1))
    assert ranked.shape == (30, 0)
    assert model.rows == 30


def test_the_clean_answer_of_a_random_model_is_its_usual_one():
    """Each pass is wrong for about one input in six, the majority of 32 for none."""
    model = TorchModel(Noisy(linear(torch.zeros(2, 2), torch.tensor([0.0, 1.4])), 1.0))
    with preserved_random_state(seed=0):
        assert answers_vary(model, Access.SCORES, torch.zeros(64, 2))
        assert answers_vary(model, Access.LABELS, torch.zeros(64, 2))
        once = model.predict(torch.zeros(300, 2))
        for access in (Access.LABELS, Access.SCORES):
            labels, *_ = clean_answers(model, access, torch.zeros(300, 2), torch.arange(300), is_random=True)
            assert (labels == 1).all()
    assert 20 < int((once == 0).sum()) < 90
    assert not answers_vary(TorchModel(mlp()), Access.SCORES, rand(5, 8))


def test_nan_is_named_by_its_place_in_the_data():
    model = TorchModel(nn.Sequential(NaNs(0.5), mlp()))
    x = torch.full((9, 8), 0.1)
    x[7, 0] = 0.9
    with pytest.raises(NonFiniteOutput, match="input 107"):
        clean_answers(model, Access.SCORES, x, torch.arange(100, 109), chunk=4)


@pytest.mark.parametrize("shape", [(1, 4), (3, 2, 2), (3,), (3, 1), (0, 3)])
def test_outputs_that_are_no_scores_are_refused(shape):
    class Odd(Ledger):
        def scores(self, x):
            return torch.zeros(shape)

    with pytest.raises(BadModelOutput, match="two class scores"):
        clean_answers(Odd(mlp(), "scores"), Access.SCORES, rand(3, 8), torch.arange(3))


def test_a_model_that_cannot_take_the_inputs_says_so_in_words():
    for x in (rand(3, 5), rand(3, 8, dtype=torch.float64)):
        with pytest.raises(ModelError, match=r"cannot take inputs of shape \(\d,\) and type torch.float"):
            first_answer(TorchModel(mlp()).scores, x)


# --- executors ------------------------------------------------------------------------------------------------


def square(session: int, piece: int) -> tuple[int, int, int]:
    return session, piece * piece, os.getpid()


def fail(session: int, piece: int) -> int:
    raise RunError(f"piece {piece} is broken", "mend it")


def die(session: int, piece: int) -> int:
    os._exit(9)


def die_once(session: str, piece: int) -> int:
    """The first worker to come to piece 3 dies at it."""
    if piece == 3 and not Path(session).exists():
        Path(session).touch()
        os._exit(9)
    return -piece


def done(executor, work, session, pieces):
    with executor.open(work, session) as pool:
        return list(pool.run(pieces))


def test_every_piece_is_done_once_wherever_it_runs():
    for executor in (InProcess(), LocalProcesses(2)):
        results = dict(done(executor, square, 7, range(5)))
        assert {piece: r[:2] for piece, r in results.items()} == {i: (7, i * i) for i in range(5)}
        assert (os.getpid() in {r[2] for r in results.values()}) == isinstance(executor, InProcess)
    assert done(LocalProcesses(2), square, 7, []) == []


def test_the_same_processes_serve_one_list_of_pieces_after_the_other():
    with LocalProcesses(2).open(square, 7) as pool:
        first, second = dict(pool.run(range(6))), dict(pool.run(range(6, 12)))
    assert len({r[2] for r in (*first.values(), *second.values())}) <= 2


def test_errors_in_workers_arrive_whole():
    with pytest.raises(RunError, match="piece 0 is broken; mend it"):
        done(LocalProcesses(1), fail, 0, [0])


def test_a_worker_that_dies_loses_nothing(tmp_path):
    results = done(LocalProcesses(2), die_once, str(tmp_path / "died"), range(8))
    assert sorted(results) == [(i, -i) for i in range(8)]


def test_workers_that_keep_dying_are_reported():
    with pytest.raises(RunError, match="keep dying"):
        done(LocalProcesses(1), die, 0, [0])


def test_what_cannot_be_sent_is_reported_with_the_cure():
    for session in (lambda: None, open(os.devnull)):  # noqa: SIM115, PTH123
        with pytest.raises(RunError, match="pkg.mod:factory"):
            done(LocalProcesses(1), square, session, [0])


def test_numbers_of_workers():
    assert executor_of(1) == InProcess()
    assert executor_of(3) == LocalProcesses(3)
    assert executor_of(LocalProcesses(2)) == LocalProcesses(2)
    with pytest.raises(RunError, match="1 or more"):
        executor_of(0)
    with pytest.raises(RunError, match="1 or more"):
        RayCluster(0)


# --- budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{"passes": 0}, {"queries": -1}, {"seconds": 0.0}, {"passes": float("nan")}]
)
def test_budgets_that_allow_nothing_are_refused(limits):
    with pytest.raises(ThreatError, match="above 0"):
        Budget(**limits)


def test_deadlines():
    assert not Deadline().passed
    assert Deadline().remaining is None
    assert Deadline.after(None) == Deadline()
    assert Deadline.after(-1).passed
    assert Deadline.after(-1).remaining == 0
    assert 0 < Deadline.after(100).remaining <= 100
