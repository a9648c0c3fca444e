"""One perturbation for a whole data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.attacks.heldout import Bench, CountingOracle, Data, Spent, set_up, share
from hardpoint.attacks.losses import Loss, goal_loss
from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import chunks
from hardpoint.evidence.rate import Rate
from hardpoint.threats.goals import unrefused
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf
from hardpoint.threats.perturbation import Perturbation, Region
from hardpoint.threats.threat import Threat


@dataclass(frozen=True, eq=False)
class UniversalResult:
    """What one perturbation does to inputs it has not seen.

    Attributes:
        perturbation: ``[...]``, what is added to every input (the sum is clamped to the input range).
        success: the share of held-out inputs, of those the model gets right, that fall; verified one by one.
        train: the same for the training inputs, not verified: a large gap means that more of them would help.
        control: the share of the held-out inputs that a random perturbation of the same size breaks.
        index: int64 ``[n]``, the held-out inputs that were judged, as positions in the data given.
        broken: bool ``[n]``, which of them fall.
        adversarial: ``[n, ...]``, these inputs with the perturbation.
        passes: what it cost.
    """

    perturbation: Tensor
    success: Rate
    train: Rate
    control: Rate
    index: Tensor
    broken: Tensor
    adversarial: Tensor
    passes: Spent


@dataclass(frozen=True)
class UniversalPerturbation:
    """Stochastic gradient ascent on one perturbation for all inputs, inside a norm ball.

    Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein, "Universal adversarial training" (AAAI 2020), algorithm 1: the
    mean over a batch of a loss that is cut off above ``clip``, so that inputs that have fallen stop pulling. The loss
    here does not saturate where the model is confident. Steps are the ball's steepest ones and fall to 0.

    Args:
        steps: batches.
        batch: inputs per batch.
        step_size: the first step, as a share of the budget.
        clip: the loss above which an input counts no more; in log-odds of being wrong.

    >>> model = torch.nn.Linear(2, 2).eval()
    >>> points = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
    >>> labels = model(points).argmax(1)
    >>> attack = UniversalPerturbation(steps=20)
    >>> result = attack(model, (points[:40], labels[:40]), (points[40:], labels[40:]), Linf(1.0))
    >>> result.success.n
    20
    """

    steps: int = 300
    batch: int = 64
    step_size: float = 0.2
    clip: float = 9.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.step_size > 0:
            raise ThreatError(
                f"UniversalPerturbation(steps={self.steps}, batch={self.batch}, step_size={self.step_size})",
                "give whole numbers of 1 or more and a positive step",
            )

    def __call__(
        self,
        model: Any,
        train: Data,
        test: Data,
        threat: Threat | Perturbation,
        *,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> UniversalResult:
        """Make a perturbation on ``train`` and judge it on ``test``, both ``(inputs, labels)``.

        Args:
            model: an ``nn.Module`` in evaluation mode, or an adapter that gives gradients.
            train: what it is made on.
            test: what it is judged on; no input may be in both.
            threat: with ``Linf``, ``L2`` or ``L1`` of a finite eps.
            seed: every random draw follows from it.
            batch_size: inputs asked about at once.

        Raises:
            ThreatError: for another perturbation.
            HardpointError: when the model or the data cannot be used; the message says the cure.
        """
        perturbation = Threat.of(threat).perturbation
        if not isinstance(perturbation, Linf | L2 | L1) or not math.isfinite(perturbation.eps):
            raise ThreatError(
                "a universal perturbation needs a norm ball with a finite eps",
                "give Linf, L2 or L1 with an eps",
            )
        bench = set_up(model, train, test, threat, seed, batch_size)
        ball = self._ball(perturbation, bench)
        with bench.search() as oracle:
            found = ball.x
            for step in range(self.steps):
                found = self._stepped(found, ball, bench, oracle, step)
            fooled = self._fooled(bench, oracle, found)
        region = perturbation.around(bench.x, bench.target.model.box)
        adversarial = region.project(bench.x + found)
        broken, passes = bench.judge(region, adversarial)
        drawn = ball.sample(bench.rng.fork("control"), torch.zeros(1, dtype=torch.int64, device=found.device))
        noise = ball.project(1e3 * drawn)  # as large as the budget allows, as the perturbation is
        noisy, more = bench.judge(region, region.project(bench.x + noise))
        return UniversalResult(
            perturbation=found[0],
            success=share(broken),
            train=fooled,
            control=share(noisy),
            index=bench.index,
            broken=broken,
            adversarial=adversarial,
            passes=Spent(oracle.forward, oracle.backward, passes + more),
        )

    @staticmethod
    def _ball(perturbation: Perturbation, bench: Bench) -> Region:
        """The allowed perturbations: the ball around nothing, as wide as two inputs can lie apart."""
        low, high = bench.target.model.box.bounds_like(bench.x)
        return perturbation.around(torch.zeros_like(bench.x[:1]), Box(low - high, high - low))

    def _stepped(
        self, found: Tensor, ball: Region, bench: Bench, oracle: CountingOracle, step: int
    ) -> Tensor:
        rows = bench.batch(step, self.batch)
        box, goal = bench.target.model.box, bench.threat.goal
        total = torch.zeros_like(found)
        for part in chunks(rows, oracle.chunk):
            y = bench.train_y[part]

            def objective(scores: Tensor, y: Tensor = y) -> Tensor:
                # one change for all cannot step over the band in which each is refused: it climbs through
                return goal_loss(Loss.CE, unrefused(scores, goal), y, goal).clamp(max=self.clip)

            gradient = oracle.ask_gradient(box.clamp(bench.train_x[part] + found), objective).gradient
            assert gradient is not None
            total = total + gradient.sum(0, keepdim=True)
        length = self.step_size * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        way: Tensor = ball.ascent(total, found) * (length * float(ball.reach[0]))
        return ball.project(found + way)

    @staticmethod
    def _fooled(bench: Bench, oracle: CountingOracle, found: Tensor) -> Rate:
        """The share of the training inputs the copy gets right without the perturbation that fall to it."""
        box, goal, y = bench.target.model.box, bench.threat.goal, bench.train_y
        clean = oracle.ask(bench.train_x).labels
        right = clean == y
        after = oracle.ask(box.clamp(bench.train_x + found)).labels
        return share(goal.reached(after, y)[right]) if bool(right.any()) else Rate.of(0, len(y))
