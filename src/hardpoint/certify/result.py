"""What ``certify`` returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardpoint.certify.cascade import STAGES, Batch, Plan, verified
from hardpoint.core.rows import chunks
from hardpoint.engine.guard import full_precision
from hardpoint.evidence.certificate import Certificate, CertificateRecord, Standing
from hardpoint.evidence.rate import Rate


@dataclass(frozen=True, eq=False)
class CertifyResult:
    """What was proven, input by input.

    Attributes:
        record: everything that was found, as reports read it.
        header: what was run, on what, with which versions.
    """

    record: CertificateRecord
    header: dict[str, Any]
    _plan: Plan
    _x: Tensor
    _y: Tensor
    _witnesses: Tensor

    @property
    def certified(self) -> Tensor:
        """Bool ``[n]``: right, and proven to stay so under every allowed change."""
        return self._where(Standing.ROBUST)

    @property
    def vulnerable(self) -> Tensor:
        """Bool ``[n]``: an allowed change was found that breaks the model itself."""
        return self._where(Standing.VULNERABLE)

    @property
    def rate(self) -> Rate:
        """Share of inputs proven robust: a lower bound of robust accuracy."""
        return self.record.certified

    @property
    def upper(self) -> Rate:
        """Share of inputs that nothing was found to break: an upper bound of robust accuracy."""
        return self.record.unbroken

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """One per input, in order."""
        return self.record.certificates

    @property
    def bounds(self) -> Tensor:
        """float64 ``[n]``: the least margin that is proven; NaN where none was computed."""
        return torch.tensor([each.bound for each in self.certificates], dtype=torch.float64)

    def witnesses(self) -> Iterator[tuple[int, Tensor]]:
        """(position, point) of every vulnerable input; the point ``[...]`` breaks the model."""
        for place in self.vulnerable.nonzero().flatten().tolist():
            yield place, self._witnesses[place]

    def recheck(self) -> Tensor:
        """Bool ``[n]``: what holds when it is checked anew. Witnesses are put to the model again, proofs are computed
        again by the stage that found them; what is unknown or mistaken holds.

        The stages draw nothing at random; branch and bound is given twice the time it had.
        """
        plan = replace(self._plan, seconds=2 * self._plan.seconds)
        holds = torch.ones(len(self._x), dtype=torch.bool)
        by_stage: dict[str, list[int]] = {}
        for each in self.certificates:
            if each.standing is Standing.ROBUST:
                by_stage.setdefault(each.stage, []).append(each.index)
        for name, places in by_stage.items():
            stage = next(run for known, _, run in STAGES if known == name)
            for some in chunks(torch.tensor(places), 32):
                batch = Batch.of(plan, self._x[some], self._y[some])
                with full_precision():
                    stage(plan, batch, torch.arange(len(some)))
                again = [standing is Standing.ROBUST for standing in batch.standing]
                holds[some] = torch.tensor(again)
        fell = self.vulnerable
        if bool(fell.any()):
            holds[fell] = verified(plan, self._x[fell], self._y[fell], self._witnesses[fell])
        return holds

    def report(self, path: str | Path) -> Path:
        """Write the page that shows all this; returns where it is."""
        from hardpoint.report.certificates import write_certificates

        return write_certificates(Path(path), [self.record], self.header)

    def _where(self, *standings: Standing) -> Tensor:
        return torch.tensor([each.standing in standings for each in self.certificates], dtype=torch.bool)
