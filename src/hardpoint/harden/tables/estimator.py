"""``harden_estimator``: refit on what misleads, and keep the fit that holds best."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.assess.assess import as_dataset
from hardpoint.assess.progress import Progress, shown_progress
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.core.rng import Rng, split_rows
from hardpoint.data import Dataset
from hardpoint.engine.attack import Attack
from hardpoint.engine.budget import Budget, Deadline
from hardpoint.evidence.rate import Rate
from hardpoint.harden.harden import refuse_overlap
from hardpoint.harden.tables.examples import Examples
from hardpoint.harden.tables.fitting import is_fitted, wrapped
from hardpoint.harden.tables.gate import GatedClassifier, fixed_features
from hardpoint.harden.tables.measure import measure, measured, strongest_attacks, table_edits
from hardpoint.harden.tables.mixing import worst_rows
from hardpoint.harden.tables.result import Round, TableHardenResult, best_round
from hardpoint.models.sklearn import SklearnModel
from hardpoint.threats.features import FeatureEdits
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

_JUDGED = 200


def harden_estimator(
    estimator: Any,
    x: Any,
    y: Any = None,
    *,
    threat: Threat | Perturbation,
    rounds: int = 6,
    asks: int = 30,
    weight: float = 1.0,
    evading: int | None = None,
    attack: Attack | None = None,
    attacked: int = 300,
    most_lost: float = 0.015,
    gate: float | None = None,
    rest: Any = None,
    validation: float = 0.15,
    test: Dataset | tuple[Any, Any] | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    progress: bool | Progress = True,
) -> TableHardenResult:
    """Refit copies of ``estimator`` on rows that an attacker of a table would send, and keep the one that holds best.

    Each round searches, around every training row, the allowed row that the last fit answers worst
    (``worst_rows``), adds it with the right label to those of the rounds before, and fits anew: all rounds' examples
    together weigh ``weight`` times as much as the clean rows, and no class gains by it. Every example has passed the
    checker of constraints. The kept fit is the most robust on rows held back, under attacks that know it, of those
    that lose at most ``most_lost`` of clean accuracy; that may be the first, without examples.

    With a ``gate``, the kept fit, made once more on all rows, answers only where features that the attacker cannot
    change do not settle the matter (``GatedClassifier``); what they settle is proven.

    Args:
        estimator: a classifier of scikit-learn, LightGBM or XGBoost, or a pipeline of one, fitted or not; numbers as
            columns.
        x: training rows ``[n, d]``, or a ``Dataset`` (``y`` is then left out).
        y: labels ``[n]``, whole numbers from 0.
        threat: what to hold under: ``hp.FeatureEdits(schema, eps)`` with a finite or infinite budget, untargeted.
        rounds: fits after the first; 0 leaves the estimator as it is, which with a ``gate`` is a defence too.
        asks: questions per training row and round.
        weight: of all examples together, the clean rows being 1.
        evading: the class whose rows an attacker changes, such as 1 where 1 is fraud; None where all are. Nobody makes
            an honest payment look like fraud, and a model need not learn to hold against it.
        attack: a further attack that ``attacked`` training rows meet in each round, such as ``MOEVA()``; what it breaks
            is learned from with the weight of a clean row. Rows just beyond the boundary teach less than the worst.
        attacked: how many rows that is.
        most_lost: clean accuracy that the rounds may cost on the rows held back.
        gate: clean accuracy that a gate may cost besides, as cross-fitting estimates it, or None for no gate.
        rest: with a gate, the estimator that answers what is not settled, in the place of a copy of ``estimator``. The
            accuracy that one gains, such as an ensemble of members that differ, the gate may cost as well. It learns
            the rounds' examples too, though these were searched for against copies of ``estimator``.
        validation: share of the rows held back to choose the round; up to 200 of them are attacked.
        test: rows and labels that are not trained on, for the measurements before and after. Before is ``estimator``
            as it is where it is fitted, else the first fit.
        seed: of every draw.
        budget: ``seconds`` after which no further round begins; ``queries``, an upper limit on ``asks``.
        progress: whether to show progress on stderr, or a ``Progress`` of your own.

    Raises:
        HardpointError: when estimator, rows, threat or settings cannot be used.

    Adversarial training by refitting after Kantchelian, Tygar and Joseph, "Evasion and hardening of tree ensemble
    classifiers" (ICML 2016), section 5, with the worst valid rows instead of the nearest.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from hardpoint.threats.features import Feature, Schema
    >>> x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    >>> edits = FeatureEdits(Schema([Feature("a"), Feature("b")]), eps=0.1)
    >>> tree = DecisionTreeClassifier(max_depth=3)
    >>> done = harden_estimator(tree, x, (x[:, 0] > 0.5).long(), threat=edits, rounds=1, asks=5, progress=False)
    >>> len(done.history), done.history[1].refused
    (2, 0)
    """
    edits = table_edits(threat)
    if rest is not None and gate is None:
        raise ConfigError("rest is given without a gate", "give gate=0.015 too, or harden rest itself")
    _check(rounds, asks, weight, attacked, most_lost, validation)
    data = as_dataset(x, y)
    held_out = None if test is None else as_dataset(*test) if isinstance(test, tuple | list) else test
    if held_out is not None:
        refuse_overlap(data, held_out)
    rows, labels = data.rows(torch.arange(len(data)))
    if rows.dim() != 2:
        raise DataError(f"the inputs have shape {list(rows.shape[1:])}", "give rows of a table")
    if evading is not None and not bool((labels == evading).any()):
        raise DataError(f"no row has the class {evading!r} that evades", "give one of the labels")
    gated = None
    if gate is not None:
        gated = GatedClassifier(estimator, fixed_features(edits), most_lost=gate, seed=seed, rest=rest)
        gated.check(rows, labels)
    limit = budget.queries if budget is not None else None
    deadline = Deadline.after(None if budget is None else budget.seconds)
    with shown_progress(progress) as display:
        learner = _Learner(
            estimator,
            *_held_back(rows, labels, edits, validation, seed),
            edits,
            weight,
            evading,
            seed,
            display,
        )
        first, models = learner.plain()
        history, examples = [first], Examples.none(rows)
        for number in range(1, rounds + 1):
            if deadline.passed:
                break
            examples, fallen = learner.searched(
                models[-1], examples, number, min(asks, limit or asks), attack, attacked
            )
            known, model = learner.refitted(examples, number, fallen)
            history.append(known)
            models.append(model)
        kept = best_round(tuple(history), most_lost)
        model = models[kept.number]
        if gated is not None:
            every, all_y = torch.cat([learner.x, learner.held_x]), torch.cat([learner.y, learner.held_y])
            model = SklearnModel(gated.fit(every, all_y, examples.only(slice(kept.examples)), weight))
        before = after = certified = None
        if held_out is not None:
            shown = held_out.rows(torch.arange(len(held_out)))
            own = wrapped(estimator) if is_fitted(estimator) else None
            before = measure(own or models[0], *shown, threat=edits, evading=evading, seed=seed)
            after = measure(model, *shown, threat=edits, evading=evading, seed=seed)
            certified = _certified(model, *shown)
    return TableHardenResult(model.estimator, tuple(history), kept, before, after, certified)


@dataclass(frozen=True)
class _Learner:
    """What is fitted, on which rows, judged on which."""

    estimator: Any
    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    edits: FeatureEdits
    weight: float
    evading: int | None
    seed: int
    display: Progress

    def plain(self) -> tuple[Round, list[SklearnModel]]:
        """The fit without examples."""
        known, model = self.refitted(Examples.none(self.x), 0, 0.0)
        return known, [model]

    def searched(
        self,
        model: SklearnModel,
        examples: Examples,
        number: int,
        asks: int,
        attack: Attack | None,
        attacked: int,
    ) -> tuple[Examples, float]:
        """The examples and those that ``model`` is misled by, and on what share of the rows it is."""
        own = _who_evade(self.y, self.evading)
        self.display.begin(f"round {number}: searching", len(own))
        rng = Rng(self.seed).fork("round").fork(number)
        z, lead = worst_rows(model, self.x[own], self.y[own], self.edits, self.x, asks=asks, rng=rng)
        moved = (z != self.x[own]).any(1)
        rows, z = own[moved], z[moved]
        examples = examples.and_those(z, self.y[rows], rows, self._allowed(rows, z, model))
        if attack is not None:
            order = rng.fork("attacked").uniform(own, dtype=torch.float64).argsort()
            rows = own[order[:attacked]]
            found = measured(model, self.x[rows], self.y[rows], self.edits, (attack,), self.seed)
            fell = torch.from_numpy(found.outcomes.stage >= 0)
            rows, z = rows[fell], found.adversarial[fell]
            allowed = self._allowed(rows, z, model)
            examples = examples.and_those(z, self.y[rows], rows, allowed, alone=True)
        fallen = float((lead > 0).double().mean())
        self.display.end(f"misled on {100 * fallen:.1f} % of the rows")
        return examples, fallen

    def _allowed(self, rows: Tensor, z: Tensor, model: SklearnModel) -> Tensor:
        """Bool ``[k]``: what the checker of constraints says of ``z``, made from the training rows ``rows``."""
        return self.edits.around(self.x[rows], model.box).contains(z)

    def refitted(self, examples: Examples, number: int, fallen: float) -> tuple[Round, SklearnModel]:
        """A fit on the clean rows and the examples, judged on the rows held back."""
        began = time.monotonic()
        self.display.begin(f"round {number}: fitting", len(self.x) + len(examples.x))
        model = examples.learned(self.estimator, self.x, self.y, self.weight)
        right = model.predict(self.held_x) == self.held_y
        clean = Rate.of(int(right.sum()), len(right))
        judged = _who_evade(self.held_y, self.evading)[:_JUDGED]
        few = (self.held_x[judged], self.held_y[judged])
        robust = measured(
            model, *few, self.edits, strongest_attacks(model, quick=True), self.seed
        ).robust_accuracy
        spent = time.monotonic() - began
        self.display.end(f"on rows held back, clean {clean}, robust {robust}")
        return Round(number, len(examples.x), examples.refused, fallen, clean, robust, spent), model


def _who_evade(y: Tensor, evading: int | None) -> Tensor:
    """The numbers of the rows that an attacker changes."""
    return (torch.ones_like(y) if evading is None else y == evading).nonzero().squeeze(1)


def _held_back(
    x: Tensor, y: Tensor, edits: FeatureEdits, share: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows to learn from, and rows to judge by; the latter valid, as an attacker can do nothing to others."""
    valid = edits.schema.check(x)
    if not bool(valid.any()):
        first = edits.schema.violations(x[:1])[0]
        raise DataError(f"no row is valid under the schema: {first[0]}", "correct the schema or the rows")
    rows, held = split_rows(len(x), share, Rng(seed).fork("validation"))
    if len(rows) == 0 or not bool(valid[held].any()):
        raise DataError(f"{len(x)} rows leave none to judge by", "give more rows, or a larger validation")
    order = held[Rng(seed).fork("judged").uniform(held, dtype=torch.float64).argsort()]
    held = order[valid[order]]
    return x[rows], y[rows], x[held], y[held]


def _certified(model: SklearnModel, x: Tensor, y: Tensor) -> Rate | None:
    """The rows that the gate answers right."""
    if not isinstance(model.estimator, GatedClassifier):
        return None
    proven = torch.from_numpy(model.estimator.certified(x.numpy())) & (model.predict(x) == y)
    return Rate.of(int(proven.sum()), len(x))


def _check(rounds: int, asks: int, weight: float, attacked: int, most_lost: float, validation: float) -> None:
    for word, value, least in (("rounds", rounds, 0), ("asks", asks, 1), ("attacked", attacked, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{word} is {value!r}", f"give a whole number of {least} or more")
    if not 0 < weight < float("inf"):
        raise ConfigError(f"weight is {weight!r}", "give a finite number above 0")
    for word, share in (("most_lost", most_lost), ("validation", validation)):
        if not 0 <= share < 1 or (word == "validation" and share == 0):
            raise ConfigError(f"{word} is {share!r}", "give a share of the rows")
