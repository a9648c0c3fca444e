"""On a network whose exact robust accuracy others have proven, with every claim checked by plain torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import hardpoint as hp

DATA = Path(os.environ.get("HARDPOINT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
EPS = 0.1


@pytest.fixture(scope="module")
def wk17a() -> nn.Module:
    weights = DATA / "models" / "mnist_wk17a.pth"
    if not weights.exists():
        pytest.skip(f"{weights} is not there; set HARDPOINT_DATA")
    network = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    network.load_state_dict(hp.models.load_weights(weights))
    return network.eval()


def test_robust_accuracy_of_a_network_with_a_known_value(wk17a: nn.Module) -> None:
    """All 10,000 test images have 95.62 % exactly (Tjeng et al., ICLR 2019); the first 200 must be near it."""
    images = DATA / "images" / "mnist"
    data = hp.data.load_data(
        images / "t10k-images-idx3-ubyte.gz", labels=images / "t10k-labels-idx1-ubyte.gz", limit=200
    )
    x, y = data.rows(torch.arange(200))
    result = hp.assess(wk17a, data, threat=hp.Linf(EPS), progress=False)
    assert 0.93 <= result.robust_accuracy.value <= 0.99
    for positions, examples in result.examples():
        moved = (examples.double() - x[positions].double()).abs().flatten(1).amax(1)
        assert float(moved.max()) <= EPS
        assert float(examples.min()) >= 0
        assert float(examples.max()) <= 1
        with torch.no_grad():
            assert (wk17a(examples).argmax(1) != y[positions]).all()
    with torch.no_grad():
        right = wk17a(x).argmax(1) == y
    assert not bool((~right & ~result.broken).any())
