"""A local Ray cluster gives what this process gives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

import hardpoint as hp
from hardpoint.cli.demo.digits import digits_split, trained_digits_network
from hardpoint.core.errors import RunError
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


@pytest.mark.usefixtures("no_panel", "few_queries")
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


def test_a_lost_actor_loses_nothing_and_errors_arrive_whole(tmp_path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    if not loopback_works():
        pytest.skip("Ray needs the loopback network, which is not available")
    marker = tmp_path / "died"

    def work(session: str, piece: int) -> int:
        if piece == 3 and not Path(session).exists():
            Path(session).touch()
            os._exit(9)
        if piece == 9:
            raise RunError("piece 9 is broken", "mend it")
        return -piece

    with RayCluster(2).open(work, str(marker)) as pool:
        assert sorted(pool.run(range(6))) == [(i, -i) for i in range(6)]
        with pytest.raises(RunError, match="piece 9 is broken; mend it"):
            list(pool.run([9]))
