"""What each part of a defence is worth: against an attacker who does not know it, and against one who does."""

from __future__ import annotations

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
from hardpoint.core.errors import ModelError
from hardpoint.defenses.defended import DefendedModel, defended_network, described
from hardpoint.engine.budget import Budget
from hardpoint.evidence.defence import Worth
from hardpoint.evidence.rate import Rate
from hardpoint.models.base import Model, refusal_of
from hardpoint.threats.goals import Untargeted
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat


@dataclass(frozen=True)
class PartRow:
    """One part of a defence by itself, or the whole.

    Attributes:
        name: of the part.
        clean: inputs answered right, and accepted, without an attack.
        naive: those that stand against examples made for the undefended model. Never to be read without the next.
        adaptive: those that stand against an attacker who knows the part.
        worth: what the difference to the undefended model says; of a detector, that to the stages without it.
        result: the adaptive assessment.
    """

    name: str
    clean: Rate
    naive: Rate
    adaptive: Rate
    worth: Worth
    result: Result

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        rates = {name: getattr(self, name).describe() for name in ("clean", "naive", "adaptive")}
        return {"name": self.name, **rates, "worth": self.worth.value}


@dataclass(frozen=True)
class Ablation:
    """The undefended model, every part alone, and all together."""

    undefended: Result
    parts: tuple[PartRow, ...]

    @property
    def whole(self) -> PartRow:
        """All parts together."""
        return self.parts[-1]

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        alone = self.undefended
        rates = {"clean": alone.clean_accuracy.describe(), "adaptive": alone.robust_accuracy.describe()}
        return {"undefended": rates, "parts": [part.describe() for part in self.parts]}

    def __str__(self) -> str:
        """A table; the naive number never stands without the adaptive one."""
        rows = [("part", "clean", "naive", "adaptive", "worth")]
        alone = self.undefended
        bare = percent(alone.robust_accuracy)
        rows.append(("undefended", percent(alone.clean_accuracy), bare, bare, ""))
        rows += [
            (p.name, percent(p.clean), percent(p.naive), percent(p.adaptive), p.worth.value)
            for p in self.parts
        ]
        return aligned(rows)


HIDDEN = 0.1
"""A part that adds nothing and whose naive number is higher than the adaptive one by this much hides."""


def ablate(
    model: DefendedModel,
    x: Tensor,
    y: Tensor,
    *,
    threat: Threat | Perturbation,
    mode: Mode | str = "fast",
    seed: int = 0,
    budget: Budget | None = None,
    progress: bool | Progress = True,
    batch_size: int | None = None,
) -> Ablation:
    """Assess a defended model without its defences, with each of them alone, and with all.

    Args:
        model: what ``hp.Defended`` made of a network.
        x, y, threat, mode, seed, budget, progress, batch_size: as for ``assess``.

    Raises:
        ModelError: for a model without defences.
        HardpointError: as ``assess``.
    """
    if not isinstance(model, DefendedModel) or not (model.stages or model.alarms):
        raise ModelError("there is no defence to take apart", "give what hp.Defended(network, [...]) returns")
    x, y = torch.as_tensor(x), torch.as_tensor(y).flatten()
    settings: dict[str, Any] = {"threat": threat, "mode": mode, "seed": seed, "progress": progress}
    settings |= {"budget": budget, "batch_size": batch_size}

    def judged(name: str, part: DefendedModel, without: Result) -> PartRow:
        result = assess(part, x, y, name=name, **settings)
        standing = _standing(part, x, alone.adversarial, y, Threat.of(threat), seed)
        naive = Rate.of(int(standing.sum()), len(y))
        worth = _worth(without.broken, result.broken, naive)
        return PartRow(name, result.clean_accuracy, naive, result.robust_accuracy, worth, result)

    base, stages, alarms = model.undefended, model.stages, model.alarms
    alone = assess(base, x, y, name="undefended", **settings)
    if len(stages) + len(alarms) == 1:
        return Ablation(alone, (judged(_name_of(model), model, alone),))
    rows = [judged(str(described(s)["kind"]), defended_network(base, [s]), alone) for s in stages]
    if alarms and len(stages) > 1:
        rows.append(judged("all stages", defended_network(base, stages), alone))
    without = rows[-1].result if rows else alone
    behind = " behind them" if stages else ""
    if len(alarms) > 1:
        rows += [
            judged(a.detector.name + behind, defended_network(base, stages, [a]), without) for a in alarms
        ]
    return Ablation(alone, (*rows, judged("all together", model, alone)))


def _name_of(model: DefendedModel) -> str:
    return model.alarms[0].detector.name if model.alarms else str(described(model.stages[0])["kind"])


def _standing(part: Model, x: Tensor, adversarial: Tensor, y: Tensor, threat: Threat, seed: int) -> Tensor:
    """Bool ``[n]``: answered right as they are, and not led astray by examples that were made for another model."""
    goal = Untargeted(refusal=refusal_of(part)) if isinstance(threat.goal, Untargeted) else threat.goal
    return (answers(part, x, seed) == y) & ~goal.reached(answers(part, adversarial, seed), y)


def _worth(broken_without: Tensor, broken_with: Tensor, naive: Rate) -> Worth:
    """An exact one-sided sign test on the inputs about which the two differ (McNemar 1947)."""
    from scipy.stats import binom

    won = int((broken_without & ~broken_with).sum())
    lost = int((broken_with & ~broken_without).sum())

    def beyond_chance(more: int) -> bool:
        return float(binom.sf(more - 1, won + lost, 0.5)) < 0.05

    if won > lost and beyond_chance(won):
        return Worth.ADDS
    if naive.value - float((~broken_with).double().mean()) >= HIDDEN:
        return Worth.HIDES
    return Worth.HARMS if lost > won and beyond_chance(lost) else Worth.NOTHING
