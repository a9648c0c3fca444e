"""Which threshold? What each costs in false alarms and in time, and what it catches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.assess.answers import answers
from hardpoint.assess.assess import assess
from hardpoint.assess.cascade import Mode
from hardpoint.assess.columns import aligned, percent
from hardpoint.assess.progress import Progress
from hardpoint.assess.result import Result
from hardpoint.core.errors import ConfigError, DataError, ModelError
from hardpoint.core.rng import Rng, split_rows
from hardpoint.defenses.calibrate import calibrated, checked_benign, checked_detectors
from hardpoint.defenses.calibration import Uncalibrated, exact_rate
from hardpoint.defenses.defended import DefendedModel, defended, defended_network
from hardpoint.defenses.latency import added_latency
from hardpoint.defenses.seen import Detector
from hardpoint.engine.budget import Budget
from hardpoint.evidence.assessment import Status
from hardpoint.evidence.defence import ThresholdRecord
from hardpoint.evidence.rate import Rate
from hardpoint.report.reading import weaknesses
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

TOGETHER = "all together"
_SERVED = 32  # inputs at once, when time is taken
_WORDS = ("detector", "alpha", "threshold", "false alarms", "caught, naive", "caught, adaptive", "added ms")


@dataclass(frozen=True)
class ThresholdTable:
    """What thresholds do, a row for each detector and share of false alarms, the highest share first.

    Attributes:
        rows: as they are recorded.
        naive: the assessment of the model without detectors.
        adaptive: the assessments with one, of those inputs alone that were still to be led astray.
        calibration, holdout: how many benign inputs the thresholds rest on, and how many measure their false alarms.
    """

    rows: tuple[ThresholdRecord, ...]
    naive: Result
    adaptive: tuple[Result, ...]
    calibration: int
    holdout: int

    def __iter__(self) -> Iterator[ThresholdRecord]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why what was caught may be worth less than it looks."""
        records = [result.record for result in (self.naive, *self.adaptive)]
        return tuple(f"{record.name}: {reason}" for record in records for reason in weaknesses(record))

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "threat": self.naive.record.threat,
            "clean": self.naive.clean_accuracy.describe(),
            "robust": self.naive.robust_accuracy.describe(),
            "calibration": self.calibration,
            "holdout": self.holdout,
            "rows": [row.describe() for row in self.rows],
            "doubts": list(self.doubts),
        }

    def __str__(self) -> str:
        """A table; what is caught of naive attacks never stands without what is caught of adaptive ones."""
        lines = [aligned([_WORDS, *(self._cells(row) for row in self.rows)])]
        return "\n".join([*lines, *(f"in doubt: {doubt}" for doubt in self.doubts)])

    def _cells(self, row: ThresholdRecord) -> tuple[str, ...]:
        start = (row.detector, f"{100 * row.alpha:g} %")
        if row.needed is not None:
            return (*start, "none", f"{row.needed} to calibrate needed, {self.calibration} there", "", "", "")
        threshold = "one each" if row.threshold is None else f"{row.threshold:.4g}"
        time = "not measured" if row.added_ms is None else f"{row.added_ms:.2g}"
        rates = (_shown(rate) for rate in (row.false_positives, row.caught_naive, row.caught_adaptive))
        return (*start, threshold, *rates, time)


def tune(
    model: Any,
    detectors: Sequence[Detector],
    benign: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    threat: Threat | Perturbation,
    alphas: Sequence[float] = (0.1, 0.05, 0.01),
    delta: float = 0.05,
    holdout: float = 0.5,
    mode: Mode | str = "fast",
    seed: int = 0,
    budget: Budget | None = None,
    progress: bool | Progress = True,
    batch_size: int | None = None,
    allow_training: tuple[str, ...] = (),
) -> ThresholdTable:
    """What every detector, and all together, would refuse at each share of false alarms.

    A part of the benign inputs calibrates (``hardpoint.defenses.calibrated``), the other measures false alarms. *Naive*
    is what is refused of the examples that lead the model without detectors astray. *Adaptive* is for how many of those
    inputs an attacker who knows the detector found no example that is accepted: neither among the naive ones, nor among
    those made against a stricter threshold of the same detector, nor by an attack on the model with this one. An input
    that is refused as it is does not count as caught. Where the benign inputs are too few for a share, its row says how
    many it takes, and nothing is enforced.

    Args:
        model: a network, or one behind its stages, as ``hp.Defended`` makes it; its own detectors are left out.
        detectors: fitted on other inputs than ``benign``.
        benign: ``[m, ...]``, inputs like those that will be served, which nothing was fitted on and none is attacked.
        x: float inputs ``[n, ...]`` to attack.
        y: their labels, int64 ``[n]``.
        threat, mode, seed, budget, progress, batch_size, allow_training: as for ``assess``.
        alphas: shares of benign inputs that may be refused.
        delta: how often the draw of the calibration inputs may mislead.
        holdout: the share of ``benign`` that calibrates nothing, drawn by ``seed``.

    Raises:
        ConfigError: without a detector or a share, or for a share that is none.
        HardpointError: as ``assess``.

    >>> from hardpoint import Linf
    >>> from hardpoint.defenses.detectors import Energy
    >>> net = torch.nn.Linear(2, 2).eval()
    >>> x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    >>> table = tune(net, [Energy()], x[32:], x[:32], net(x[:32]).argmax(1), threat=Linf(0.0), progress=False)
    >>> table.rows[0].needed  # to refuse at most a tenth, with 95 % confidence
    29
    """
    shares = _checked_shares(alphas)
    base = _without_detectors(model)
    detectors = checked_detectors(detectors)
    benign, x, y = checked_benign(benign), torch.as_tensor(x), torch.as_tensor(y).flatten()
    if not 0.0 < holdout < 1.0:
        raise ConfigError(f"holdout is {holdout}", "give a number between 0 and 1")
    if len(benign) < 2:
        raise DataError("there is one benign input", "give some to calibrate on and some to measure with")
    kept, apart = split_rows(len(benign), holdout, Rng(seed).fork("holdout"))
    settings: dict[str, Any] = {"threat": threat, "mode": mode, "seed": seed, "progress": progress}
    settings |= {"budget": budget, "batch_size": batch_size, "allow_training": allow_training}
    naive = assess(base, x, y, name="without detectors", **settings)
    astray = torch.from_numpy(naive.record.outcomes.status == Status.BROKEN).nonzero().flatten()
    attacked = _Attacked(x[astray], naive.adversarial[astray], y[astray], settings)
    groups = [[detector] for detector in detectors] + ([detectors] if len(detectors) > 1 else [])
    rows: list[ThresholdRecord] = []
    results: list[Result] = []
    for group in groups:
        found, made = _rows(base, group, benign[kept], benign[apart], attacked, shares, delta)
        rows += found
        results += made
    return ThresholdTable(tuple(rows), naive, tuple(results), len(kept), len(apart))


@dataclass(frozen=True, eq=False)
class _Attacked:
    """Inputs that can be led astray where there is no detector, and how."""

    x: Tensor
    examples: Tensor
    y: Tensor
    settings: dict[str, Any]


def _rows(
    base: DefendedModel,
    group: list[Detector],
    kept: Tensor,
    apart: Tensor,
    attacked: _Attacked,
    shares: list[float],
    delta: float,
) -> tuple[list[ThresholdRecord], list[Result]]:
    """The rows of one detector, or of several as one, and the assessments they rest on.

    The strictest threshold comes first: an example that it accepts is accepted by all others.
    """
    name = group[0].name if len(group) == 1 else TOGETHER
    seed = attacked.settings["seed"]
    fallen = torch.zeros(len(attacked.x), dtype=torch.bool)
    added: float | None = None
    rows, results = [], []
    for alpha in shares:
        try:
            model = calibrated(base, group, kept, alpha=alpha, delta=delta)
        except Uncalibrated as error:
            rows.append(ThresholdRecord(name, alpha, None, str(error), None, None, None, None, error.needed))
            continue
        if added is None:
            added = 1e3 * added_latency(model, base, apart[:_SERVED])
        refused = _refused(model, apart, seed)
        caught = caught_knowing = None
        if len(attacked.x):
            noticed = _refused(model, attacked.examples, seed)
            fallen |= ~noticed
            harmless = ~_refused(model, attacked.x, seed)
            left = (~fallen & harmless).nonzero().flatten()
            if len(left):
                known = f"{name} at {100 * alpha:g} %"
                result = assess(model, attacked.x[left], attacked.y[left], name=known, **attacked.settings)
                fallen[left] |= torch.from_numpy(result.record.outcomes.status == Status.BROKEN)
                results.append(result)
            caught = _share(noticed)
            caught_knowing = _share(~fallen & harmless)
        guarantee, threshold = model.alarms[0].guarantee, model.alarms[0].threshold
        if len(group) > 1:
            guarantee = _GUARANTEE.format(100 * (1 - delta), 100 * alpha)
        single = threshold if len(group) == 1 else None
        rates = (_share(refused), caught, caught_knowing)
        rows.append(ThresholdRecord(name, alpha, single, guarantee, *rates, added))
    return rows, results


_GUARANTEE = (
    "With {:g} % confidence, at most {:g} % of benign inputs are refused by any of the detectors, as long as benign "
    "traffic is exchangeable with the calibration inputs."
)


def _refused(model: DefendedModel, x: Tensor, seed: int) -> Tensor:
    return answers(model, x, seed).eq(-1 if model.refusal is None else model.refusal)


def _share(flags: Tensor) -> Rate:
    return exact_rate(int(flags.sum()), len(flags))


def _shown(rate: Rate | None) -> str:
    return "not measured" if rate is None else percent(rate)


def _checked_shares(alphas: Sequence[float]) -> list[float]:
    """Each once, the highest first."""
    shares = sorted({float(alpha) for alpha in alphas}, reverse=True)
    if not shares or not all(0.0 < alpha < 1.0 for alpha in shares):
        raise ConfigError(
            f"alphas is {list(alphas)}", "give shares between 0 and 1, for example (0.1, 0.05, 0.01)"
        )
    return shares


def _without_detectors(model: Any) -> DefendedModel:
    found = model if isinstance(model, DefendedModel) else defended(model)
    if not isinstance(found, DefendedModel):
        raise ModelError(
            "detectors look into the network, and this model shows answers only", "give a torch module"
        )
    return defended_network(found.undefended, found.stages) if found.alarms else found
