"""One attack on some inputs, from question to verdict: search on the twin, verify on the model.

This is the piece of work every caller shares: an attack used alone, a stage of a cascade, a worker's share.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.rng import Rng
from hardpoint.core.rows import take_rows
from hardpoint.engine.attack import Attack, Task
from hardpoint.engine.budget import Deadline
from hardpoint.engine.guard import frozen_parameters, preserved_random_state
from hardpoint.engine.oracle import Oracle
from hardpoint.engine.randomness import ANSWER_SAMPLES
from hardpoint.engine.runner import Found, run_attack
from hardpoint.engine.twin import Itself, Twin, TwinPlan, build_twin
from hardpoint.engine.verify import verify
from hardpoint.models.base import Differentiable, Model
from hardpoint.threats.threat import Threat


@dataclass(frozen=True)
class Target:
    """A model under attack, with how to search on it.

    Attributes:
        model: the model itself; only it gives verdicts.
        twin: how to copy it for searching.
        capacity: inputs in flight.
        is_random: whether its answers vary; gradients and answers are averaged then.
        samples: passes averaged per gradient of a random model, see ``samples_for``.
    """

    model: Model
    twin: TwinPlan
    capacity: int = 256
    is_random: bool = False
    samples: int = ANSWER_SAMPLES

    def searchable(self) -> Twin | Itself:
        """What attacks search on; build once, use for many searches."""
        return build_twin(self.model, self.twin)


@dataclass(frozen=True)
class Searched:
    """Verified results, one row per input.

    ``passes`` counts what the attack spent; what verification spent is in ``verification``.
    """

    broken: Tensor
    adversarial: Tensor
    prediction: Tensor
    distance: Tensor
    forward: Tensor
    backward: Tensor
    finished: Tensor
    closest: Tensor
    claimed: int
    rejected: int
    verification: int


def search(
    attack: Attack,
    target: Target,
    twin: Twin | Itself,
    threat: Threat,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    ranked: Tensor,
    *,
    rng: Rng,
    allowance: Tensor | None = None,
    deadline: Deadline | None = None,
    progress: Callable[[int], None] | None = None,
) -> Searched:
    """Attack the inputs ``x`` and verify what is claimed.

    Every claim is verified when it is made, and an input whose claim the model does not confirm (the twin rounds
    differently, or a random model was lucky) is attacked further. If none of its claims stood in the end, the
    attack is run once more for it, on the model itself. For black-box attacks the threat's ``queries`` bound what
    is asked about one input in all.
    """
    region = threat.perturbation.around(x, target.model.box)
    turn = torch.zeros_like(index)
    task = Task(index, y, region, ranked, turn, threat.goal, target.model.box, rng, target.is_random)
    averaged = target.samples if attack.needs is Access.GRADIENTS else ANSWER_SAMPLES
    samples = averaged if target.is_random else 1
    if threat.queries is not None and attack.needs is not Access.GRADIENTS:
        most = torch.full_like(index, threat.queries)
        allowance = most if allowance is None else torch.minimum(allowance, most)
    prediction = torch.full_like(y, -1)
    claimed = torch.zeros_like(y, dtype=torch.bool)
    checked = 0

    def run(on: Twin | Itself, rows: Tensor, allowed: Tensor | None) -> Found:
        def confirm(part: Tensor, points: Tensor) -> Tensor:
            nonlocal checked
            at = rows[part]
            verdict = verify(
                target.model,
                take_rows(region, at),
                points,
                y[at],
                threat.goal,
                chunk=target.capacity,
                is_random=target.is_random,
            )
            claimed[at] = True
            prediction[at[verdict.stands]] = verdict.prediction[verdict.stands]
            checked += verdict.passes
            return verdict.stands

        # the attack is shown what it needs, and never more than the threat allows
        oracle = Oracle(on, min(threat.access, attack.needs), chunk=target.capacity, samples=samples)
        return run_attack(
            attack,
            oracle,
            take_rows(task, rows),
            capacity=target.capacity,
            allowance=None if allowed is None else allowed[rows],
            deadline=deadline,
            progress=progress,
            confirm=confirm,
        )

    everyone = torch.arange(len(x), device=x.device)
    with preserved_random_state(seed=(rng.seed ^ rng.stream) % 2**63):
        with _frozen(target, twin):
            found = run(twin, everyone, allowance)
        broken, adversarial, distance = found.hit, found.adversarial, found.distance
        forward, backward, finished = found.forward, found.backward, found.finished
        doubtful = (claimed & ~broken).nonzero().squeeze(1)
        if len(doubtful) and twin.plan.copied:
            left = None if allowance is None else allowance - forward - backward
            exact = build_twin(target.model, TwinPlan(copied=False))
            with _frozen(target, exact):
                again = run(exact, doubtful, left)
            broken[doubtful] = again.hit
            forward[doubtful] += again.forward
            backward[doubtful] += again.backward
            adversarial[doubtful], distance[doubtful] = again.adversarial, again.distance
            finished[doubtful] = again.finished
    keep = broken.view(-1, *([1] * (x.dim() - 1)))
    return Searched(
        broken=broken,
        adversarial=torch.where(keep, adversarial, x),
        prediction=torch.where(broken, prediction, -1),
        distance=torch.where(broken, distance, torch.nan),
        forward=forward,
        backward=backward,
        finished=finished,
        closest=found.closest,
        claimed=int(claimed.sum()),
        rejected=int((claimed & ~broken).sum()),
        verification=checked,
    )


def _frozen(target: Target, twin: Twin | Itself) -> AbstractContextManager[None]:
    """Freeze the model's own parameters while it is searched on directly; copies are frozen already."""
    if twin.plan.copied or not isinstance(target.model, Differentiable):
        return nullcontext()
    return frozen_parameters(target.model.module)
