"""``hardpoint harden`` as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardpoint.cli.exits import Exit
from hardpoint.cli.main import main
from hardpoint.evidence import RunFolder
from hardpoint.models.weights import load_weights

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
"""
WORDS = ["harden", "--model", "net_to_train:make", "--train", "train.npz", "--data", "test.npz"]
THREAT = ["--threat", "linf:0.05", "--epochs", "2", "--recipe", "pgd:steps=2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw = np.random.default_rng(0)
    for name, n in (("train", 128), ("test", 40)):
        x = draw.random((n, 2), dtype=np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(np.int64))
    (tmp_path / "net_to_train.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_it_leaves_weights_curves_and_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*WORDS, *THREAT, "--out", "run", "--gate", "0", "--json"])
    told = json.loads(capsys.readouterr().out)
    run = RunFolder(folder / "run")
    record = run.training()
    assert code == told["exit_code"]
    assert record is not None
    assert [epoch.number for epoch in record.epochs] == [1, 2]
    assert record.recipe == told["training"]["recipe"] == "pgd-2"
    assert run.names() == ["before", "after"]
    assert set(load_weights(folder / "run" / "training" / "model.safetensors")) == {
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    }
    assert (folder / "run" / "training" / "curves.svg").read_text().startswith("<svg")
    page = (folder / "run" / "report.html").read_text()
    assert "The training" in page
    assert "before training" in page
    assert run.header()["status"] == "finished"


def test_settings_come_from_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "hardpoint.toml").write_text(
        '[model]\nload = "net_to_train:make"\n[data]\nload = "test.npz"\n'
        '[harden]\ntrain = "train.npz"\nrecipe = "trades:steps=1:beta=2"\nepochs = 1\naugment = ["jitter:sigma=0.01"]\n'
        '[[threats]]\nkind = "linf"\neps = 0.05\n'
    )
    main(["harden", "--out", "run", "-q"])
    capsys.readouterr()
    plan = json.loads((folder / "run" / "training" / "plan.json").read_text())
    assert plan["recipe"] == "Trades(beta=2.0, steps=1, length=0.25)"
    assert plan["training"]["augment"] == ["Jitter(sigma=0.01)"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*WORDS[:3], *WORDS[5:], *THREAT], "no training data is named"),
        ([*WORDS[:5], "--data", "train.npz", *THREAT], "are among those to learn from"),
        (
            [*WORDS, *THREAT[:-1], "trades", "--threat", "l2:0.1"],
            "trades-10 learns from one threat, and 2 are given",
        ),
        ([*WORDS, *THREAT, "--threat", "linf:0.05"], "is given twice"),
        ([*WORDS, "--threat", "linf:0"], "eps is 0"),
        ([*WORDS, *THREAT[:2], "--recipe", "tradse"], "trades"),
        ([*WORDS, *THREAT[:2], "--recipe", "pgd:stps=2"], "stps"),
        ([*WORDS, *THREAT[:2], "--recipe", "awp:inner=awp"], "cannot stand inside"),
        ([*WORDS, *THREAT[:2], "--recipe", "noise"], "noise:sigma"),
        ([*WORDS, *THREAT[:2], "--augment", "fliip"], "flip"),
        ([*WORDS, *THREAT, "--epochs", "0"], "epochs"),
        ([*WORDS, *THREAT, "--lr", "nan"], "lr"),
        ([*WORDS, *THREAT, "--optimiser", "lion"], "optimiser"),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_folder_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words) == Exit.USAGE
    assert said in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_a_finished_training_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*WORDS, *THREAT, "--out", "run", "-q"])
    first = (folder / "run" / "training" / "model.safetensors").read_bytes()
    assert main([*WORDS, *THREAT, "--out", "run", "-q"]) == Exit.USAGE
    assert "--resume" in capsys.readouterr().err
    main([*WORDS, *THREAT, "--out", "run", "-q", "--resume"])
    assert (folder / "run" / "training" / "model.safetensors").read_bytes() == first
    assert main([*WORDS, *THREAT, "--out", "run", "-q", "--resume", "--lr", "0.5"]) == Exit.USAGE
    assert "training.lr" in capsys.readouterr().err


def test_devices_come_from_the_file_or_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "hardpoint.toml").write_text("[harden]\ndevices = 3\nbatch_size = 5\n")
    assert main([*WORDS, *THREAT, "--out", "run"]) == Exit.USAGE
    assert "5 leaves 3 devices less than two inputs each" in capsys.readouterr().err
    assert main([*WORDS, *THREAT, "--out", "run", "--devices", "4"]) == Exit.USAGE
    assert "5 leaves 4 devices less than two inputs each" in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_a_denoiser_is_trained_and_stands_before_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, *THREAT[:-1], "denoiser:inner=n_fgsm:hidden=4", "--limit", "12"]
    assert main([*words, "--out", "run", "--gate", "0", "--json"]) in (Exit.PASS, Exit.INCONCLUSIVE)
    told = json.loads(capsys.readouterr().out)
    assert told["weights"] is None
    file = Path(told["denoiser"])
    assert file.is_file()
    assert main([*words, "--out", "other", "--gate", "0"]) in (Exit.PASS, Exit.INCONCLUSIVE)
    said = capsys.readouterr().out
    assert 'stages = ["denoiser:file=other/training/denoiser.safetensors"] in [defence]' in said
    settings = folder / "below" / "hardpoint.toml"
    settings.parent.mkdir()
    settings.write_text('[defence]\nstages = ["denoiser:file=../run/training/denoiser.safetensors"]\n')
    again = ["assess", *WORDS[1:3], *WORDS[5:], *THREAT[:2], "--limit", "12", "--config", str(settings)]
    main([*again, "--out", "assessed"])
    (found,) = RunFolder(folder / "assessed").read()
    assert "DenoisingAutoencoder" in str(found.model)
    assert found.robust_accuracy == RunFolder(folder / "run").assessment("after").read().robust_accuracy
    capsys.readouterr()
    settings.write_text('[defence]\nstages = ["denoiser"]\n')
    assert main([*again, "--out", "nothing"]) == Exit.USAGE
    assert "write denoiser:file=PATH" in capsys.readouterr().err
