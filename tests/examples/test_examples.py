"""What the documentation shows runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SMALL = {"traffic_sign_patch": ["5", "1"], "defended_digits": ["12"], "credit_default": ["400", "8", "1"]}
SIGNS = "images/gtsrb/gtsrb_32x32_subset.npz"
ELSEWHERE = ("traffic_signs_under_a_sticker", "face_verification", "chest_xray")  # test_picture_examples
SCRIPTS = sorted(p for p in ROOT.glob("examples/[!_]*.py") if p.stem not in ELSEWHERE)


@pytest.fixture
def a_few_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the traffic signs, where the example looks for them; none, so drawn ones, where there are none."""
    every = Path(os.environ.get("HARDPOINT_DATA", "")) / SIGNS
    monkeypatch.setenv("HARDPOINT_DATA", str(tmp_path))
    if every.exists():
        few = tmp_path / SIGNS
        few.parent.mkdir(parents=True)
        with np.load(every, allow_pickle=False) as arrays:
            np.savez(few, **{name: arrays[name][::10] for name in ("x", "y", "track", "is_test")})


@pytest.mark.usefixtures("a_few_signs")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script), *SMALL.get(script.stem, [])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_adding_an_attack_as_the_guide_shows(tmp_path: Path) -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    code = guide.split("```python\n")[1].split("```")[0]
    script = tmp_path / "guide.py"
    script.write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "import torch\n"
        "from torch import Tensor\n"
        "import hardpoint as hp\n"
        "from hardpoint.attacks.base import StandaloneAttack\n"
        "from hardpoint.attacks.losses import Loss, goal_loss\n"
        "from hardpoint.core.access import Access\n"
        "from hardpoint.core.rows import per_row\n"
        "from hardpoint.engine import Reply, Task\n"
        f"{code}\n"
        "model = torch.nn.Identity().eval()\n"
        "x = torch.rand(32, 2, generator=torch.Generator().manual_seed(0))\n"
        "y = model(x).argmax(1)\n"
        "assert MyAttack()(model, x, y, hp.Linf(1.0)).broken.any()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
