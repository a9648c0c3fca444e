"""What all tests share: a cache folder of their own, and property tests that are the same on every run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # small_models, also for worker processes

settings.register_profile("hardpoint", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("hardpoint")


# Test workers share the machine: two that each keep all cores busy wait for one another most of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Plans of fast copies are remembered here, not in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def no_panel(monkeypatch):
    """Assessments without the checks of their own strength, which have their own tests and take their time."""
    from hardpoint.assess import run
    from hardpoint.assess.panel import Strength

    monkeypatch.setattr(run, "measure_strength", lambda *_: Strength())


@pytest.fixture
def few_queries(monkeypatch):
    """Assessments whose random search asks 300 times, one after the other, and not thousands of times.

    The search of 200 queries that checks their strength stays another one.
    """
    from hardpoint.assess.arsenal import balls
    from hardpoint.attacks import Memetic, Square

    monkeypatch.setattr(
        balls, "Square", lambda queries, **settings: Square(queries=min(queries, 300), **settings)
    )
    monkeypatch.setattr(balls, "Memetic", lambda: Memetic(rounds=2, queries=100, steps=10))
