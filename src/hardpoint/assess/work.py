"""The pieces of an assessment that workers do, and the table their results are gathered in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.assess.stage import Stage
from hardpoint.core.rng import Rng
from hardpoint.data.dataset import Dataset
from hardpoint.engine.budget import Deadline
from hardpoint.engine.clean import clean_answers
from hardpoint.engine.guard import preserved_random_state
from hardpoint.engine.search import Target, search
from hardpoint.engine.twin import Itself, Twin, TwinPlan, build_twin
from hardpoint.evidence.assessment import Outcomes, Status
from hardpoint.models.base import Differentiable
from hardpoint.threats.threat import Threat

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Session:
    """What a worker needs once: the target, the data, the threat and the stages. Picklable."""

    target: Target
    data: Dataset
    threat: Threat
    stages: tuple[Stage, ...]
    wider: tuple[Stage, ...]
    seed: int
    device: torch.device
    deadline: Deadline = field(default_factory=Deadline)
    classes: int | None = None
    surrogates: tuple[Differentiable, ...] = ()

    @cached_property
    def twin(self) -> Twin | Itself:
        """What attacks search on, built on first use in each process."""
        return self.target.searchable()

    @property
    def every_stage(self) -> tuple[Stage, ...]:
        """The stages, and those of the wider search behind them."""
        return (*self.stages, *self.wider)

    @cached_property
    def exact_twin(self) -> Twin | Itself:
        """The model itself."""
        return build_twin(self.target.model, TwinPlan(copied=False))

    def twin_for(self, stage: int) -> Twin | Itself:
        """The copy a stage searches on; a search whose silence is a proof asks the model itself."""
        return self.exact_twin if _is_exhaustive(self.every_stage[stage]) else self.twin

    @property
    def is_exhaustive(self) -> bool:
        """Whether the last stage tries everything that the threat allows."""
        return _is_exhaustive(self.stages[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("twin", "exact_twin")}

    def rows(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs and labels at ``positions``, on the model's device."""
        x, y = self.data.rows(torch.from_numpy(positions))
        return x.to(self.device), y.to(self.device)


def _is_exhaustive(stage: Stage) -> bool:
    return bool(getattr(stage.attack, "exhaustive", False))


@dataclass(frozen=True)
class Piece:
    """One piece of work: a stage (-1 is the clean pass) on the inputs at some positions."""

    stage: int
    number: int
    positions: NDArray[np.int64]
    ranked: NDArray[np.int64] | None = None
    allowance: NDArray[np.int64] | None = None

    @property
    def name(self) -> str:
        """The name of its file in the run folder."""
        return f"clean-{self.number:05d}" if self.stage < 0 else f"s{self.stage:02d}-{self.number:05d}"

    def do(self, session: Session) -> Arrays:
        """The results, as arrays for the run folder; the same on every worker."""
        with preserved_random_state(seed=Rng(session.seed).fork(self.name).stream % 2**63):
            return _clean(session, self) if self.stage < 0 else _attack(session, self)


class Job(Protocol):
    """A piece of work of any kind, which knows how it is done."""

    def do(self, session: Session) -> Any: ...


def do_piece(session: Session, piece: Job) -> Any:
    """The result of a piece, on any worker."""
    return piece.do(session)


def _clean(session: Session, piece: Piece) -> Arrays:
    x, y = session.rows(piece.positions)
    target = session.target
    prediction, ranked, scores = clean_answers(
        target.model,
        session.threat.access,
        x,
        torch.from_numpy(piece.positions).to(x.device),
        chunk=target.capacity,
        is_random=target.is_random,
    )
    margin = torch.full(y.shape, -torch.inf) if scores is None else session.threat.goal.margin(scores, y)
    return {
        "positions": piece.positions,
        "label": y.cpu().numpy(),
        "margin": margin.double().cpu().numpy(),
        "prediction": prediction.cpu().numpy(),
        "ranked": ranked.cpu().numpy(),
        "wanted": session.threat.goal.attackable(y).cpu().numpy(),
        "valid": session.threat.perturbation.around(x, target.model.box).contains(x).cpu().numpy(),
    }


def _attack(session: Session, piece: Piece) -> Arrays:
    began = time.perf_counter()
    x, y = session.rows(piece.positions)
    attack = session.every_stage[piece.stage].attack
    ranked = piece.ranked if piece.ranked is not None else np.empty((len(x), 0), dtype=np.int64)
    result = search(
        attack,
        session.target,
        session.twin_for(piece.stage),
        session.threat,
        x,
        y,
        torch.from_numpy(piece.positions).to(x.device),
        torch.from_numpy(ranked).to(x.device),
        rng=Rng(session.seed).fork(piece.stage).fork(attack.name),
        allowance=None if piece.allowance is None else torch.from_numpy(piece.allowance).to(x.device),
        deadline=session.deadline,
    )
    broken = result.broken.cpu()
    return {
        "positions": piece.positions,
        "broken": broken.numpy(),
        "prediction": result.prediction.cpu().numpy(),
        "distance": result.distance.cpu().numpy(),
        "forward": result.forward.cpu().numpy(),
        "backward": result.backward.cpu().numpy(),
        "finished": result.finished.cpu().numpy(),
        "closest": result.closest.cpu().numpy(),
        "adversarial": result.adversarial.cpu()[broken].numpy(),
        "checks": np.array([result.claimed, result.rejected, result.verification]),
        "seconds": np.array(time.perf_counter() - began),
        "late": np.array(session.deadline.passed and not bool(result.finished.all())),
    }


class Table:
    """Everything known about every input so far; a few dozen bytes each."""

    def __init__(self, n: int, classes: int) -> None:
        self.label = np.full(n, -1, dtype=np.int64)
        self.clean = np.full(n, -1, dtype=np.int64)
        self.final = np.full(n, -1, dtype=np.int64)
        self.ranked = np.zeros((n, classes), dtype=np.int64)
        self.status = np.full(n, Status.UNFINISHED, dtype=np.uint8)
        self.stage = np.full(n, -1, dtype=np.int16)
        self.distance = np.full(n, np.nan)
        self.forward = np.zeros(n, dtype=np.int64)
        self.backward = np.zeros(n, dtype=np.int64)
        self.margin = np.full(n, -np.inf)
        self.closest = np.full(n, -np.inf)
        self.cut_short = np.zeros(n, dtype=bool)
        self.wanted = np.ones(n, dtype=bool)
        self.valid = np.ones(n, dtype=bool)
        self.checks = np.zeros(3, dtype=np.int64)

    def add_clean(self, found: Arrays) -> None:
        """Enter a clean piece."""
        at = found["positions"]
        self.label[at], self.clean[at], self.final[at] = (
            found["label"],
            found["prediction"],
            found["prediction"],
        )
        if found["ranked"].shape[1]:
            self.ranked[at] = found["ranked"]
        self.margin[at] = found["margin"]
        self.wanted[at], self.valid[at] = found["wanted"], found["valid"]
        wrong = found["prediction"] != found["label"]
        self.status[at] = np.where(wrong, Status.CLEAN_ERROR, Status.STANDING)
        self.distance[at[wrong]] = 0.0

    def add_attack(self, stage: int, found: Arrays) -> None:
        """Enter a piece of a stage."""
        at, broken = found["positions"], found["broken"]
        fell = at[broken]
        self.forward[at] += found["forward"]
        self.backward[at] += found["backward"]
        self.status[fell], self.stage[fell] = Status.BROKEN, stage
        self.final[fell] = found["prediction"][broken]
        self.distance[fell] = found["distance"][broken]
        self.closest[at] = np.maximum(self.closest[at], found["closest"])
        self.cut_short[at] |= ~found["finished"] & ~broken
        self.checks += found["checks"]

    def standing(self) -> NDArray[np.int64]:
        """Positions of the inputs that can be attacked and that no stage has broken."""
        return np.flatnonzero((self.status == Status.STANDING) & self.wanted & self.valid)

    def lead_left(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of the clean lead left at the nearest miss; NaN where it is not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share: NDArray[np.float64] = self.closest[positions] / self.margin[positions]
        return np.where(np.isfinite(share), share, np.nan)

    def outcomes(self, black_box: bool) -> Outcomes:
        """The table as evidence."""
        status = self.status.copy()
        status[(status == Status.STANDING) & self.cut_short] = Status.UNFINISHED
        queries = self.forward if black_box else np.zeros_like(self.forward)
        return Outcomes(
            index=np.arange(len(status)),
            label=self.label,
            clean_prediction=self.clean,
            final_prediction=self.final,
            status=status,
            stage=self.stage,
            distance=self.distance,
            forward=self.forward,
            backward=self.backward,
            queries=queries,
        )
