"""``hardpoint harden`` against several threats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardpoint.cli.exits import Exit
from hardpoint.cli.main import main
from hardpoint.evidence import RunFolder

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
"""
WORDS = [
    "harden",
    "--model",
    "net_of_two:make",
    "--train",
    "train.npz",
    "--data",
    "test.npz",
    "--epochs",
    "1",
]
NAMES = ["before-linf-0.05", "after-linf-0.05", "before-l2-0.1", "after-l2-0.1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_panel: None, few_queries: None) -> Path:
    draw = np.random.default_rng(0)
    for name, n in (("train", 64), ("test", 24)):
        x = draw.random((n, 2), dtype=np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(np.int64))
    (tmp_path / "net_of_two.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def threats(first: str = "", second: str = "") -> list[str]:
    return ["--threat", f"linf:0.05{first}", "--threat", f"l2:0.1{second}"]


def test_all_threats_are_in_one_run_and_on_one_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*WORDS, *threats("@gate=0", "@gate=1"), "--out", "run", "--json"])
    told = json.loads(capsys.readouterr().out)
    run = RunFolder(folder / "run")
    assert code == told["exit_code"] == Exit.GATE_FAILED  # of one threat alone
    assert run.names() == [a["name"] for a in told["assessments"]] == NAMES
    assert [a["gate"] for a in told["assessments"]] == [None, 0.0, None, 1.0]
    assert told["training"]["recipe"] == "worst of 2 threats (pgd-5)"
    assert told["verdict"] == "fail"
    assert set(told["under_all"]) == {"before", "after"}
    assert run.header()["status"] == "finished"
    page = (folder / "run" / "report.html").read_text()
    for words in ("before training · Linf ≤ 0.05", "after training · L2 ≤ 0.1", "all of them", "2 threats"):
        assert words in page
    assert "before-linf" not in page[: page.index("Everything the run recorded")]


def test_threats_come_from_the_file_and_one_gate_is_for_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "hardpoint.toml").write_text(
        '[model]\nload = "net_of_two:make"\n[data]\nload = "test.npz"\n[gate]\nrobust_accuracy = 0\n'
        '[harden]\ntrain = "train.npz"\nrecipe = "mixed"\nepochs = 1\n'
        '[[threats]]\nkind = "linf"\neps = 0.05\n[[threats]]\nkind = "l2"\neps = 0.1\n'
    )
    assert main(["harden", "--out", "run"]) in (Exit.PASS, Exit.INCONCLUSIVE)
    said = capsys.readouterr().out
    assert "mixed(worst of 2 threats (pgd-10))" in said
    assert "under all 2 threats: robust" in said
    assert [a.gate for a in RunFolder(folder / "run").read()] == [None, 0.0, None, 0.0]


def test_going_on_with_the_same_threats_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*WORDS, *threats(), "--out", "run", "-q"])
    checkpoint = folder / "run" / "training" / "checkpoint.safetensors"
    trained = checkpoint.stat().st_mtime_ns
    assert main([*WORDS, *threats(), "--out", "run", "-q", "--resume"]) == code != Exit.USAGE
    assert checkpoint.stat().st_mtime_ns == trained  # not again
    assert main([*WORDS, *threats()[:2], "--out", "run", "-q", "--resume"]) == Exit.USAGE
    assert "another threat_list ('linf-0.05, l2-0.1', now None)" in capsys.readouterr().err
