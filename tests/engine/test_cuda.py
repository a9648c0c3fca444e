"""The same on a GPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

import hardpoint as hp
from hardpoint.cli.demo.digits import digits_split, trained_digits_network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_gpu_agrees_with_cpu() -> None:
    _, (x, y) = digits_split()
    model = trained_digits_network("hardened")
    here = hp.assess(model, x, y, threat=hp.Linf(0.15), progress=False)
    there = hp.assess(model.cuda(), x.cuda(), y.cuda(), threat=hp.Linf(0.15), progress=False)
    assert float((here.broken == there.broken.cpu()).double().mean()) >= 0.99
    assert there.adversarial.device.type == "cuda"


@pytest.mark.parametrize(
    "attack",
    [
        hp.attacks.PGD(steps=5),
        hp.attacks.APGD(steps=10),
        hp.attacks.MultiTargeted(targets=3, probe_steps=2, top=1, steps=3),
        hp.attacks.Square(queries=20),
        hp.attacks.HopSkipJump(queries=60),
    ],
    ids=lambda a: a.name,
)
@pytest.mark.parametrize(
    "perturbation", [hp.Linf(0.15), hp.L2(0.8), hp.L1(3.0), hp.L0(4)], ids=lambda p: p.name
)
def test_every_attack_runs(attack: object, perturbation: object) -> None:
    _, (x, y) = digits_split()
    result = attack(trained_digits_network("plain").cuda(), x[:32].cuda(), y[:32].cuda(), perturbation)  # type: ignore[operator]
    assert result.adversarial.is_cuda
    assert result.broken.is_cuda
