"""What the page on certificates shows runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
PAGE = Path(__file__).parents[3] / "docs" / "patches-poison-trees.md"


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    with torch.random.fork_rng(devices=[]):
        for part in PAGE.read_text().split("```python\n")[1:]:
            exec(compile(part.split("```")[0], str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert said.count("%") >= 10
    assert "broken" in said
