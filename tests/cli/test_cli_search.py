"""``hardpoint search`` as it is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.cli.exits import Exit
from hardpoint.cli.main import main
from hardpoint.evidence import RunFolder
from hardpoint.harden.search import trying
from hardpoint.models import load_model
from quick_judge import judged_by_accuracy

pytest.importorskip("optuna")

NET = """
from torch import nn


def make():
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
"""
TOML = """
[search]
trials = 1
judged = 10
weights = 60
operations = 60

[harden]
epochs = 1
batch_size = 32
validation = 0.1
"""
WORDS = [
    "search",
    "--model",
    "net.py:make",
    "--train",
    "train.npz",
    "--data",
    "test.npz",
    "--threat",
    "linf:0.02",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw = np.random.default_rng(0)
    for name, n in (("train", 96), ("test", 20)):
        x = draw.random((n, 2), dtype=np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(np.int64))
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "hardpoint.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    monkeypatch.setattr(trying, "assess", judged_by_accuracy)
    return tmp_path


def test_it_leaves_a_network_its_weights_and_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--out", "run", "--json"]) == Exit.PASS
    told = json.loads(capsys.readouterr().out)
    record = RunFolder(folder / "run").search()
    assert record is not None
    assert (
        [trial["number"] for trial in told["search"]["trials"]] == [t.number for t in record.trials] == [0, 1]
    )
    assert record.weights == record.operations == 60
    model = load_model(f"{told['architecture']}:make", weights=told["weights"])
    assert model.predict(torch.rand(3, 2)).shape == (3,)
    page = (folder / "run" / "report.html").read_text()
    assert "The search" in page
    assert "baseline ·" in page
    assert main([*WORDS, "--out", "run", "--resume", "-q"]) == Exit.PASS  # nothing is left to do
    assert "found:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*WORDS, "--threat", "linf:0.1"], "2 threats are given"),
        ([*WORDS, "--trials", "0"], "trials"),
        ([*WORDS, "--recipe", "nothing"], "kind 'nothing' is unknown"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words) == Exit.USAGE
    assert said in capsys.readouterr().err
    assert not (folder / "runs").exists()
