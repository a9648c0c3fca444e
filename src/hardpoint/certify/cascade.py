"""The stages of a proof, each on what the ones before left: clean, attack, intervals, linear bounds, chosen lines,
branch and bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from hardpoint.bounds.alpha import Ascent, alpha_linear, alpha_spans
from hardpoint.bounds.ball import allowed, rounded_to
from hardpoint.bounds.branch.boxes import Losses
from hardpoint.bounds.branch.search import Answer, Limits, settled
from hardpoint.bounds.certified import SLACK
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.condensed import together
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.execution import execution_losses
from hardpoint.bounds.falsify import broken
from hardpoint.bounds.graph import Network
from hardpoint.bounds.interval import intervals, margin_bounds
from hardpoint.bounds.linear import backward
from hardpoint.bounds.operators.operator import Interval
from hardpoint.core.rows import chunks
from hardpoint.engine.verify import verify
from hardpoint.evidence.certificate import Level, Standing
from hardpoint.models.onnx import OnnxModel
from hardpoint.models.torch import TorchModel
from hardpoint.threats.goals import Untargeted
from hardpoint.threats.perturbation import Perturbation

Certifiable = TorchModel | OnnxModel
"""A model whose network can be read."""


class Method(StrEnum):
    """How far the stages go; each includes those before it. ``AUTO`` is all of them."""

    INTERVAL = "interval"
    CROWN = "crown"
    ALPHA = "alpha"
    BRANCH = "branch"
    AUTO = "auto"

    def includes(self, other: Method) -> bool:
        """Whether the stage ``other`` is part of it."""
        order = (Method.INTERVAL, Method.CROWN, Method.ALPHA, Method.BRANCH)
        return self is Method.AUTO or order.index(other) <= order.index(self)


@dataclass(frozen=True)
class Plan:
    """What is certified, and how.

    Attributes:
        model: as it is deployed.
        network: its graphs.
        perturbation: what the attacker may change.
        classes: how many the network knows.
        level: for which network proofs are to hold.
        method: how far the stages go.
        seconds: what branch and bound may spend on one input.
        seed: of the points that attacks begin at.
    """

    model: Certifiable
    network: Network
    perturbation: Perturbation
    classes: int
    level: Level
    method: Method
    seconds: float
    seed: int


@dataclass
class Batch:
    """Some inputs and what is known of them so far.

    Attributes:
        x, y: the inputs ``[n, ...]`` and the classes that are to stand.
        region: what each may become; outward where the level asks for it.
        claim: what is to be proven.
        standing, bound, stage, reason: per input.
        witness: ``[n, ...]``: points that break, originals elsewhere.
        seconds: float64 ``[n]``.
    """

    x: Tensor
    y: Tensor
    region: Interval
    claim: Claim
    standing: list[Standing]
    bound: Tensor
    stage: list[str]
    reason: list[str]
    witness: Tensor
    seconds: Tensor

    @classmethod
    def of(cls, plan: Plan, x: Tensor, y: Tensor) -> Batch:
        region = allowed(x, plan.model.box, plan.perturbation)
        if plan.level is Level.REAL:
            region = region.roughly(torch.float64)
        if plan.level is Level.DEPLOYED and isinstance(plan.model, OnnxModel):
            region = rounded_to(
                region, plan.model.input_dtype
            )  # finer inputs are rounded before the file sees them
        n = len(x)
        return cls(
            x,
            y,
            region,
            Claim.of_classes(y, plan.classes, SLACK if plan.level is Level.REAL else 0.0),
            [Standing.UNKNOWN] * n,
            torch.full((n,), torch.nan, dtype=torch.float64),
            [""] * n,
            [""] * n,
            x.clone(),
            torch.zeros(n, dtype=torch.float64),
        )

    @property
    def open(self) -> Tensor:
        """int64: the inputs that nothing is known of."""
        found = [i for i, standing in enumerate(self.standing) if standing is Standing.UNKNOWN]
        return torch.tensor(found, dtype=torch.int64)

    def proven(self, rows: Tensor, bound: Tensor, stage: str) -> int:
        """Take in bounds of the inputs ``rows``; how many they prove."""
        count = 0
        for row, value in zip(rows.tolist(), bound.tolist(), strict=True):
            known = float(self.bound[row])
            if not value <= known:  # a first bound, or a better one
                self.bound[row] = value if value == value else known
            self.stage[row] = stage
            if value > 0:
                self.standing[row], count = Standing.ROBUST, count + 1
        return count

    def breaks(self, rows: Tensor, points: Tensor, stage: str) -> None:
        for row, point in zip(rows.tolist(), points, strict=True):
            self.standing[row], self.stage[row] = Standing.VULNERABLE, stage
            self.witness[row] = point


Stage = Callable[[Plan, Batch, Tensor], tuple[int, int]]
"""Meets the inputs of a batch that are open; says how many it proved and how many it broke."""


def clean(plan: Plan, batch: Batch, rows: Tensor) -> tuple[int, int]:
    """Inputs that the model gets wrong as they are."""
    wrong = plan.model.predict(batch.x[rows]) != batch.y[rows]
    for row in rows[wrong].tolist():
        batch.standing[row], batch.stage[row] = Standing.MISTAKEN, "clean"
    return 0, int(wrong.sum())


def attack(restarts: int, steps: int) -> Stage:
    """Gradient descent on the margin; a point counts where it breaks the model itself."""

    def stage(plan: Plan, batch: Batch, rows: Tensor) -> tuple[int, int]:
        name = "attack"
        region = batch.region.of(rows).roughly(torch.float32)
        home = plan.perturbation.around(batch.x[rows], plan.model.box)
        claim = batch.claim.of(rows)
        points, margins = broken(
            plan.network.quick, claim, region, restarts=restarts, steps=steps, seed=plan.seed,
            project=_projecting(plan, batch.x[rows], restarts),
        )  # fmt: skip
        points = home.project(points.to(batch.x.dtype))
        near = margins <= 1e-3
        fell = torch.zeros(len(rows), dtype=torch.bool)
        if bool(near.any()):
            fell[near] = verified(plan, batch.x[rows[near]], batch.y[rows[near]], points[near])
        batch.breaks(rows[fell], points[fell], name)
        return 0, int(fell.sum())

    return stage


def _projecting(plan: Plan, x: Tensor, restarts: int) -> Callable[[Tensor], Tensor]:
    region = plan.perturbation.around(x.repeat_interleave(restarts, 0), plan.model.box)
    return lambda z: region.project(z.to(x.dtype)).to(z.dtype)


def verified(plan: Plan, x: Tensor, y: Tensor, points: Tensor) -> Tensor:
    """Bool ``[n]``: whether points break the model as it is deployed, alone and in a batch, inside what is allowed."""
    region = plan.perturbation.around(x, plan.model.box)
    return verify(plan.model, region, points, y, Untargeted()).stands


@torch.no_grad()
def interval(plan: Plan, batch: Batch, rows: Tensor) -> tuple[int, int]:
    """Interval bounds of every value."""
    spans = intervals(plan.network.exact, batch.region.of(rows))
    y = batch.y[rows]
    margins = margin_bounds(plan.network.exact, spans, y).scatter(1, y.unsqueeze(1), torch.inf)
    bounds = margins.amin(1) + _claim(plan, batch, rows, spans).offset.amin(1)
    return batch.proven(rows, bounds, "interval"), 0


def crown(plan: Plan, batch: Batch, rows: Tensor) -> tuple[int, int]:
    """Linear bounds between intervals that are linear bounds themselves."""
    with torch.no_grad():
        region = batch.region.of(rows)
        spans = crown_spans(plan.network.exact, region)
        claim = _claim(plan, batch, rows, spans)
        bounds = backward(plan.network.exact, spans, claim.rows).least(region) + claim.offset
    return batch.proven(rows, claim.proven(bounds).amin(1), "crown"), 0


def alpha(plan: Plan, batch: Batch, rows: Tensor) -> tuple[int, int]:
    """Lines chosen for each bound."""
    with torch.no_grad():
        spans = crown_spans(plan.network.exact, batch.region.of(rows))
    bounds = torch.empty(len(rows), dtype=torch.float64)
    for some in together(plan.network, spans):
        bounds[some] = _alpha(plan, batch, rows[some], [span.of(some) for span in spans])
    return batch.proven(rows, bounds, "alpha"), 0


def _alpha(plan: Plan, batch: Batch, rows: Tensor, spans: list[Interval]) -> Tensor:
    spans = alpha_spans(plan.network, spans, Ascent(steps=8))
    claim = _claim(plan, batch, rows, spans)
    offset = claim.offset.float()
    linear = alpha_linear(
        plan.network,
        spans,
        claim.rows,
        Ascent(steps=20),
        objective=lambda bounds: (bounds + offset).clamp(max=1e-3).sum(),
        done=lambda best: bool((best + offset > 1e-3).all()),
    )
    return claim.proven(linear.least(spans[0]) + claim.offset).amin(1)


def branch(plan: Plan, batch: Batch, rows: Tensor) -> tuple[int, int]:
    """Branch and bound, one input after the other."""
    proven = fell = 0
    for row in chunks(rows, 1):
        began = time.monotonic()
        region = batch.region.of(row)
        with torch.no_grad():
            spans = crown_spans(plan.network.exact, region)
        x, y = batch.x[row], batch.y[row]
        home = plan.perturbation.around(x, plan.model.box)
        last: list[Tensor] = []

        def accepts(point: Tensor) -> bool:
            placed = home.project(point.to(x.dtype))  # noqa: B023
            last[:] = [placed]  # noqa: B023
            return bool(verified(plan, x, y, placed)[0])  # noqa: B023

        claim, limits = batch.claim.of(row), Limits(plan.seconds)
        found = settled(plan.network, claim, region, limits, accepts, spans, _losses(plan))
        place = int(row)
        batch.seconds[place] += time.monotonic() - began
        if found.answer is Answer.BROKEN:
            batch.breaks(row, last[0], "branch")
            fell += 1
            continue
        proven += batch.proven(row, torch.tensor([found.bound], dtype=torch.float64), "branch")
        batch.reason[place] = found.reason
    return proven, fell


def _claim(plan: Plan, batch: Batch, rows: Tensor, spans: list[Interval]) -> Claim:
    """What is to be proven of the exact network so that the level's network keeps its class."""
    claim, losses = batch.claim.of(rows), _losses(plan)
    return claim if losses is None else claim.lowered(losses(spans, claim.rows))


def _losses(plan: Plan) -> Losses | None:
    """What the level's network takes from the exact one's answer. An answer of one score stands for both classes: its
    negative is exact."""
    if plan.level is not Level.DEPLOYED:
        return None
    return lambda spans, rows: execution_losses(plan.network.exact, spans, rows, plan.network.quick)


STAGES: tuple[tuple[str, Method | None, Stage], ...] = (
    ("clean", None, clean),
    ("attack", None, attack(2, 20)),
    ("interval", Method.INTERVAL, interval),
    ("crown", Method.CROWN, crown),
    ("alpha", Method.ALPHA, alpha),
    ("attack, longer", Method.BRANCH, attack(16, 60)),
    ("branch", Method.BRANCH, branch),
)
