"""A model behind its defences, which is a model again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import AccessDenied, ModelError
from hardpoint.core.rows import chunks
from hardpoint.defenses.alarm import Alarm, with_refusal
from hardpoint.defenses.layer import as_layer
from hardpoint.defenses.looking import look, look_through, taps_of
from hardpoint.defenses.seen import Detector, Seen, join, layers_of
from hardpoint.defenses.stage import InputStage
from hardpoint.models.base import Differentiable, Model, refusal_of
from hardpoint.models.loading import load_model
from hardpoint.models.torch import weights_sha256

_CHUNK = 256
Stage = InputStage | nn.Module | Callable[[Tensor], Tensor]


class DefendedModule(nn.Module):
    """Input stages, then the network, then the detectors' verdict as one more column of scores."""

    def __init__(self, stages: Sequence[nn.Module], model: Differentiable, alarms: Sequence[Alarm]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.network = model.module
        self.alarms = tuple(alarms)
        self._taps = taps_of(self.network, layers_of(alarm.detector for alarm in self.alarms))
        self._read = model.module_scores
        self.training = model.module.training

    def forward(self, x: Tensor) -> Tensor:
        if not self.alarms:
            return self._read(self.network(self._shown(x)))
        seen = look_through(self.network, self._shown(x), self._taps, self._read)
        for alarm in self.alarms:
            if alarm.classes != seen.logits.shape[1]:
                raise ModelError(
                    f"{alarm.detector.name} was calibrated on a model of {alarm.classes} classes, "
                    f"this one has {seen.logits.shape[1]}",
                    "calibrate it on this model",
                )
        return with_refusal(seen, self.alarms)

    def seen(self, x: Tensor, layers: Sequence[str]) -> Seen:
        """What detectors are shown of ``x``: the input behind the stages, and one pass of the network over it."""
        return look(self.network, self._shown(x), layers, read=self._read, allow_training=None)

    def _shown(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


@dataclass(frozen=True, eq=False)
class DefendedModel:
    """A defended network; made by ``defended``.

    Attributes:
        module: what is attacked: stages, network and detectors in one.
        undefended: the model without them.
        stages, alarms: the defences.
        refusal: the answer that says that an input is refused, one more behind all classes; None without alarms.
    """

    module: DefendedModule
    undefended: Differentiable
    stages: tuple[Stage, ...]
    alarms: tuple[Alarm, ...]
    refusal: int | None

    @property
    def access(self) -> Access:
        return self.undefended.access

    @property
    def box(self) -> Box:
        return self.undefended.box

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        device = getattr(self.undefended, "device", None)
        return device if isinstance(device, torch.device) else torch.device("cpu")

    def module_scores(self, output: Any) -> Tensor:
        scores: Tensor = output
        return scores

    def scores(self, x: Tensor) -> Tensor:
        if self.access < Access.SCORES:
            raise AccessDenied("this model offers labels only", 'use a threat with access="labels"')
        return self._scores(x)

    def predict(self, x: Tensor) -> Tensor:
        return self._scores(x).argmax(1)

    def _scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.module_scores(self.module(x.to(self.device))).to(x.device)

    def look(self, x: Tensor, layers: Sequence[str] = ()) -> Seen:
        """What detectors are shown of ``x`` ``[n, ...]``, to fit them on: without gradients, in batches."""
        with torch.no_grad():
            return join(self.module.seen(part.to(self.device), layers) for part in chunks(x, _CHUNK))

    def describe(self) -> dict[str, Any]:
        return {
            **self.undefended.describe(),
            "defences": [described(stage) for stage in self.stages],
            "defences_sha256": weights_sha256(self.module.stages),
            "detectors": [alarm.describe() for alarm in self.alarms],
        }


@dataclass(frozen=True, eq=False)
class DefendedAnswers:
    """Input stages before a model that has no module to see through; made by ``defended``."""

    undefended: Model
    stages: tuple[Stage, ...]

    @property
    def refusal(self) -> int | None:
        """As the model's."""
        return refusal_of(self.undefended)

    @property
    def access(self) -> Access:
        return min(self.undefended.access, Access.SCORES)

    @property
    def box(self) -> Box:
        return self.undefended.box

    def scores(self, x: Tensor) -> Tensor:
        return self.undefended.scores(self._shown(x))

    def predict(self, x: Tensor) -> Tensor:
        return self.undefended.predict(self._shown(x))

    def describe(self) -> dict[str, Any]:
        return {
            **self.undefended.describe(),
            "defences": [described(stage) for stage in self.stages],
        }

    def _shown(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for stage in self.stages:
                x = stage.apply(x) if isinstance(stage, InputStage) else stage(x)
        return x


def defended(
    model: Any, stages: Sequence[Stage] = (), *, detectors: Sequence[Alarm] = ()
) -> DefendedModel | DefendedAnswers:
    """``model`` behind input stages and detectors: a model again, which is assessed, calibrated or defended further.

    Gradients cross each stage as it declares; what says nothing is probed by the checks before an assessment. Where
    there are detectors, the scores have one more column: an input is refused where that is the highest, which is
    exactly where a detector's score exceeds its threshold. An attacker who knows must then be misclassified *and*
    accepted, and the margin that attacks climb says how far an input is from both at once.

    Args:
        model: a torch module in evaluation mode, or any model.
        stages: applied in this order; input stages, torch modules, or functions of a batch.
        detectors: with their thresholds, as ``calibrated`` gives them; they see what the network sees.

    Raises:
        ModelError: for detectors before a model that has no module.

    >>> from hardpoint.defenses import BitDepth
    >>> net = torch.nn.Linear(4, 3).eval()
    >>> model = defended(net, [BitDepth(bits=3)])
    >>> model.scores(torch.rand(2, 4)).shape
    torch.Size([2, 3])
    """
    for given, word in ((stages, "stages"), (detectors, "detectors")):
        if isinstance(given, nn.Module | InputStage | Alarm | Detector):
            raise ModelError(
                f"{word} is one {type(given).__name__}", f"give a list: [{type(given).__name__}(...)]"
            )
    base = load_model(model)
    if isinstance(base, Differentiable):
        return defended_network(base, stages, detectors)
    if detectors:
        raise ModelError(
            "detectors look into the network, and this model shows answers only", "give a torch module"
        )
    for stage in stages:
        as_layer(stage)  # refuses what is none
    return DefendedAnswers(base, tuple(stages))


def defended_network(
    model: Differentiable, stages: Sequence[Stage], alarms: Sequence[Alarm] = ()
) -> DefendedModel:
    """``defended`` for a model with a module."""
    for alarm in alarms:
        if not isinstance(alarm, Alarm):
            raise ModelError(
                f"{type(alarm).__name__} has no threshold",
                "use hardpoint.defenses.calibrated(model, [...], benign)",
            )
    refusal = refusal_of(model)
    if alarms and refusal is not None:
        raise ModelError(
            "detectors were put before a model that has detectors",
            "put all stages and detectors before the network at once",
        )
    module = DefendedModule([as_layer(stage) for stage in stages], model, alarms)
    refusal = alarms[0].classes if alarms else refusal
    return DefendedModel(module, model, tuple(stages), tuple(alarms), refusal)


def described(stage: Stage) -> dict[str, Any]:
    """JSON-ready: what a stage is."""
    if not isinstance(stage, nn.Module) and isinstance(stage, InputStage):
        return stage.describe()
    return _told(stage)


def _told(stage: Any) -> dict[str, Any]:
    told = {"kind": getattr(stage, "__name__", type(stage).__name__)}
    code = getattr(stage, "__code__", None)
    if code is not None:  # two functions of one name, or of none, are not the same defence
        told["code"] = hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()[:16]
    return told


Defended = defended
"""The noun, for the front of the package: ``hp.Defended(model, [...])`` is a model."""
