"""Weights files, honest and hostile: nothing in them may run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hardpoint.core.errors import ModelError, UnreadableModelFile, UnsafeModelFile
from hardpoint.models import load_weights
from hardpoint.models.weights import load_into


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(net().state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, state: dict[str, torch.Tensor], key: str | None, zipped: bool) -> None:
    path = tmp_path / "w.pt"
    content = state if key is None else {key: state, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(load_weights(path), state)


def test_safetensors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert same(load_weights(tmp_path / "w.safetensors"), state)


@pytest.mark.parametrize("name", ["w.pt", "w.pkl", "w.joblib", "w.pth", "w.bin"])
def test_pickles_are_not_executed(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    (tmp_path / name).write_bytes(pickle.dumps({"state_dict": Bomb(marker)}))
    with pytest.raises(UnsafeModelFile) as caught:
        load_weights(tmp_path / name)
    assert not marker.exists()
    assert "safetensors.torch.save_file" in caught.value.cure


@pytest.mark.parametrize("zipped", [True, False])
def test_bombs_in_torch_files_are_not_executed(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(2), "x": Bomb(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeModelFile):
        load_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_modules_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pt"
    torch.save(net(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeModelFile, match=r"refers to torch\.nn") as caught:
        load_weights(path)
    assert "weights_only=False" in caught.value.cure


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/code/__torch__.py", "class Net(Module): pass")
        archive.writestr("w/constants.pkl", b"\x80\x02).")
    with pytest.raises(UnsafeModelFile, match="TorchScript") as caught:
        load_weights(path)
    assert "torch.jit.load" in caught.value.cure


def test_oldest_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Bomb(tmp_path / "marker"))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(UnsafeModelFile, match="oldest"):
        load_weights(path)
    assert not (tmp_path / "marker").exists()


def test_every_truncation_is_a_named_error(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    whole = {"zip.pt": True, "old.pt": False}
    for name, zipped in whole.items():
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
    save_file(state, tmp_path / "w.safetensors")
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        bad = path.with_name("bad" + path.suffix)
        for length in range(0, len(content) - 1, max(len(content) // 23, 1)):
            bad.write_bytes(content[:length])
            with pytest.raises((UnreadableModelFile, UnsafeModelFile)):
                load_weights(bad)
        bad.unlink()


def test_empty_absent_and_foreign_files(tmp_path: Path) -> None:
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UnreadableModelFile, match="is empty"):
            load_weights(tmp_path / name)
        (tmp_path / name).write_bytes(b"<html>not found</html>" * 20)
        with pytest.raises(UnreadableModelFile):
            load_weights(tmp_path / name)
        with pytest.raises(UnreadableModelFile, match="not a file"):
            load_weights(tmp_path / ("absent-" + name))
    (tmp_path / "w.h5").write_bytes(b"\x89HDF")
    with pytest.raises(ModelError, match=r"\.h5"):
        load_weights(tmp_path / "w.h5")


@pytest.mark.parametrize("length", [1 << 20, 1 << 40, (1 << 64) - 1])
def test_safetensors_header_longer_than_the_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(UnreadableModelFile, match="longer than the file"):
        load_weights(path)


def test_safetensors_header_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(2)}, path)
    monkeypatch.setattr("hardpoint.models.weights.MAX_HEADER_BYTES", 8)
    with pytest.raises(UnreadableModelFile, match="more than 8"):
        load_weights(path)


@pytest.mark.parametrize(
    "header",
    [
        [1, 2],
        {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 40]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"w": {"dtype": "X99", "shape": [2], "data_offsets": [0, 8]}},
        {"w": 3},
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(UnreadableModelFile, match="malformed"):
        load_weights(path)


def test_compressed_archive_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/data/0", b"\0" * 10_000_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(UnreadableModelFile, match="unpacks to"):
        load_weights(path)


def test_view_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(1).expand(1 << 20, 1 << 20)}, path)
    with pytest.raises(UnreadableModelFile, match="claims"):
        load_weights(path)


def test_checkpoints_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save([torch.ones(2)], path)
    with pytest.raises(ModelError, match="no state dict"):
        load_weights(path)
    torch.save({"w": torch.ones(2), "epoch": 3}, path)
    with pytest.raises(ModelError, match="'epoch'"):
        load_weights(path)


def test_keys_and_shapes_are_named(state: dict[str, torch.Tensor]) -> None:
    module = net()
    load_into(module, state, "w.pt")
    assert same(dict(module.state_dict()), state)
    wrong = {k: v for k, v in state.items() if k != "2.bias"} | {
        "extra": torch.ones(1),
        "0.bias": torch.ones(9),
    }
    with pytest.raises(ModelError) as caught:
        load_into(net(), wrong, "w.pt")
    text = str(caught.value)
    assert "lacks 2.bias" in text
    assert "unexpected extra" in text
    assert "0.bias (9,) instead of (3,)" in text


def test_many_missing_keys_are_counted() -> None:
    deep = nn.Sequential(*[nn.Linear(1, 1) for _ in range(8)])
    with pytest.raises(ModelError, match="and 11 more"):
        load_into(deep, {}, "w.pt")


def test_data_parallel_prefix(state: dict[str, torch.Tensor]) -> None:
    module = net()
    load_into(module, {f"module.{k}": v for k, v in state.items()}, "w.pt")
    assert same(dict(module.state_dict()), state)


_DATA = (
    Path(os.environ.get("HARDPOINT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "models"
)


@pytest.mark.skipif(not _DATA.is_dir(), reason="no weights under HARDPOINT_DATA/models")
def test_published_weights_load() -> None:
    for path in sorted(_DATA.glob("*.pt*")):
        assert all(v.device.type == "cpu" for v in load_weights(path).values())
