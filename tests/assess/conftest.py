"""What tests of assessments share."""

from __future__ import annotations

import pytest

from hardpoint.assess import run
from hardpoint.assess.panel import Strength


@pytest.fixture
def no_panel(monkeypatch):
    """Assessments without the checks of their own strength, which have their own tests and take their time."""
    monkeypatch.setattr(run, "measure_strength", lambda *_: Strength())
