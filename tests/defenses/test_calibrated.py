"""Detectors with thresholds from benign inputs: few of them are refused, and too few to know are an error."""

from __future__ import annotations

import pytest
import torch

import hardpoint as hp
from hardpoint.core.errors import ConfigError
from hardpoint.defenses import BitDepth, calibrated
from hardpoint.defenses.calibration import Uncalibrated
from hardpoint.defenses.detectors import Energy, Mahalanobis, Margin
from small_models import labelled, mlp, rand


def test_no_more_benign_inputs_are_refused_than_was_said():
    net = mlp()
    fit, held, fresh = (rand(n, 8, seed=s) for n, s in ((500, 1), (4000, 2), (20_000, 3)))
    stages = hp.Defended(net, [BitDepth(bits=6)])
    nearest = Mahalanobis.fit(stages.look(fit, ("3",)), labelled(net, fit), "3")
    model = calibrated(stages, [Energy(), Margin(), nearest], held, alpha=0.05, delta=0.05)
    refused = (model.predict(fresh) == model.refusal).double().mean()
    assert 0.01 < refused <= 0.05
    assert [a.detector.name for a in model.alarms] == ["energy", "margin", "Mahalanobis at 3"]
    assert all("98.3333 % confidence" in a.guarantee for a in model.alarms)


def test_too_few_benign_inputs_give_no_threshold():
    stages = hp.Defended(mlp())
    with pytest.raises(Uncalibrated, match="at least n = 368"):
        calibrated(stages, [Energy(), Margin()], rand(367, 8), alpha=0.02, delta=0.05)
    with pytest.raises(ConfigError, match="no detector"):
        calibrated(stages, [], rand(367, 8))


def test_what_detectors_are_shown_does_not_depend_on_the_batch():
    stages, x = hp.Defended(mlp(), [BitDepth(bits=4)]), rand(300, 8)
    whole = stages.look(x, ("1", "3"))
    parts = [stages.look(part, ("1", "3")) for part in x.split(7)]
    assert torch.allclose(whole.logits, torch.cat([p.logits for p in parts]), atol=1e-6)
    assert torch.allclose(whole.features["3"], torch.cat([p.features["3"] for p in parts]), atol=1e-6)
    assert torch.equal(whole.x, torch.round(x * 15) / 15)
