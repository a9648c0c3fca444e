"""The oracle: shows no more than allowed, counts exactly, keeps nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hardpoint.core.access import Access
from hardpoint.core.errors import AccessDenied, NonFiniteOutput
from hardpoint.core.rows import chunks
from hardpoint.engine import Oracle, TwinPlan, build_twin
from hardpoint.engine.batching import batch_size_for
from hardpoint.models.torch import TorchModel
from hardpoint.threats.goals import margin_over
from small_models import Counted, Ledger, NaNs, mlp, rand, randn

X = rand(10, 8)


def oracle_of(module: nn.Module, access: Access, **settings) -> Oracle:
    return Oracle(build_twin(TorchModel(module), TwinPlan(copied=False)), access, **settings)


def test_labels_only_never_asks_for_scores():
    model = Ledger(mlp(), "labels")
    reply = Oracle(build_twin(model, TwinPlan()), Access.LABELS, samples=3).ask(X)
    assert reply.scores is None
    assert not model.asked["scores"]
    with pytest.raises(RuntimeError, match="labels"):
        reply.seen_scores()


def test_scores_hide_gradients_and_labels_hide_scores_even_of_open_models():
    for access in (Access.LABELS, Access.SCORES):
        oracle = oracle_of(mlp(), access)
        reply = oracle.ask(X)
        assert (reply.scores is None) == (access is Access.LABELS)
        assert reply.gradient is None
        with pytest.raises(AccessDenied):
            oracle.ask_gradient(X, lambda z: z.sum(1))


def test_a_model_without_gradients_says_so():
    oracle = Oracle(build_twin(Ledger(mlp(), "scores"), TwinPlan()), Access.GRADIENTS)
    with pytest.raises(AccessDenied, match="scores"):
        oracle.ask_gradient(X, lambda z: z.sum(1))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_batches_are_filled_up_to_few_sizes_and_nothing_else_changes(samples, chunk):
    oracle = oracle_of(Counted(mlp()), Access.GRADIENTS, samples=samples, chunk=chunk)
    Counted.reset()
    alone = Oracle(build_twin(Ledger(mlp(), "scores"), TwinPlan()), Access.SCORES).ask(X)
    joined = oracle.ask(X)
    assert torch.allclose(joined.seen_scores(), alone.seen_scores(), atol=1e-6)
    climb = oracle.ask_gradient(X[:7], lambda z: margin_over(z, torch.zeros(7, dtype=torch.int64)))
    assert [len(t) for t in (climb.labels, climb.scores, climb.value, climb.gradient)] == [7] * 4
    sent = sum(batch_size_for(len(part), chunk) for part in chunks(X, chunk))
    assert Counted.forward_rows == samples * (sent + batch_size_for(7, chunk))
    assert Counted.backward_rows == samples * batch_size_for(7, chunk)


def test_black_boxes_are_never_asked_to_fill_up_a_batch():
    model = Ledger(mlp(), "scores")
    Oracle(build_twin(model, TwinPlan()), Access.SCORES, chunk=64).ask(X)
    assert [len(part) for part in model.asked["scores"]] == [10]


def test_gradients_are_the_objectives_and_leave_no_trace():
    module = mlp(dtype=torch.float64)
    x = rand(5, 8, dtype=torch.float64)
    y = torch.arange(5) % 4
    reply = oracle_of(module, Access.GRADIENTS).ask_gradient(x, lambda z: margin_over(z, y))
    point = x.clone().requires_grad_(True)
    value = margin_over(module(point), y)
    (known,) = torch.autograd.grad(value.sum(), point)
    torch.testing.assert_close(reply.gradient, known, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(reply.value, value.detach(), rtol=1e-12, atol=1e-15)
    for tensor in (reply.gradient, reply.value, reply.scores):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad
    assert not x.requires_grad
    assert all(p.grad is None for p in module.parameters())


def test_an_objective_that_does_not_depend_on_the_input_has_no_gradient():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 3)

    reply = oracle_of(Constant(), Access.GRADIENTS).ask_gradient(X, lambda z: z[:, 0])
    assert not reply.gradient.any()


@pytest.mark.parametrize("gradient", [False, True])
def test_nan_is_never_an_answer(gradient):
    oracle = oracle_of(nn.Sequential(NaNs(0.5), mlp()), Access.GRADIENTS)
    x = X.clone()
    x[:, 0] = 0.1
    x[3, 0] = 0.9
    with pytest.raises(NonFiniteOutput, match="row 3"):
        oracle.ask_gradient(x, lambda z: z.sum(1)) if gradient else oracle.ask(x)


def test_rows_whose_gradient_is_nan_get_none_and_spoil_no_others():
    class Root(nn.Module):
        def forward(self, x):
            return torch.stack([x.abs().sqrt().sum(1), x.sum(1)], 1)  # infinite slope at 0

    x = torch.tensor([[0.0, 0.5], [0.3, 0.4]], dtype=torch.float64)
    reply = oracle_of(Root(), Access.GRADIENTS).ask_gradient(x, lambda z: (z * z).sum(1))
    assert not reply.gradient[0].any()
    assert reply.gradient[1].all()


def test_random_answers_are_averaged_and_votes_taken():
    class Coin(nn.Module):
        """Class 1 in three of four passes."""

        def __init__(self) -> None:
            super().__init__()
            self.turn = 0

        def forward(self, x):
            self.turn += 1
            z = torch.zeros(len(x), 2)
            z[:, int(self.turn % 4 != 0)] = 1.0
            return z

    for access in (Access.SCORES, Access.LABELS):
        reply = oracle_of(Coin(), access, samples=8).ask(X)
        assert reply.labels.tolist() == [1] * 10
        if access is Access.SCORES:
            assert torch.allclose(reply.scores, torch.tensor([0.25, 0.75]).expand(10, 2))


def test_gradients_of_random_models_are_averaged_over_passes():
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors = iter([1.0, 2.0, 3.0, 6.0])

        def forward(self, x):
            return next(self.factors) * torch.stack([x.sum(1), -x.sum(1)], 1)

    reply = oracle_of(Draws(), Access.GRADIENTS, samples=4).ask_gradient(randn(2, 3), lambda z: z[:, 0])
    assert torch.allclose(reply.gradient, torch.full((2, 3), 3.0))
