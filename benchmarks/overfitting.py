"""Catastrophic overfitting, provoked: training with one step that collapses, the alarm that notices, and what is left.

The same network, epochs, optimiser, order and first weights in every row. Without the watch, training goes on to the
end however it ends; with it, as ``hp.harden`` always trains. Both are the same training up to the alarm. PGD accuracy,
10 steps on inputs that are not trained on, is taken every few updates.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import hardpoint as hp
from benchmarks.hardening import plain_convolutions
from benchmarks.measure import Options, Table
from benchmarks.models import mnist, mnist_training
from hardpoint.attacks import APGD
from hardpoint.attacks.base import attack_alone
from hardpoint.core.rng import Rng
from hardpoint.data import MemoryDataset
from hardpoint.engine.ascent import ascend
from hardpoint.engine.guard import preserved_random_state
from hardpoint.evidence.rate import Rate
from hardpoint.harden.learner import Batch, Learner, one_hot, soft_cross_entropy
from hardpoint.harden.recipes import NFgsm, Pgd, Recipe
from hardpoint.harden.recipes.recipe import Attacked, Taught
from hardpoint.models import TorchModel

_EPS = 0.27


@dataclass
class Diary:
    """What happened in a training.

    Attributes:
        x, y: inputs that are not trained on.
        every: updates between two looks at them.
        updates: so far.
        held: by update, the share right under PGD.
        single: by update, the share right under the recipe's own examples.
        alarms: the updates at which the search was made longer.
    """

    x: Tensor
    y: Tensor
    every: int
    updates: int = 0
    held: dict[int, float] = field(default_factory=dict)
    single: dict[int, float] = field(default_factory=dict)
    alarms: list[int] = field(default_factory=list)
    learner: Learner | None = None

    def fell(self) -> int | None:
        """The first update from which on PGD accuracy stays below half of its height."""
        height, found = 0.0, None
        for update, share in self.held.items():
            height = max(height, share)
            if share >= height / 2:
                found = None
            elif found is None:
                found = update
        return found

    def at_the_alarm(self) -> str:
        """PGD accuracy at the last look before the first alarm, and the best until then."""
        before = [share for update, share in self.held.items() if self.alarms and update <= self.alarms[0]]
        return f"{100 * before[-1]:.0f} %, {100 * max(before):.0f} %" if before else "–"


@dataclass(frozen=True)
class Noted:
    """A recipe that keeps a diary. Where it is ``blind``, nothing is there for the watch to see."""

    inner: Recipe
    diary: Diary
    blind: bool

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def gradients(self) -> int:
        return self.inner.gradients

    def around(self, inner: Recipe) -> Noted:
        self.diary.alarms.append(self.diary.updates)
        return replace(self, inner=inner)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        diary = self.diary
        if diary.learner is not learner:  # the price was measured on a copy
            diary.learner, diary.updates = learner, 0
            for notes in (diary.held, diary.single, diary.alarms):
                notes.clear()
        if diary.updates % diary.every == 0:
            self._look(learner)
        diary.updates += 1
        found = self.inner.attacked(learner, batch)
        return Attacked(found.x, None if self.blind else found.slope)

    def _look(self, learner: Learner) -> None:
        diary, index = self.diary, torch.arange(len(self.diary.x))
        batch = Batch(diary.x, diary.y, one_hot(diary.y, 10), index, Rng(7))
        region = learner.perturbation.around(batch.x, learner.model.box)
        with learner.searched() as scores:
            worst = ascend(
                lambda z: soft_cross_entropy(scores(z), batch.targets),
                region,
                batch.x,
                steps=10,
                length=0.25,
            )
            diary.held[diary.updates] = float((scores(worst).argmax(1) == diary.y).double().mean())
            own = self.inner.attacked(learner, batch).x
            diary.single[diary.updates] = float((scores(own).argmax(1) == diary.y).double().mean())

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return self.inner.taught(learner, batch, attacked)


@dataclass
class _Row:
    """What the seeds of a row came to."""

    robust: list[int] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    falls: list[str] = field(default_factory=list)
    shares: list[str] = field(default_factory=list)


def run(options: Options) -> list[Table]:
    """One table; ``SEEDS`` says how many."""
    n, tested, epochs = (1500, 100, 2) if options.quick else (5000, 1000, 15)
    seeds = 1 if options.quick else int(os.environ.get("SEEDS", "3"))
    (x, y), (xt, yt) = mnist_training(slice(n)), mnist()
    seen, xt, yt = (xt[-128:], yt[-128:]), xt[:tested], yt[:tested]
    training = hp.Training(epochs=epochs, lr=2e-3, pace="constant", validation=0.0)
    settings: dict[str, tuple[Recipe, bool]] = {
        "FGSM, unwatched": (NFgsm(noise=0.0), True),
        "FGSM": (NFgsm(noise=0.0), False),
        "PGD, 10 steps": (Pgd(10), True),
    }
    rows = {name: _Row() for name in settings}
    threat = hp.Linf(_EPS)
    for seed in range(seeds):
        for name, (recipe, blind) in settings.items():
            with preserved_random_state(seed=seed):
                net = plain_convolutions()
            row, diary = rows[name], Diary(*seen, every=8)
            noted = Noted(recipe, diary, blind)
            done = hp.harden(
                net, x, y, threat=threat, recipe=noted, training=training, seed=seed, progress=False
            )
            judged = MemoryDataset(xt, yt)
            found = attack_alone(APGD(steps=100), TorchModel(done.model), judged, hp.Threat(threat), seed)
            row.robust.append(int((~found.broken).sum()))
            row.alarms.append(", ".join(map(str, diary.alarms)) or "–")
            row.falls.append(str(diary.fell() or "–"))
            row.shares.append(diary.at_the_alarm())
            told = f"{row.alarms[-1]} | {row.falls[-1]} | {row.shares[-1]} | {row.robust[-1]} of {tested}"
            options.say(f"{name}, seed {seed}: {told}, by {done.history[-1].recipe}")
    table = Table(
        f"Catastrophic overfitting on MNIST, Linf {_EPS}",
        ["training", "alarm", "PGD accuracy fell", "then, best before", "robust", "by seed"],
    )
    for name, row in rows.items():
        rate = str(Rate.of(sum(row.robust), seeds * tested))
        by_seed = ", ".join(f"{100 * one / tested:.1f}" for one in row.robust)
        table.rows.append([name, *map("; ".join, (row.alarms, row.falls, row.shares)), rate, by_seed])
    table.notes.append(
        f"{n:,} training inputs, {epochs} epochs of AdamW at a constant 0.002, {seeds} seeds. FGSM is one step "
        f"without a random start. Alarm and fall by update; PGD accuracy at the alarm and the best before it; robust "
        f"accuracy under APGD with 100 steps on {tested:,} test inputs for each seed, 95 % intervals."
    )
    return [table]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for found in run(Options()):
        print(found.markdown())
