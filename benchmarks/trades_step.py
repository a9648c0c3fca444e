"""An update by TRADES beside the textbook's, which asks for the clean answers at each step of the search.

The same network, batches, starts and optimiser; the search is on the network in evaluation mode in both. What differs
is rounding: batch norms are folded on the copy that is searched here. Processor time, one thread.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

import hardpoint as hp
from benchmarks.hardening import plain_convolutions, residual
from benchmarks.measure import Options, Table
from benchmarks.models import mnist_training
from hardpoint.core.rng import Rng
from hardpoint.engine.guard import preserved_random_state
from hardpoint.engine.shadow import fastest_plan
from hardpoint.harden.learner import Batch, CraftMode, Learner, one_hot
from hardpoint.harden.recipes import Trades
from hardpoint.models import TorchModel

_BATCH, _STEPS, _BETA = 128, 10, 6.0


def run(options: Options) -> list[Table]:
    """One table: two networks."""
    torch.set_num_threads(1)
    updates = 3 if options.quick else 24
    x, y = mnist_training(slice(_BATCH * updates))
    table = Table(
        f"TRADES-{_STEPS}: an update, beside the textbook's",
        ["network", "textbook, ms", "Hardpoint, ms", "times faster", "losses differ by at most"],
    )
    nets: dict[str, tuple[Callable[[], nn.Module], Tensor, float]] = {
        "two convolutions (Wong and Kolter)": (plain_convolutions, x, 0.3),
        "residual, batch norm": (lambda: residual(10), x.expand(-1, 3, -1, -1).contiguous(), 8 / 255),
    }
    for name, (made, inputs, eps) in nets.items():
        with preserved_random_state(seed=0):
            net = made()
        ours, theirs = _Ours(copy.deepcopy(net), inputs, eps), _Textbook(copy.deepcopy(net), eps)
        apart = 0.0
        for update in range(updates):
            rows = slice(update * _BATCH, (update + 1) * _BATCH)
            batch = _batch(inputs[rows], y[rows], update)
            losses = [each.timed(batch) for each in ((ours, theirs) if update % 2 else (theirs, ours))]
            apart = max(apart, abs(losses[0] - losses[1]) / abs(losses[0]))
        slow, fast = (sorted(each.seconds)[len(each.seconds) // 2] for each in (theirs, ours))
        table.rows.append(
            [name, f"{1000 * slow:.0f}", f"{1000 * fast:.0f}", f"{slow / fast:.2f}", f"{apart:.1e}"]
        )
        options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        f"{updates} updates of {_BATCH} MNIST images, in turn; the median. Differences are relative."
    )
    return [table]


def _batch(x: Tensor, y: Tensor, update: int) -> Batch:
    rows = torch.arange(update * _BATCH, update * _BATCH + len(x))
    return Batch(x, y, one_hot(y, 10), rows, Rng(0).fork(update))


class _Run(ABC):
    """A network in training, and what its updates took."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net.train()
        self.optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
        self.seconds: list[float] = []

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Of the batch; the network may be searched for it."""

    def timed(self, batch: Batch) -> float:
        """One update; its loss."""
        began = time.process_time()
        loss = self.loss(batch)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.seconds.append(time.process_time() - began)
        return float(loss.detach())


class _Ours(_Run):
    def __init__(self, net: nn.Module, x: Tensor, eps: float) -> None:
        super().__init__(net)
        model = TorchModel(net)
        self.learner = Learner(model, hp.Linf(eps), CraftMode.EVAL, fastest_plan(model, x[:_BATCH]))
        self.recipe = Trades(beta=_BETA, steps=_STEPS)

    def loss(self, batch: Batch) -> Tensor:
        self.learner.weights_changed()
        return self.recipe.taught(self.learner, batch, self.recipe.attacked(self.learner, batch)).loss


class _Textbook(_Run):
    def __init__(self, net: nn.Module, eps: float) -> None:
        super().__init__(net)
        self.eps = eps

    def loss(self, batch: Batch) -> Tensor:
        x, net, eps = batch.x, self.net, self.eps
        net.eval()
        z = x + 0.001 * batch.rng.fork("start").normal(batch.index, tuple(x.shape[1:]))
        for _ in range(_STEPS):
            z = z.detach().requires_grad_(True)
            away = functional.kl_div(net(z).log_softmax(1), net(x).softmax(1), reduction="sum")
            slope = torch.autograd.grad(away, z)[0]
            z = z.detach() + Trades().length * eps * slope.sign()
            z = torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)
        net.train()
        clean, moved = net(x), net(z.detach())
        away = functional.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="batchmean")
        return functional.cross_entropy(clean, batch.y) + _BETA * away
