"""Deciding a property file about an ONNX file: refuted, broken by a point that onnxruntime confirms, or unknown."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from hardpoint.bounds.ball import beyond
from hardpoint.bounds.branch.boxes import Losses
from hardpoint.bounds.branch.search import Answer, Limits, settled
from hardpoint.bounds.certified import SLACK
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.execution import execution_losses, refuse_coarse
from hardpoint.bounds.falsify import broken
from hardpoint.bounds.onnx import OnnxNetwork, read_network
from hardpoint.bounds.operators.operator import DOUBLE, Interval
from hardpoint.bounds.vnnlib import Case, Property, holds, read_vnnlib
from hardpoint.certify.planning import parsed
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.engine.heap import kept_memory
from hardpoint.evidence.certificate import Level
from hardpoint.models.onnx.files import read_onnx

Group = tuple[Case, ...]
"""Cases that share a box."""


class Decision(StrEnum):
    """What is known of a property, in the words of the verification competitions."""

    UNSAT = "unsat"
    SAT = "sat"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class PropertyAnswer:
    """What was found out about a property.

    Attributes:
        answer: ``UNSAT``: no input is unsafe; ``SAT``: this one is; ``UNKNOWN``.
        x: float64 ``[d]``, an unsafe input; None unless ``SAT``. Each number is a float32 where its bounds hold one.
        y: ``[K]``, what onnxruntime answers for it.
        bound: how far every answer is from being unsafe, at least, in units of the answers; above 0 refutes. Not a
            number where none was computed.
        seconds: of the clock.
        reason: why it is unknown, and what else must be known.
    """

    answer: Decision
    x: Tensor | None
    y: Tensor | None
    bound: float
    seconds: float
    reason: str = ""


def decide(
    onnx: str | Path,
    vnnlib: str | Path,
    *,
    seconds: float = 60.0,
    soundness: Level | str = "real",
    seed: int = 0,
) -> PropertyAnswer:
    """Whether any input that a property speaks about has an answer that it calls unsafe.

    All cases are attacked first. A point counts where onnxruntime, asked about it alone, gives an answer that is unsafe
    without any tolerance; its numbers are float32 wherever the bounds allow. Then the cases of each box are refuted
    together by branch and bound, in what time is left, shared out evenly. ``DEPLOYED`` speaks about the float32 network
    at all inputs of the box and the float32 next to them.

    Args:
        onnx: the network; one input, one answer.
        vnnlib: the property, in VNN-LIB 1.
        seconds: what may be spent, reading apart.
        soundness: ``"real"``, ``"rigorous"`` or ``"deployed"``; see ``Level``.
        seed: of the points that attacks begin at.

    Raises:
        DataError, ModelError: for files that cannot be read, or do not belong together.
        UnknownOperator: for a part of the network that no bound is known for.
        ConfigError: for another level, or a time that is not above 0.
    """
    level = parsed(Level, soundness, "soundness")
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds is {seconds}", "give a finite number above 0")
    wanted = read_vnnlib(vnnlib)
    if not wanted.cases:
        read_onnx(Path(onnx))
        return PropertyAnswer(
            Decision.UNSAT, None, None, math.inf, 0.0, "the property names no unsafe input at all"
        )
    with preserved_random_state(), full_precision(), kept_memory():
        net = read_network(onnx, *wanted.hull())
        if net.outputs != wanted.outputs:
            raise DataError(
                f"the property is over {wanted.outputs} outputs, {onnx} has {net.outputs}",
                "give the property that belongs to this network",
            )
        if level is Level.DEPLOYED:
            refuse_coarse(net.model.module, net.model.input_dtype)
        return _Decision(net, wanted, level, time.monotonic(), seconds, seed).answer()


class _Decision:
    """One property of one network, and what is known so far."""

    def __init__(
        self, net: OnnxNetwork, wanted: Property, level: Level, began: float, seconds: float, seed: int
    ) -> None:
        self.net, self.wanted, self.level = net, wanted, level
        self.began, self.deadline, self.seed = began, began + seconds, seed
        self.witness: tuple[Tensor, Tensor] | None = None
        self.refused = False

    def answer(self) -> PropertyAnswer:
        groups = self.wanted.grouped()
        for group in groups:
            if self._falls(group):
                return self._told(Decision.SAT, -math.inf)
        bounds, reasons = [], []
        for place, group in enumerate(groups):
            left = (self.deadline - time.monotonic()) / (len(groups) - place)
            known = self._refuted(group, left)
            if known is None:
                return self._told(Decision.SAT, -math.inf)
            bounds.append(known[0])
            reasons += [known[1]] if known[1] else []
        worst = math.nan if any(bound != bound for bound in bounds) else min(bounds)
        if not reasons and worst > 0:
            return self._told(Decision.UNSAT, worst)
        return self._told(Decision.UNKNOWN, worst, self._why(reasons, len(groups)))

    def _told(self, answer: Decision, bound: float, reason: str = "") -> PropertyAnswer:
        seconds = time.monotonic() - self.began
        if answer is not Decision.SAT or self.witness is None:
            return PropertyAnswer(answer, None, None, bound, seconds, reason)
        x, y = self.witness
        if bool((x != x.float()).any()):
            reason = "some bounds hold no float32: there the network was asked about the nearest one"
        return PropertyAnswer(answer, x, y, bound, seconds, reason)

    def _why(self, reasons: Sequence[str], groups: int) -> str:
        said = "; ".join(dict.fromkeys(reasons)) or "nothing was bounded"
        if groups > 1:
            said = f"{len(reasons)} of {groups} boxes are open: {said}"
        return said + (
            "; a point is unsafe in exact arithmetic, not as onnxruntime computes" if self.refused else ""
        )

    # --- points ---------------------------------------------------------------------------------------------------

    def _falls(self, group: Group) -> bool:
        """Whether an attack on the cases of one box finds an unsafe input."""
        place = _Place.of(group[0])
        if self._is_unsafe(place, ((place.low + place.high) / 2).unsqueeze(0)):
            return True
        cases = [case for case in group if len(case.rows)]
        if not cases or time.monotonic() > self.deadline:
            return False
        box = Interval(place.low.unsqueeze(0), place.high.unsqueeze(0))
        point, margin = broken(self.net.network.quick, _claim_of(cases), box, seed=self.seed)
        return bool(margin[0] <= 1e-3) and self._is_unsafe(place, point)

    def _is_unsafe(self, place: _Place, point: Tensor) -> bool:
        """Whether onnxruntime's answer at ``point`` ``[1, d]``, moved to the nearest input allowed, is unsafe."""
        x = place.nearest(point[0])
        y = self.net.model.answers(x.float().unsqueeze(0)).flatten()
        if not holds(self.wanted, x, y):
            return False
        self.witness = x, y
        return True

    # --- proofs ---------------------------------------------------------------------------------------------------

    def _refuted(self, group: Group, seconds: float) -> tuple[float, str] | None:
        """A bound for the cases of one box, with why it is not enough; None where a point broke them."""
        if any(not len(case.rows) for case in group):
            return math.nan, "a case is unsafe whatever the network answers"
        if seconds <= 0:
            return math.nan, "time was up before anything was bounded"
        place, graph, box = _Place.of(group[0]), self.net.network.exact, self._box(group[0])
        with torch.no_grad():
            spans = crown_spans(graph, box)
        claim, losses = self._claim(group)

        def accepts(point: Tensor) -> bool:
            found = self._is_unsafe(place, point)
            with torch.no_grad():
                margin = float(_claim_of(group).margin(graph(point.double()))[0])
            self.refused = self.refused or (not found and margin <= 0)
            return found

        found = settled(self.net.network, claim, box, Limits(seconds), accepts, spans, losses)
        if found.answer is Answer.BROKEN:
            return None
        if found.answer is Answer.PROVEN and found.bound > 0:
            return found.bound, ""
        return found.bound, found.reason or "nothing was proven"

    def _box(self, case: Case) -> Interval:
        low, high = case.low.unsqueeze(0), case.high.unsqueeze(0)
        if self.level is Level.DEPLOYED:  # an input is rounded to float32 before the network sees it
            low, high = beyond(low, -math.inf, torch.float32), beyond(high, math.inf, torch.float32)
        return Interval(low, high, None if self.level is Level.REAL else DOUBLE)

    def _claim(self, group: Group) -> tuple[Claim, Losses | None]:
        """What is to be proven of the exact network so that the level's network is safe, and what that one loses."""
        claim, graph = _claim_of(group), self.net.network.exact
        if self.level is Level.DEPLOYED:
            return claim, lambda spans, rows: execution_losses(graph, spans, rows)
        if self.level is Level.RIGOROUS:
            return claim, None
        return claim.lowered(SLACK), None


@dataclass(frozen=True)
class _Place:
    """Where witnesses of a box may lie.

    Attributes:
        low, high: float32 ``[d]``: the outermost float32 inside; where there is none, the nearest, twice.
        least, most: float64 ``[d]``: the ends as they are compared with.
    """

    low: Tensor
    high: Tensor
    least: Tensor
    most: Tensor

    @classmethod
    def of(cls, case: Case) -> _Place:
        least, most = case.closest or (case.low, case.high)
        low, high = (
            beyond(least, math.inf, torch.float32).float(),
            beyond(most, -math.inf, torch.float32).float(),
        )
        nearest = ((least + most) / 2).float()
        is_free = low <= high
        return cls(torch.where(is_free, low, nearest), torch.where(is_free, high, nearest), least, most)

    def nearest(self, point: Tensor) -> Tensor:
        """float64 ``[d]``: the allowed input nearest to ``point`` ``[d]``, in float32 where that can be."""
        inside = torch.minimum(torch.maximum(point.float(), self.low), self.high).double()
        return torch.minimum(torch.maximum(inside, self.least), self.most)


def _claim_of(cases: Sequence[Case]) -> Claim:
    """That none of the cases can be: each is a clause."""
    clause = [torch.full((len(case.rows),), number) for number, case in enumerate(cases)]
    rows, offset = torch.cat([case.rows for case in cases]), torch.cat([case.offset for case in cases])
    return Claim(rows.unsqueeze(0), offset.unsqueeze(0), torch.cat(clause))
