"""One update of each recipe, by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from small_lessons import ONE, cloud, doubled, flat, trainer_of
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.core.rng import Rng
from hardpoint.harden.recipes import Awp, Free, Plain, Trades


def moved(net: nn.Module, loss: Tensor, lr: float = 0.1) -> None:
    """One step of plain gradient descent."""
    for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
        p.data -= lr * g


def close(first: nn.Module, second: nn.Module) -> None:
    for (name, p), q in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10, msg=name)


def test_one_update_is_one_step_of_gradient_descent():
    net, (x, y) = flat().double(), doubled()
    other = copy.deepcopy(net)
    (epoch,) = trainer_of(net, Plain(), ONE, data=(x, y)).run()
    loss = functional.cross_entropy(other(x), y)
    assert epoch.loss == pytest.approx(float(loss.detach()))
    assert epoch.attacked == pytest.approx(float((other(x).argmax(1) == y).double().mean()))
    assert (epoch.lr, epoch.number, epoch.recipe) == (0.1, 1, "plain")
    assert (epoch.clean, epoch.robust, epoch.alignment, epoch.alarms) == (None, None, None, 0)
    moved(other, loss)
    close(net, other)


def test_penalty_smoothing_and_clipping_by_hand():
    net, (x, y) = flat().double(), doubled()
    other = copy.deepcopy(net)
    trainer_of(net, Plain(), replace(ONE, l1=0.01, label_smoothing=0.2, clip=0.05), data=(x, y)).run()
    loss = functional.cross_entropy(other(x), y, label_smoothing=0.2)
    loss = loss + 0.01 * (other[0].weight.abs().sum() + other[3].weight.abs().sum())
    slopes = torch.autograd.grad(loss, list(other.parameters()))
    length = torch.cat([g.flatten() for g in slopes]).norm()
    assert length > 0.05
    for p, g in zip(other.parameters(), slopes, strict=True):
        p.data -= 0.1 * g * 0.05 / (length + 1e-6)
    close(net, other)


def test_free_is_as_many_updates_by_hand():
    net, (x, y) = flat().double(), doubled()
    other, eps = copy.deepcopy(net), 0.05
    history = trainer_of(net, Free(3), replace(ONE, epochs=3), data=(x, y), seed=4).run()
    assert len(history) == 1  # three replays of one pass are three passes
    draws = Rng(4).fork("epoch").fork(1).fork(0).fork("update 0").fork("start")
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    z = low + draws.uniform(torch.arange(12), (2,), dtype=torch.float64) * (high - low)
    for _ in range(3):
        z = z.detach().requires_grad_(True)
        loss = functional.cross_entropy(other(z), y)
        (slope,) = torch.autograd.grad(loss, z, retain_graph=True)
        moved(other, loss)
        z = torch.minimum(torch.maximum(z.detach() + eps * slope.sign(), low), high)
    close(net, other)


def test_free_carries_the_offset_from_batch_to_batch():
    net, (x, y) = flat(), cloud(10)
    seen: list[Tensor | None] = []

    @dataclass(frozen=True)
    class Spy(Free):
        def attacked(self, learner, batch):
            seen.append(batch.offset)
            return super().attacked(learner, batch)

    trainer_of(net, Spy(2), replace(ONE, batch_size=4, epochs=4), data=(x, y)).run()
    # two passes of two batches of four and one of two, each twice; the short one cannot take the others' offset
    known = [offset is not None for offset in seen]
    assert known == 2 * [False, True, True, True, False, True]
    for offset in seen:
        assert offset is None or (float(offset.abs().max()) <= 0.05 + 1e-6 and not offset.requires_grad)


def test_trades_by_hand():
    net, (x, y) = flat().double(), doubled()
    other = copy.deepcopy(net)
    trainer_of(net, Trades(beta=2.0, steps=2), ONE, data=(x, y), seed=1, eps=0.1).run()
    draws = Rng(1).fork("epoch").fork(1).fork(0).fork("update 0").fork("start")
    z = x + 0.001 * draws.normal(torch.arange(12), (2,), dtype=torch.float64)
    clean = other(x).softmax(1).detach()
    for _ in range(2):
        z = z.detach().requires_grad_(True)
        apart = functional.kl_div(other(z).log_softmax(1), clean, reduction="sum")
        z = (z + 0.025 * torch.autograd.grad(apart, z)[0].sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    apart = functional.kl_div(other(z.detach()).log_softmax(1), other(x).softmax(1), reduction="batchmean")
    moved(other, functional.cross_entropy(other(x), y) + 2 * apart)
    close(net, other)


def test_awp_steps_from_the_weights_with_the_slope_at_others():
    net, (x, y) = flat().double(), doubled()
    other = copy.deepcopy(net)
    trainer_of(net, Awp(Plain(), gamma=0.1), ONE, data=(x, y)).run()
    there = copy.deepcopy(other)
    slopes = torch.autograd.grad(functional.cross_entropy(other(x), y), list(other.parameters()))
    for p, q, g in zip(there.parameters(), other.parameters(), slopes, strict=True):
        if p.dim() > 1:
            p.data += 0.1 * q.norm() * g / g.norm()
    slopes = torch.autograd.grad(functional.cross_entropy(there(x), y), list(there.parameters()))
    for p, g in zip(other.parameters(), slopes, strict=True):
        p.data -= 0.1 * g
    close(net, other)


def test_the_pace_and_the_growth_of_the_budget():
    seen = []

    @dataclass(frozen=True)
    class Spy(Plain):
        def attacked(self, learner, batch):
            seen.append((learner.strength, trainer.optimiser.param_groups[0]["lr"]))
            return super().attacked(learner, batch)

    trainer = trainer_of(flat(), Spy(), replace(ONE, epochs=5, batch_size=24, pace="cycle", ramp=0.5))
    trainer.run()
    done = [(turn + 0.5) / 20 for turn in range(20)]
    assert [s for s, _ in seen] == pytest.approx([max(0.01, min(1.0, d / 0.5)) for d in done])
    assert [lr for _, lr in seen] == pytest.approx(
        [0.1 * (d / 0.4 if d < 0.4 else (1 - d) / 0.6) for d in done], abs=1e-6
    )
