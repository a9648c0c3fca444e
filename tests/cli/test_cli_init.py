"""``hardpoint init``: few questions, and a file that runs as it is."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.cli.found import found_data, found_models, found_weights, table_options
from hardpoint.cli.layers import resolve

from command_folder import Run  # isort: skip

pytest_plugins = ["command_folder"]


def answer(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(a + "\n" for a in answers)))


def test_what_lies_in_a_folder_is_found(tmp_path: Path) -> None:
    for name in (
        "m.onnx",
        "w.safetensors",
        "train.npz",
        "sub/test.npz",
        "t10k-images-idx3-ubyte.gz",
        ".hid/x.npz",
        "a/b/c.csv",
        "t10k-labels-idx1-ubyte.gz",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "shop.py").write_text(
        "def load(path='x'): ...\ndef build_model(width): ...\ndef net(): ...\n"
    )
    (tmp_path / "broken.py").write_text("def load(:")
    assert found_models(tmp_path) == ["m.onnx", "shop:load", "shop:net"]
    assert found_weights(tmp_path) == ["w.safetensors"]
    assert found_data(tmp_path) == [str(Path("sub/test.npz")), "t10k-images-idx3-ubyte.gz", "train.npz"]


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("a,b,label", {}),
        ("a,Class,b", {"label": "Class"}),
        ("y,b,c", {"label": "y"}),
        ("a,b,fraud", {"label": "fraud"}),
        ("0,1.5,1", {"header": False, "label": -1}),
        ("", {}),
    ],
)
def test_how_a_table_is_read_is_guessed(tmp_path: Path, header: str, options: dict[str, object]) -> None:
    (tmp_path / "t.csv").write_text(header + "\n")
    assert table_options(tmp_path / "t.csv") == options
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write(header + "\n")
    assert table_options(tmp_path / "t.csv.gz") == options
    (tmp_path / "damaged.csv.gz").write_bytes(b"no gzip")
    assert table_options(tmp_path / "damaged.csv.gz") == {}


def test_yes_writes_a_commented_file_that_runs(hardpoint: Run, folder: Path) -> None:
    said = hardpoint(
        "init", "--yes", "--model", "zoo:net", "--gate", "0.3", "--threat", "linf:0.05@scores:40q"
    )
    assert said.code == 0, said.err
    assert said.out.endswith("next:     hardpoint assess\n")
    text = (folder / "hardpoint.toml").read_text()
    assert text.count("#") > 10
    settings = resolve({}, None, {}).settings
    assert (settings.model.load, settings.data.load, settings.gate.robust_accuracy) == (
        "zoo:net",
        "data.npz",
        0.3,
    )
    assert hardpoint("assess").code == 0


def test_a_file_that_is_there_is_kept(hardpoint: Run, folder: Path) -> None:
    (folder / "hardpoint.toml").write_text("# mine\n")
    said = hardpoint("init", "--yes", "--model", "zoo:net")
    assert (said.code, "replace it with --force" in said.err) == (2, True)
    assert (folder / "hardpoint.toml").read_text() == "# mine\n"
    assert hardpoint("init", "--yes", "--model", "zoo:net", "--force").code == 0


def test_questions_are_answered_or_their_suggestion_taken(
    hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"layer.weight": torch.ones(3, 4), "layer.bias": torch.zeros(3)}, folder / "w.pt")
    answer(monkeypatch, "zoo:net", "", "", "l2:1/2", "0.4")
    said = hardpoint("init")
    assert said.code == 0, said.err
    assert said.err.count("? ") <= 5
    settings = resolve({}, None, {}).settings
    assert (settings.model.weights, settings.threats[0].eps, settings.gate.robust_accuracy) == (
        "w.pt",
        0.5,
        0.4,
    )


def test_nobody_to_answer(hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch)
    said = hardpoint("init")
    assert (said.code, "pass --yes" in said.err) == (2, True)
    assert not (folder / "hardpoint.toml").exists()


def test_what_does_not_fit_is_not_written(hardpoint: Run, folder: Path) -> None:
    np.savez("wide.npz", x=np.zeros((5, 9), np.float32), y=np.zeros(5, np.int64))
    for words in (["--data", "wide.npz"], ["--data", "gone.npz"], ["--gate", "7"], ["--threat", "linf:-1"]):
        said = hardpoint("init", "--yes", "--model", "zoo:net", *words)
        assert said.code == 2
        assert not (folder / "hardpoint.toml").exists()


def test_the_input_range_follows_the_data(hardpoint: Run, folder: Path) -> None:
    x = np.random.default_rng(0).uniform(-3.2, 5, (30, 4)).astype(np.float32)
    np.savetxt(
        "rows.csv", np.hstack([x, np.zeros((30, 1))]), delimiter=",", header="a,b,c,d,fraud", comments=""
    )
    said = hardpoint("init", "--yes", "--model", "zoo:net", "--data", "rows.csv")
    assert said.code == 0, said.err
    settings = resolve({}, None, {}).settings
    assert settings.model.input_range == (-4.0, 5.0)
    assert settings.data.label == "fraud"
    assert settings.threats[0].eps == pytest.approx(0.45)


def test_columns_of_different_scale_get_a_schema(hardpoint: Run, folder: Path) -> None:
    rows = np.random.default_rng(0).uniform(0, [1, 1, 1, 100], (30, 4)).astype(np.float32)
    np.savez("rows.npz", x=rows, y=np.zeros(30, np.int64))
    said = hardpoint("init", "--yes", "--model", "zoo:net", "--data", "rows.npz", "--gate", "7")
    assert said.code == 2
    assert not (folder / "schema.toml").exists()
    said = hardpoint("init", "--yes", "--model", "zoo:net", "--data", "rows.npz")
    assert said.code == 0, said.err
    assert "wrote:    schema.toml" in said.out
    threat = resolve({}, None, {}).settings.threats[0]
    assert (threat.kind, threat.schema_file, threat.norm, threat.eps) == (
        "features",
        "schema.toml",
        "linf",
        0.1,
    )
    said = hardpoint("assess", "--access", "scores", "--quiet")
    assert said.code in (0, 5), said.err


def test_an_empty_folder_gets_the_bundled_example(
    hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    said = hardpoint("init", "--yes", "--json")
    assert said.json["file"] == "hardpoint.toml"
    said = hardpoint("assess", "--threat", "linf:0.1@scores:10q", "--sample", "30", "--quiet")
    assert said.code in (0, 5), said.err


def test_weights_alone_need_a_model(hardpoint: Run, folder: Path) -> None:
    (folder / "zoo.py").unlink()
    said = hardpoint("init", "--yes")
    assert (said.code, "name it: hardpoint init --model" in said.err) == (2, True)
