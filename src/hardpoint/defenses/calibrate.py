"""Thresholds for a defended model's detectors, from benign inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError, DataError, ModelError
from hardpoint.defenses.alarm import Alarm
from hardpoint.defenses.calibration import pac_threshold
from hardpoint.defenses.defended import DefendedModel, defended_network
from hardpoint.defenses.seen import Detector, layers_of
from hardpoint.engine.guard import preserved_random_state


def calibrated(
    model: DefendedModel,
    detectors: Sequence[Detector],
    x: Tensor,
    *,
    alpha: float = 0.01,
    delta: float = 0.05,
) -> DefendedModel:
    """``model`` with ``detectors``, each with a threshold at which few benign inputs are refused.

    With probability ``1 - delta`` over the draw of ``x``, at most a share ``alpha`` of benign inputs like ``x`` is
    refused by any of the detectors: each gets an equal part of both (Bonferroni), so nothing is assumed about how they
    depend on one another.

    Args:
        model: stages and network; detectors it has already are replaced.
        detectors: fitted on other inputs than ``x``.
        x: benign inputs ``[n, ...]`` like those that will be served, which nothing was fitted on.
        alpha: the share that may be refused.
        delta: how often the draw of ``x`` may mislead.

    Raises:
        ConfigError: without a detector.
        Uncalibrated: where ``x`` is too few for ``alpha``, naming how many are needed.
    """
    detectors, x = checked_detectors(detectors), checked_benign(x)
    if not isinstance(model, DefendedModel):
        raise ModelError(
            f"{type(model).__name__} is no defended network", "give what hp.Defended(network) returns"
        )
    with preserved_random_state():  # the model may draw
        seen = model.look(x, layers_of(detectors))
    top = seen.logits.topk(2, dim=1).values
    lead = float((top[:, 0] - top[:, 1]).median())
    alarms, share = [], len(detectors)
    for detector in detectors:
        with torch.no_grad(), preserved_random_state():
            scores = detector.score(seen)
        threshold = pac_threshold(scores, alpha / share, delta / share)
        spread = float((threshold.value - scores.double()).clamp_min(0).median())
        unit = spread / lead if spread > 0 and lead > 0 else 1.0
        alarms.append(Alarm(detector, threshold.value, seen.logits.shape[1], unit, threshold.guarantee))
    return defended_network(model.undefended, model.stages, alarms)


def checked_detectors(detectors: Sequence[Detector]) -> list[Detector]:
    """At least one; ``ConfigError`` otherwise."""
    if isinstance(detectors, Detector):
        raise ConfigError("detectors is one detector", "give a list of them: [detector]")
    if not detectors:
        raise ConfigError("there is no detector to calibrate", "give at least one")
    return list(detectors)


def checked_benign(x: Tensor) -> Tensor:
    """A batch of floating-point numbers; ``DataError`` otherwise."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0 or len(x) == 0:
        raise DataError("the benign inputs are no batch of floating-point numbers", "give a tensor [n, ...]")
    return x
