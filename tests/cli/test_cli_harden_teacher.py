"""``hardpoint harden --teacher``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hardpoint.cli.exits import Exit
from hardpoint.cli.main import main
from hardpoint.evidence import RunFolder
from hardpoint.harden.teacher import Teacher
from hardpoint.models import load_model

NETS = """
import torch
from torch import nn

from hardpoint.models import TorchModel

def make(classes=2, features=2):
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, classes))

def three():
    return make(3)

def wide():
    return make(features=5)

def labels():
    return TorchModel(make().eval(), access="labels")
"""
WORDS = ["harden", "--model", "nets_and_teachers:make", "--train", "train.npz", "--data", "test.npz"]
THREAT = ["--threat", "linf:0.05", "--epochs", "1", "--out", "run"]
PGD = ["--recipe", "pgd:steps=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_panel: None, few_queries: None) -> Path:
    draw = np.random.default_rng(0)
    for name, n in (("train", 64), ("test", 16)):
        x = draw.random((n, 2), dtype=np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(np.int64))
    (tmp_path / "nets_and_teachers.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nets_and_teachers", raising=False)
    return tmp_path


def recipe_in(folder: Path) -> str:
    return str(json.loads((folder / "run" / "training" / "plan.json").read_text())["recipe"])


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ([], "distilled(mixed(pgd-10))"),
        (["--recipe", "trades:steps=1"], "distilled(trades-1)"),
        (["--recipe", "awp:inner=n_fgsm"], "awp(distilled(n_fgsm))"),
        (["--recipe", "mixed", "--threat", "l2:0.1"], "distilled(mixed(worst of 2 threats (pgd-10)))"),
    ],
)
def test_the_recipe_learns_from_the_teacher(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], recipe: str
) -> None:
    main([*WORDS, *THREAT, "--teacher", "nets_and_teachers.py:make", *words, "--json"])
    assert json.loads(capsys.readouterr().out)["training"]["recipe"] == recipe


def test_a_file_names_teacher_weights_and_how_much_is_learned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*WORDS, *THREAT, *PGD])  # whose weights will teach
    below = folder / "below"
    below.mkdir()
    (below / "hardpoint.toml").write_text(
        '[harden]\nteacher = "../nets_and_teachers.py:make"\nteacher_weights = "../run/training/model.safetensors"\n'
        "teacher_temperature = 2\nteacher_share = 0.5\n"
    )
    settings = ["--config", str(below / "hardpoint.toml"), "--out", "other"]
    main([*WORDS, *THREAT[:-2], *PGD, *settings])
    (folder / "run").rename(folder / "first")
    (folder / "other").rename(folder / "run")
    told = recipe_in(folder)
    assert told.startswith("Distilled(inner=Pgd(steps=1, length=None), teacher=Teacher(")
    assert told.endswith("), temperature=2.0, share=0.5)")
    (wise,) = re.findall(r"Teacher\(\w+\)", told)
    untaught = Teacher(load_model("nets_and_teachers:make"))
    assert wise != repr(untaught)
    weights = "first/training/model.safetensors"
    assert wise == repr(Teacher(load_model("nets_and_teachers:make", weights=weights)))


def test_going_on_with_the_same_teacher_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, *THREAT, *PGD, "-q"]
    code = main([*words, "--teacher", "nets_and_teachers:make"])
    checkpoint = folder / "run" / "training" / "checkpoint.safetensors"
    trained = checkpoint.stat().st_mtime_ns
    assert main([*words, "--teacher", "nets_and_teachers:make", "--resume"]) == code != Exit.USAGE
    assert checkpoint.stat().st_mtime_ns == trained  # not again
    capsys.readouterr()
    weights = ["--teacher-weights", "run/training/model.safetensors"]
    for other in ([], ["--teacher", "nets_and_teachers:make", *weights]):
        assert main([*words, *other, "--resume"]) == Exit.USAGE
        assert "another recipe" in capsys.readouterr().err
    assert RunFolder(folder / "run").header()["settings"]["harden.teacher"] == "nets_and_teachers:make"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--teacher", "nets_and_teachers:three"], "the teacher knows 3 classes, the data have 2"),
        (["--teacher", "nets_and_teachers:wide"], "the teacher cannot take inputs of shape (2,)"),
        (["--teacher", "nets_and_teachers:labels"], "the teacher offers labels only"),
        (["--teacher", "nets_and_teachers:nobody"], "the teacher: 'nets_and_teachers' has no 'nobody'"),
        (["--teacher", "no_such.py:make"], "the teacher: there is no file no_such.py"),
        (["--teacher", "test.npz"], "the teacher: test.npz holds no weights"),
        (
            ["--teacher", "nets_and_teachers:make", "--teacher-weights", "w.pkl"],
            "the teacher: w.pkl is not a file",
        ),
        (["--teacher", "nets_and_teachers:make", "--recipe", "ibp"], "learns bounds, not answers"),
        (["--teacher-weights", "w.pt"], "teacher_weights is given, but no teacher"),
    ],
)
def test_what_cannot_teach_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main([*WORDS, *THREAT, *words]) == Exit.USAGE
    assert said in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_weights_that_could_run_code_are_not_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "weights.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    words = ["--teacher", "nets_and_teachers:make", "--teacher-weights", "weights.pkl"]
    assert main([*WORDS, *THREAT, *words]) == Exit.USAGE
    assert "can execute code when loaded" in capsys.readouterr().err
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("key", ["teacher_temperature = 2.0", "teacher_share = 0.5"])
def test_settings_of_nobody_are_refused(folder: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    (folder / "hardpoint.toml").write_text(f"[harden]\n{key}\n")
    assert main([*WORDS, *THREAT]) == Exit.USAGE
    assert f"{key.split()[0]} is given, but no teacher; give --teacher" in capsys.readouterr().err
