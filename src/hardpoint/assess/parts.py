"""Which parts of a defended model are looked at by themselves, and what each costs in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.defenses.defended import DefendedModel, Stage, defended_network, described
from hardpoint.defenses.latency import added_latency, latency
from hardpoint.defenses.stage import GradientPath, InputStage
from hardpoint.evidence.defence import PartKind, StackPart

_CROSSED = {
    GradientPath.DIFFERENTIABLE: "autograd",
    GradientPath.STRAIGHT_THROUGH: "straight-through",
    GradientPath.OWN: "own backward",
    GradientPath.PROBED: "probed",
}


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a defended model by itself, or several together.

    Attributes:
        name: of the part.
        kind: where it stands.
        model: the network behind nothing else; a detector stands behind all the stages.
        against: the name of the part without which it is judged; None for the undefended model.
    """

    name: str
    kind: PartKind
    model: DefendedModel
    against: str | None = None


def parts_of(model: DefendedModel) -> tuple[Part, ...]:
    """Every stage alone, all of them, every detector behind them, and all together; nothing twice."""
    base, stages, alarms = model.undefended, model.stages, model.alarms
    names, detectors = _stage_names(model), _detector_names(model)
    if len(stages) + len(alarms) == 1:
        (name,) = names or detectors
        return (Part(name, PartKind.STAGE if stages else PartKind.DETECTOR, model),)
    parts = [
        Part(name, PartKind.STAGE, defended_network(base, [stage]))
        for name, stage in zip(names, stages, strict=True)
    ]
    if alarms and len(stages) > 1:
        parts.append(Part("all stages", PartKind.STACK, defended_network(base, stages)))
    against = parts[-1].name if parts else None
    if len(alarms) > 1:
        behind = " behind them" if stages else ""
        parts += [
            Part(name + behind, PartKind.DETECTOR, defended_network(base, stages, [alarm]), against)
            for name, alarm in zip(detectors, alarms, strict=True)
        ]
    return (*parts, Part("all together", PartKind.STACK, model))


def stack_of(model: DefendedModel) -> tuple[StackPart, ...]:
    """What an input meets on its way to an answer: stages, the network, detectors."""
    network = str(model.undefended.describe().get("name") or "network")
    seen = "autograd" if model.access is Access.GRADIENTS else f"none, {model.access.word} only"
    stages = zip(_stage_names(model), model.stages, strict=True)
    alarms = zip(_detector_names(model), model.alarms, strict=True)
    return (
        *(StackPart(name, PartKind.STAGE, _crossed(stage)) for name, stage in stages),
        StackPart(network, PartKind.NETWORK, seen),
        *(StackPart(name, PartKind.DETECTOR, "autograd", alarm.guarantee) for name, alarm in alarms),
    )


def added_ms(parts: Sequence[Part], x: Tensor) -> list[float]:
    """Milliseconds per input that each of ``parts`` adds to what it is judged against, on the batch ``x``.

    Stages are timed by themselves. A detector reads the network's own pass, so its time is that of a pass with it less
    that of one without. Of several parts the times are added.
    """
    spent: list[float] = []
    for part in parts:
        if part.kind is PartKind.STAGE:
            spent.append(_stage_ms(part, x))
            continue
        alone = zip(parts, spent, strict=False)
        stages = sum(ms for earlier, ms in alone if earlier.kind is PartKind.STAGE)
        own = 0.0
        if part.model.alarms:
            bare = defended_network(part.model.undefended, part.model.stages)
            own = 1e3 * added_latency(part.model, bare, x)
        spent.append(own if part.kind is PartKind.DETECTOR else stages + own)
    return spent


def _stage_ms(part: Part, x: Tensor) -> float:
    (stage,) = part.model.stages
    if _declares(stage):
        return 1e3 * latency(stage, x)
    return 1e3 * added_latency(part.model, part.model.undefended, x)


def _stage_names(model: DefendedModel) -> list[str]:
    return _numbered(str(described(stage)["kind"]) for stage in model.stages)


def _detector_names(model: DefendedModel) -> list[str]:
    return _numbered(alarm.detector.name for alarm in model.alarms)


def _numbered(names: Iterable[str]) -> list[str]:
    """Two of one name are told apart by a number."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


def _crossed(stage: Stage) -> str:
    if not _declares(stage):
        return _CROSSED[GradientPath.PROBED]
    return _CROSSED[stage.gradient] + (", random" if stage.is_random else "")


def _declares(stage: Stage) -> TypeGuard[InputStage]:
    """Whether it says how gradients cross it; torch modules have an ``apply`` of another kind."""
    return isinstance(stage, InputStage) and not isinstance(stage, nn.Module)
