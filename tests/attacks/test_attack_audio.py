"""Inputs shaped like audio, ``[n, samples]``, in every norm and with every norm attack."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hardpoint import Threat
from hardpoint.attacks import APGD, FGSM, PGD, HopSkipJump, MultiTargeted, Square
from hardpoint.models.torch import TorchModel
from hardpoint.threats import L0, L1, L2, SNR, Linf
from small_models import labelled, linear, rand, seeded

SAMPLES = 400
BALLS = [Linf(0.03), L2(1.0), L1(10.0), L0(20), SNR(12)]
ATTACKS = [
    FGSM(),
    PGD(steps=15),
    APGD(steps=15),
    MultiTargeted(targets=2, probe_steps=3, top=1, steps=10),
    Square(queries=150),
    HopSkipJump(queries=150),
]


def tones(n: int = 8):
    """Short tones and a net that tells them apart by what a bank of short filters hears."""
    time = torch.arange(SAMPLES) / 100.0
    pitch = 3 + 30 * rand(n, 1, seed=1)
    x = 0.4 * torch.sin(2 * math.pi * (pitch * time + rand(n, 1, seed=2)))
    net = seeded(
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, SAMPLES)),
            nn.Conv1d(1, 8, 16, 4),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(4),
            nn.Flatten(),
            nn.Linear(32, 3),
        )
    ).eval()
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)
    return TorchModel(net, input_range=(-1, 1)), x, labelled(net, x)


@pytest.mark.parametrize("ball", BALLS, ids=lambda b: b.name)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_every_norm_attack_takes_signals(attack, ball):
    model, x, y = tones()
    result = attack(model, x, y, Threat(ball, access=attack.needs))
    assert result.adversarial.shape == x.shape
    assert ball.around(x, model.box).contains(result.adversarial).all()
    assert torch.equal(model.predict(result.adversarial) != y, result.broken)
    if not isinstance(attack, HopSkipJump | FGSM) and not isinstance(ball, L0):
        assert result.broken.any()


def test_the_ratio_that_breaks_a_linear_model_is_exact():
    """The nearest point lies at |margin| / |w|; in decibels below the signal that is the SNR it takes."""
    w = torch.sin(torch.arange(SAMPLES, dtype=torch.float64) / 7)
    _, x, _ = tones(4)
    x = x.double()
    model = TorchModel(linear(torch.stack([torch.zeros_like(w), w])), input_range=(-10, 10))
    y = model.predict(x)
    need = 20 * torch.log10(x.norm(dim=1) / ((x @ w).abs() / w.norm()))
    for row in range(4):
        for away, falls in ((0.01, False), (-0.01, True)):
            threat = SNR(float(need[row]) + away)
            result = PGD(steps=40, random_start=False)(model, x[row : row + 1], y[row : row + 1], threat)
            assert bool(result.broken) is falls
            if falls:
                assert math.isclose(-20 * math.log10(float(result.distance)), float(need[row]), abs_tol=0.02)
