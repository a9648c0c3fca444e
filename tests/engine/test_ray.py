"""A local Ray cluster gives what this process gives."""

from __future__ import annotations

import socket

import pytest
import torch

import hardpoint as hp
from hardpoint.cli.demo.digits import digits_split, trained_digits_network
from hardpoint.engine import RayCluster


def loopback_works() -> bool:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
            with socket.create_connection(probe.getsockname(), timeout=1):
                return True
    except OSError:
        return False


def test_ray_cluster_matches_this_process() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    if not loopback_works():
        pytest.skip("Ray needs the loopback network, which is not available")
    _, (x, y) = digits_split()
    model = trained_digits_network("hardened").double()
    x, y = x[:96].double(), y[:96]
    here = hp.assess(model, x, y, threat=hp.Linf(0.2), progress=False, batch_size=16)
    there = hp.assess(model, x, y, threat=hp.Linf(0.2), progress=False, batch_size=16, workers=RayCluster(2))
    assert torch.equal(here.broken, there.broken)
    assert torch.allclose(here.adversarial, there.adversarial, atol=1e-9)
