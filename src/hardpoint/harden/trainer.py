"""The training loop: batches, updates, validation under attack, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hardpoint.assess.progress import Progress
from hardpoint.core.errors import ModelError, RunError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import all_finite, chunks, per_row, take_rows
from hardpoint.data import Dataset
from hardpoint.engine.ascent import slope_at
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.evidence.training import Epoch, best_epoch
from hardpoint.harden.augment import with_draws
from hardpoint.harden.averaging import Average
from hardpoint.harden.checkpoint import Checkpoint, optimiser_tensors, restore_optimiser, under
from hardpoint.harden.learner import Batch, CraftMode, Learner, one_hot, soft_cross_entropy
from hardpoint.harden.memory import Memory
from hardpoint.harden.ranks import ALONE, Ranks
from hardpoint.harden.recipes import Attacked, Recipe, longer
from hardpoint.harden.recipes.recipe import carrying, replaying, shifting
from hardpoint.harden.settings import Optimiser, Pace, Precision, Training
from hardpoint.harden.watch import Watch, agreement

Validate = Callable[[nn.Module], tuple[float, float | None]]
"""Clean accuracy of a network in evaluation mode on the inputs held back, and under attack where that counts."""
_LOOK_EVERY = 2
"""Updates between two looks at what the examples are worth; one while the attacker's budget grows, as what was seen at
a smaller one says less; four times as many where a look is dear, or little is to be feared: examples that go on from
the last epoch's are the work of many steps."""
_LOOKED_AT = 16
"""Inputs of a batch that are looked at: a few say as much as all, at a small part of an update's price. Twice as many
while the budget grows, as fewer looks are remembered then."""
_SNAPSHOT = 24
_SMALLER = "train with a smaller lr, or with clip=1.0"


@dataclass(frozen=True)
class Lesson:
    """What is learned from.

    Attributes:
        data: the inputs.
        rows: int64, positions of those that are trained on; the others are held back.
        classes: how many.
        validate: what measures the others; None where there are none.
    """

    data: Dataset
    rows: Tensor
    classes: int
    validate: Validate | None


@dataclass
class _Sums:
    """Running sums of an epoch."""

    loss: float = 0.0
    right: float = 0
    inputs: float = 0
    updates: int = 0
    agreement: list[float] = field(default_factory=list)


class Trainer:
    """Trains the network of ``learner`` by a recipe.

    Every draw follows from the seed, the epoch and the update, so training that goes on from a checkpoint gives the
    same weights as training that was never interrupted.

    With several ``ranks``, each takes its rows of every batch, and gradients are averaged before each update, so that
    it is the update of one process but for rounding. What is computed over a batch as a whole (batch norms, the warm-up
    of certified recipes, the pairs of ``Mixup``) is computed over a rank's own rows; running statistics are averaged
    with the gradients. Dropout is drawn anew on each rank. Weights and statistics are the same on all ranks at all
    times; rank 0 alone validates, keeps the checkpoint and tells.

    Args:
        learner: the network.
        recipe: how.
        lesson: what is learned from.
        training: how long and how fast.
        seed: of all draws.
        file: where the checkpoint is kept; None to keep none.
        display: where progress is shown.
        told: called after each epoch with all so far, and how many are planned.
        ranks: the processes that train together.
    """

    def __init__(
        self,
        learner: Learner,
        recipe: Recipe,
        lesson: Lesson,
        training: Training,
        *,
        seed: int,
        display: Progress,
        file: Path | None = None,
        told: Callable[[tuple[Epoch, ...], int], None] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.learner, self.recipe, self.lesson, self.training = learner, recipe, lesson, training
        self.seed, self.display, self.file, self.told = seed, display, file, told
        self.ranks = learner.ranks = ranks
        self.module = learner.module
        self._shown = copy.deepcopy(
            learner.module
        ).eval()  # some networks cannot be copied once they have learned
        self.device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        optimiser, pace = training.optimiser, training.pace
        assert isinstance(optimiser, Optimiser)
        assert isinstance(pace, Pace)
        self.optimiser, self.pace = optimiser.over(self.module.parameters(), training), pace
        self.average = Average(self.module, training.average) if training.average else None
        self.history: tuple[Epoch, ...] = ()
        self.best: dict[str, Tensor] = {}
        self.memory: Memory | None = None
        if carrying(recipe) is not None:
            self.memory = Memory(len(lesson.data), lesson.data.shape, training.augment)
        self.watch = Watch() if self.memory is None else Watch(always=None)
        self._safe: dict[str, Tensor] | None = None
        self.alarms = 0

    @property
    def epochs(self) -> int:
        """How many passes are made over the data; recipes that replay each batch make fewer."""
        return max(1, math.ceil(self.training.epochs / self._replays))

    @property
    def _replays(self) -> int:
        part = replaying(self.recipe)
        return 1 if part is None else part.replays

    def run(self) -> tuple[Epoch, ...]:
        """Train to the end, from the checkpoint where there is one; the network then has the best weights."""
        if self.file is not None and self.file.exists():
            try:
                self._restore(Checkpoint.read(self.file))
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                what = f"{self.file} is no checkpoint of this training ({str(error).partition(chr(10))[0]})"
                raise RunError(what, "train anew in an empty folder") from None
            if self.told is not None:  # the checkpoint may be newer than what was told
                self.told(self.history, self.epochs)
        while len(self.history) < self.epochs and not self._is_enough():
            self._epoch(len(self.history) + 1)
            if self.file is not None and self.ranks.is_first:
                self._checkpoint().write(self.file)
            if self.told is not None:
                self.told(self.history, self.epochs)
        self.module.load_state_dict(self.best)
        self.optimiser.zero_grad(set_to_none=True)
        return self.history

    def _is_enough(self) -> bool:
        best, patience = best_epoch(self.history), self.training.patience
        return patience is not None and best is not None and len(self.history) - best.number >= patience

    def _epoch(self, number: int) -> None:
        began, sums = time.monotonic(), _Sums()
        rng = Rng(self.seed).fork("epoch").fork(number)
        source = torch.Generator().manual_seed(rng.fork("order").torch_seed())
        order = self.lesson.rows[torch.randperm(len(self.lesson.rows), generator=source)]
        batches = chunks(order, self.training.batch_size)
        if len(batches) > 1 and len(batches[-1]) == 1 < len(batches[0]):  # batch norms cannot learn from one
            batches.pop()
        self.display.begin(f"epoch {number} of {self.epochs}", sum(len(rows) for rows in batches))
        offset: Tensor | None = None
        own = rng if self.ranks.is_first else rng.fork(f"rank {self.ranks.rank}")
        self.module.train()
        with full_precision(), preserved_random_state(seed=own.torch_seed()):
            for turn, rows in enumerate(batches):
                if len(rows) != len(batches[turn - 1]):
                    offset = None
                done = (number - 1 + (turn + 0.5) / len(batches)) / self.epochs
                lr = self.training.lr * self.pace.at(done)
                for group in self.optimiser.param_groups:
                    group["lr"] = lr
                ramp = self.training.ramp
                self.learner.strength = 1.0 if done >= ramp else max(0.01, done / ramp)
                offset = self._batch(rows, rng.fork(turn), offset, sums, number)
                self.display.advance(len(rows))
            self._close(number, sums, lr, began)

    def _batch(
        self, rows: Tensor, rng: Rng, offset: Tensor | None, sums: _Sums, number: int
    ) -> Tensor | None:
        """All updates from one batch."""
        share = self.ranks.share(len(rows))
        if self.memory is not None and not self.ranks.is_alone:
            self.memory.owners[rows] = self.ranks.owners(len(rows))
        rows = share.of(rows)
        x, y = (part.to(self.device) for part in self.lesson.data.rows(rows))
        targets = one_hot(y, self.lesson.classes, self.training.label_smoothing)
        for change, draws in with_draws(self.training.augment, rng):
            x, targets = change(x, targets, draws, rows.to(self.device))
        if self.training.augment:
            x = self.learner.model.box.clamp(x)
        for replay in range(self._replays):
            draws = rng.fork(f"update {replay}")
            part = Batch(x, y, targets.to(x.dtype), rows.to(self.device), draws, offset, share)
            if self.memory is not None:
                part = self._remembered(part, rng, number)
            offset = self._update(part, sums, rng)
        return offset

    def _remembered(self, batch: Batch, rng: Rng, number: int) -> Batch:
        """The batch with the examples of the last epoch."""
        part, memory = carrying(self.recipe), self.memory
        assert memory is not None
        if part is None or (number - 1) % (part.renew or self.epochs) == 0:
            return replace(batch, offset=None)
        return replace(batch, offset=memory.take(batch.index, self.learner.region(batch), rng))

    def _update(self, batch: Batch, sums: _Sums, rng: Rng) -> Tensor | None:
        recipe, replays, shifts = self.recipe, replaying(self.recipe), shifting(self.recipe)
        attacked = recipe.attacked(self.learner, batch)
        if self._has_stopped_working(batch, attacked, sums):
            recipe, shifts = self.recipe, shifting(self.recipe)
            attacked = recipe.attacked(self.learner, batch)
        if self.memory is not None:
            self.memory.keep(batch.index, attacked.x, self.learner.region(batch), rng)
        if replays is not None:
            attacked = Attacked(attacked.x.detach().requires_grad_(True), attacked.slope)
        around: AbstractContextManager[None] = nullcontext()
        if shifts is not None:
            around = shifts.shifted(self.learner, batch, attacked)
        self.optimiser.zero_grad(set_to_none=True)
        before = self._buffers()
        with around:
            with torch.enable_grad(), self._autocast():
                taught = recipe.taught(self.learner, batch, attacked)
                loss = taught.loss + self._penalty()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(
                    f"the loss is {value} after {sums.updates} updates of the epoch",
                    _SMALLER,
                )
            loss.backward()  # type: ignore[no-untyped-call]
        self._average(batch, before)
        if self.training.clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.training.clip)
        self.optimiser.step()
        self.learner.weights_changed()
        if self.average is not None:
            self.average.update()
        counts = batch.share.counts
        sums.loss += value * len(batch) * counts
        sums.right += int((taught.scores.argmax(1) == batch.y).sum()) * counts
        sums.inputs += len(batch) * counts
        sums.updates += 1
        if replays is not None and attacked.x.grad is not None:
            return replays.moved(self.learner, batch, attacked, attacked.x.grad)
        return None

    def _buffers(self) -> list[Tensor]:
        """What norms know of their inputs, as it is before an update."""
        if self.ranks.is_alone:
            return []
        return [held.clone() for held in self.module.buffers() if held.is_floating_point()]

    @torch.no_grad()
    def _average(self, batch: Batch, before: list[Tensor]) -> None:
        """Gradients, and what buffers have learned since ``before``, become the means over all ranks."""
        if self.ranks.is_alone:
            return
        weights = [weight for weight in self.module.parameters() if weight.requires_grad]
        buffers = [held for held in self.module.buffers() if held.is_floating_point()]
        learned = [torch.where(now == was, 0.0, now - was) for was, now in zip(before, buffers, strict=True)]
        parts = [*(weight.grad for weight in weights), *learned]
        found = self.ranks.mean(parts, [*weights, *buffers], batch.share.weight)
        for weight, gradient in zip(weights, found, strict=False):
            weight.grad = gradient
        for was, now, change in zip(before, buffers, found[len(weights) :], strict=True):
            assert change is not None
            now.copy_(was + change)

    def _has_stopped_working(self, batch: Batch, attacked: Attacked, sums: _Sums) -> bool:
        """Look whether single steps still do what they are for; where they do not, go back and search longer."""
        # batch norms that learn need the whole batch
        is_whole = self.learner.craft_mode is CraftMode.TRAIN
        grows = self.learner.strength < 1
        pause = 1 if grows else _LOOK_EVERY
        if is_whole or self.memory is not None:
            pause *= 4
        if (attacked.slope is None and not self.alarms) or sums.updates % pause:
            return False
        most = len(batch) if is_whole else _LOOKED_AT * (2 if grows else 1)
        few = torch.arange(min(len(batch), most), device=self.device)
        x, y, targets = attacked.x.detach()[few], batch.y[few], batch.targets[few]
        region = take_rows(self.learner.region(batch), few)
        with self.learner.searched() as scores:
            after = slope_at(lambda z: soft_cross_entropy(scores(z), targets), x)
            step = per_row(region.reach, x).to(x.dtype)
            with torch.no_grad():
                both = scores(torch.cat([x, region.project(x + step * region.ascent(after, x))])).argmax(1)
        standing, further = ((part == y).double().mean() for part in both.chunk(2))
        agreed = 0.0 if attacked.slope is None else agreement(attacked.slope[few], after)
        weight = batch.share.weight
        agreed, *shares = self.ranks.sums(agreed * weight, float(standing) * weight, float(further) * weight)
        has_fallen = self.watch.met(*shares, grows=grows)
        if attacked.slope is not None and self.learner.strength == 1:
            sums.agreement.append(agreed)
            has_fallen |= self.watch.saw(agreed)
        if has_fallen:
            self._go_back()
            return True
        if self.watch.is_sound and sums.updates % _SNAPSHOT == 0:
            self._safe = {name: tensor.clone() for name, tensor in self._weights().items()}
        return False

    def _go_back(self) -> None:
        """To the last weights that were sound, and search longer from there."""
        self.alarms += 1
        self.recipe = longer(self.recipe)
        if self._safe is not None:
            self._load_weights(self._safe)
        self.watch.begin_again()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.training.precision is Precision.BFLOAT16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _penalty(self) -> Tensor | float:
        if not self.training.l1:
            return 0.0
        return self.training.l1 * sum(
            (p.abs().sum() for p in self.module.parameters() if p.requires_grad and p.dim() > 1),
            torch.zeros((), device=self.device),
        )

    def _close(self, number: int, sums: _Sums, lr: float, began: float) -> None:
        """Measure what the epoch came to."""
        state = self.average.state if self.average is not None else self.module.state_dict()
        if not all(all_finite(held) for held in state.values() if held.is_floating_point()):
            raise ModelError("the weights are not finite any more", _SMALLER)
        if self.memory is not None:
            self.memory.exchange(self.ranks)
        clean, robust = self._validated(state)
        loss, right, inputs = self.ranks.sums(sums.loss, sums.right, sums.inputs)
        epoch = Epoch(
            number=number,
            recipe=self.recipe.name,
            loss=loss / max(1, inputs),
            attacked=right / max(1, inputs),
            clean=clean,
            robust=robust,
            lr=lr,
            seconds=time.monotonic() - began,
            alignment=sum(sums.agreement) / len(sums.agreement) if sums.agreement else None,
            alarms=self.alarms,
        )
        self.history = (*self.history, epoch)
        if best_epoch(self.history) == epoch:
            self.best = {name: tensor.detach().clone() for name, tensor in state.items()}
        shown_robust = "" if robust is None else f", {100 * robust:.1f} % robust"
        self.display.end(f"loss {epoch.loss:.3f}{shown_robust}")

    def _validated(self, state: dict[str, Tensor]) -> tuple[float | None, float | None]:
        """Accuracy on the inputs held back, as they are and under attack, as rank 0 finds it."""
        if self.lesson.validate is None:
            return None, None
        clean, robust = 0.0, None
        if self.ranks.is_first:
            self._shown.load_state_dict(state)
            clean, robust = self.lesson.validate(self._shown)
        clean, found = self.ranks.first(clean, math.nan if robust is None else robust)
        return clean, None if math.isnan(found) else found

    def _weights(self) -> dict[str, Tensor]:
        """All tensors that an update changes."""
        average = self.average.state if self.average is not None else {}
        return {
            **under("module", self.module.state_dict()),
            **under("optimiser", optimiser_tensors(self.optimiser)),
            **under("average", average),
        }

    def _load_weights(self, tensors: dict[str, Tensor]) -> None:
        held = Checkpoint(tensors, {})
        self.module.load_state_dict(held.part("module"))
        restore_optimiser(self.optimiser, held.part("optimiser"))
        if self.average is not None:
            self.average.load(held.part("average"), self.average.updates)
        self.learner.weights_changed()

    def _checkpoint(self) -> Checkpoint:
        facts = {
            "history": [epoch.to_json() for epoch in self.history],
            "updates": 0 if self.average is None else self.average.updates,
            "watch": asdict(self.watch),
            "alarms": self.alarms,
        }
        safe = {} if self._safe is None else under("safe", self._safe)
        kept = {} if self.memory is None else {"memory/offsets": self.memory.offsets}
        return Checkpoint({**self._weights(), **under("best", self.best), **safe, **kept}, facts)

    def _restore(self, known: Checkpoint) -> None:
        if self.average is not None:
            self.average.updates = int(known.facts["updates"])
        self._load_weights(
            {k: v for k, v in known.tensors.items() if not k.startswith(("best/", "safe/", "memory/"))}
        )
        self.best, self._safe = known.part("best"), known.part("safe") or None
        self.history = tuple(Epoch.from_json(epoch) for epoch in known.facts["history"])
        self.watch = Watch.from_json(known.facts["watch"])
        self.alarms = int(known.facts["alarms"])
        for _ in range(self.alarms):
            self.recipe = longer(self.recipe)
        if self.memory is not None:
            self.memory.offsets.copy_(known.tensors["memory/offsets"])
