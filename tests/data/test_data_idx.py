"""The idx format: MNIST's files, packed or not, whole or not."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.core.errors import DataError
from hardpoint.data import load_data
from hardpoint.data import streams as streams_module

X = np.random.default_rng(1).integers(0, 256, (30, 7, 5), dtype=np.uint8)
Y = np.arange(30, dtype=np.uint8) % 10


def idx(array: np.ndarray, code: int = 0x08) -> bytes:  # type: ignore[type-arg]
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, images: bytes, labels: bytes, packed: bool) -> Path:
    end = ".gz" if packed else ""
    pack = gzip.compress if packed else bytes
    (folder / f"t-labels-idx1-ubyte{end}").write_bytes(pack(labels))
    path = folder / f"t-images-idx3-ubyte{end}"
    path.write_bytes(pack(images))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_images_and_labels_come_back(tmp_path: Path, packed: bool) -> None:
    data = load_data(write(tmp_path, idx(X), idx(Y), packed))
    assert (len(data), data.shape) == (30, (1, 7, 5))
    x, y = data.rows(torch.tensor([29, 0]))
    assert torch.equal(x[:, 0], torch.from_numpy(X[[29, 0]].astype(np.float32)) / 255)
    assert y.tolist() == [9, 0]


def test_packed_and_plain_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = load_data(write(tmp_path / "a", idx(X), idx(Y), False))
    assert plain.sha256() == load_data(write(tmp_path / "b", idx(X), idx(Y), True)).sha256()


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
def test_every_number_type_of_the_format(tmp_path: Path, code: int, dtype: str) -> None:
    values = (X % 100).astype(dtype)
    data = load_data(write(tmp_path, idx(values, code), idx(Y), True))
    assert np.array_equal(data.rows(torch.arange(30))[0].numpy(), values.astype(np.float32))


def test_labels_file_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "pictures.idx3").write_bytes(idx(X))
    (tmp_path / "answers.idx1").write_bytes(idx(Y))
    with pytest.raises(DataError, match="no labels were found beside"):
        load_data(tmp_path / "pictures.idx3")
    data = load_data(tmp_path / "pictures.idx3", labels=str(tmp_path / "answers.idx1"), limit=3)
    assert data.rows(torch.arange(3))[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (b"\x00\x00\x08", "not an idx file"),
        (b"\x01\x00\x08\x03" + bytes(50), "not an idx file"),
        (b"\x00\x00\x07\x01" + bytes(50), "not an idx file"),
        (b"\x00\x00\x08\x00" + bytes(50), "not an idx file"),
        (b"\x00\x00\x08\x03\x00\x00", "cut short"),
        (idx(X)[:-1], "claims"),
        (idx(X) + b"\0", "claims"),
        (b"\x00\x00\x08\x03" + b"\x7f\xff\xff\xff" * 3, "claims"),
        (b"\x00\x00\x08\x01" + b"\xff\xff\xff\xff", "claims"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, packed: bool, images: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(write(tmp_path, images, idx(Y), packed))


@pytest.mark.parametrize("cut", [1, 10, 0.5, 0.99])
def test_a_truncated_gzip_is_refused(tmp_path: Path, cut: float) -> None:
    path = write(tmp_path, idx(X), idx(Y), True)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(cut * len(raw)) if cut < 1 else -int(cut)])
    with pytest.raises(DataError, match="damaged or cut short"):
        load_data(path)


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, idx(X), idx(Y), True)
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0xFF
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError):
        load_data(path)


def test_a_gzip_that_unpacks_beyond_its_means_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "FREE_BYTES", 1 << 16)
    honest = np.zeros((3000, 30, 30), np.uint8)
    with pytest.raises(DataError, match="claims to unpack"):
        load_data(write(tmp_path, idx(honest), idx(Y), True))
    hidden = idx(X) + bytes(3_000_000)
    with pytest.raises(DataError, match="claims to unpack"):
        load_data(write(tmp_path, hidden, idx(Y), True))


def test_lengths_must_agree(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="30 inputs but 29 labels"):
        load_data(write(tmp_path, idx(X), idx(Y[:29]), True))
