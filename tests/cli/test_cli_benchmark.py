"""``hardpoint benchmark``: one file, many models, one page; nothing done twice."""

from __future__ import annotations

import json

import pytest

from hardpoint.cli.main import main

MODULE = """
import torch

def make(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()

def one(): return make(0)
def two(): return make(1)
def odd(): return torch.nn.Sequential(torch.nn.Linear(3, 2)).eval()
"""
FILE = """
[data]
load = "digits.npz"
[[threats]]
kind = "linf"
eps = 0.02
[[models]]
name = "one"
load = "board_models:one"
[[models]]
name = "two"
load = "board_models:{second}"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import numpy as np
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "board_models.py").write_text(MODULE)
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(tmp_path / "digits.npz", x=x, y=np.arange(40) % 10)
    (tmp_path / "models.toml").write_text(FILE.format(second="two"))
    yield tmp_path
    import sys

    sys.modules.pop("board_models", None)
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]


def test_a_board_is_written_and_nothing_is_done_twice(folder, capsys):
    assert main(["benchmark", "models.toml", "--quiet", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert {m["name"] for m in first["models"]} == {"one", "two"}
    runs = folder / "runs" / "models"
    assert {p.name for p in runs.iterdir()} == {
        "one",
        "two",
        "leaderboard.html",
        "leaderboard.json",
        "models.toml",
    }
    done = {p: p.stat().st_mtime_ns for p in runs.glob("*/assessments/*/units/*.npz")}
    assert done
    assert main(["benchmark", "models.toml", "--quiet", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["models"] == first["models"]
    assert {p: p.stat().st_mtime_ns for p in runs.glob("*/assessments/*/units/*.npz")} == done


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[model]\nload='a:b'\n", "no [[models]]"),
        (FILE.format(second="odd"), "fails on inputs"),
        (FILE.format(second="three"), "three"),
        (FILE.format(second="two").replace('name = "two"', 'name = "one"'), "two models are called"),
        (FILE.format(second="two") + "\nsped = 1\n", "sped"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(folder, capsys, text, told):
    (folder / "models.toml").write_text(text)
    assert main(["benchmark", "models.toml", "--quiet"]) == 2
    assert told in capsys.readouterr().err
    assert not (folder / "runs").exists()
