"""The inputs that checks run on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.assess.arsenal import Arsenal, arsenal_for
from hardpoint.assess.work import Session, Table
from hardpoint.core.access import Access
from hardpoint.core.rng import Rng
from hardpoint.engine.attack import Attack
from hardpoint.engine.clean import ranked_classes
from hardpoint.engine.search import Searched, search
from hardpoint.evidence.assessment import Check, Status, Verdict
from hardpoint.models.base import refusal_of
from hardpoint.threats.features import FeatureEdits
from hardpoint.threats.threat import Threat

PILOT = 64


@dataclass(frozen=True)
class Pilot:
    """Some inputs: which were right to begin with, which of them still stand, which the goal lets be attacked.

    Attributes:
        session: what was assessed.
        x, y: the inputs and their labels.
        index: int64 ``[n]``, their positions in the data.
        right, standing, broken, attackable: bool ``[n]``.
        spent: the most queries, or forward passes, that one input took.
        lead, nearest: float64 ``[n]``, the goal's margin at the original and at the nearest miss; both negative.
    """

    session: Session
    x: Tensor
    y: Tensor
    index: NDArray[np.int64]
    right: NDArray[np.bool_]
    standing: NDArray[np.bool_]
    broken: NDArray[np.bool_]
    attackable: NDArray[np.bool_]
    lead: NDArray[np.float64]
    nearest: NDArray[np.float64]
    spent: int

    @classmethod
    def of(cls, session: Session, table: Table) -> Pilot:
        """``PILOT`` inputs spread over the data."""
        return cls.at(session, table, spread(len(table.status), PILOT))

    @classmethod
    def at(cls, session: Session, table: Table, index: NDArray[np.int64]) -> Pilot:
        """The inputs at the positions ``index``."""
        x, y = session.rows(index)
        status, attackable = table.status[index], session.threat.goal.attackable(y).cpu().numpy()
        right, standing = status != Status.CLEAN_ERROR, status == Status.STANDING
        standing &= table.valid[index] & table.wanted[index]
        broken = status == Status.BROKEN
        lead, nearest = table.margin[index], table.closest[index]
        spent = int(table.forward.max(initial=0))
        return cls(session, x, y, index, right, standing, broken, attackable, lead, nearest, spent)

    @property
    def white_box(self) -> bool:
        return self.session.threat.access is Access.GRADIENTS

    @property
    def is_table(self) -> bool:
        return isinstance(self.session.threat.perturbation, FeatureEdits)

    @property
    def arsenal(self) -> Arsenal:
        """The attacks for the perturbation of the threat."""
        return arsenal_for(self.session.threat.perturbation, self.session.classes)

    def places(self, rows: NDArray[np.bool_]) -> Tensor:
        """int64: where ``rows`` are true, on the model's device."""
        return torch.from_numpy(np.flatnonzero(rows)).to(self.x.device)

    def searched(self, attack: Attack, threat: Threat, rows: NDArray[np.bool_]) -> Searched:
        """What the attack finds on the pilot's ``rows`` under ``threat``, verified."""
        at = self.places(rows)
        x, model = self.x[at], self.session.target.model
        ranked = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
        if threat.access >= Access.SCORES:
            ranked = ranked_classes(model.scores(x), refusal_of(model))
        return search(
            attack,
            self.session.target,
            self.session.twin,
            threat,
            x,
            self.y[at],
            torch.from_numpy(self.index).to(x.device)[at],
            ranked,
            rng=Rng(self.session.seed).fork("strength").fork(f"{attack.name} {threat.name}"),
            deadline=self.session.deadline,
        )

    def broken_by(self, attack: Attack, threat: Threat, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the pilot's ``rows`` the attack breaks under ``threat`` (verified)."""
        broken = np.zeros(len(rows), dtype=bool)
        if rows.any():
            broken[rows] = self.searched(attack, threat, rows).broken.cpu().numpy()
        return broken

    def extra(self, id: str, name: str, attacks: tuple[Attack, ...], threat: Threat | None = None) -> Check:
        """What ``attacks`` break of the inputs that stand: nothing, if the search was a good one.

        Attacks that were part of the search are left out: they would say the same again.
        """
        known = {stage.attack for stage in self.session.every_stage}
        new = tuple(attack for attack in attacks if attack not in known)
        if not new:
            return not_run(id, name, 0.0, "the search consisted of it")
        left = self.standing.copy()
        for attack in new:
            left &= ~self.broken_by(attack, threat or self.session.threat, left)
        fell, stood = int((self.standing & ~left).sum()), int(self.standing.sum())
        words = " and ".join(dict.fromkeys(attack.name for attack in new))
        return Check(
            id,
            name,
            fell / max(1, len(self.right)),
            0.0,
            Verdict.PASS if fell == 0 else Verdict.WARN,
            f"{words} broke {fell} of the {stood} pilot inputs that stand",
        )


def not_run(id: str, name: str, threshold: float | None, why: str) -> Check:
    """A check that does not apply, and why."""
    return Check(id, name, None, threshold, Verdict.NOT_RUN, why)


def spread(n: int, count: int) -> NDArray[np.int64]:
    """Positions of ``count`` of ``n`` inputs at equal distances, all if there are fewer: data is often sorted by
    class, so the first inputs would be a poor sample.

    >>> spread(10, 4)
    array([0, 3, 6, 9])
    """
    return np.linspace(0, n - 1, min(n, count)).astype(np.int64)
