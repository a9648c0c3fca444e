""".npy and .npz: what is stored comes back, and files that lie are refused before anything is allocated."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.errors import DataError, HardpointError, NothingToTest
from hardpoint.data import MemoryDataset, load_data
from hardpoint.data import streams as streams_module

X = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
Y = np.arange(20, dtype=np.uint8) % 4
EXPECTED = torch.from_numpy(X.transpose(0, 3, 1, 2).astype(np.float32)) / 255


def all_rows(data: object) -> tuple[torch.Tensor, torch.Tensor]:
    return data.rows(torch.arange(len(data)))  # type: ignore[attr-defined,arg-type,no-any-return]


def npy_with_header(text: str) -> bytes:
    raw = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x=X, y=Y, extra=np.zeros(3))
    return path


def test_npz_comes_back_scaled_and_channels_first(npz: Path) -> None:
    data = load_data(npz)
    x, y = all_rows(data)
    assert torch.equal(x, EXPECTED)
    assert y.tolist() == Y.tolist()
    told = data.describe()
    assert told["source"] == "set.npz"
    assert told["reading"] == {"scale": 1 / 255, "stored_layout": "HWC"}
    assert data.sha256() == MemoryDataset(EXPECTED, Y).sha256()


@pytest.mark.parametrize("pair", [("images", "labels"), ("X", "Y"), ("X", "y")])
def test_usual_keys_are_found(tmp_path: Path, pair: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", **{pair[0]: X, pair[1]: Y})
    assert torch.equal(all_rows(load_data(tmp_path / "a.npz"))[0], EXPECTED)


def test_named_keys_and_column_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", test_images=X, test_labels=Y[:, None])
    data = load_data(str(tmp_path / "a.npz"), keys=("test_images", "test_labels"), limit=7)
    assert len(data) == 7
    assert all_rows(data)[1].tolist() == Y[:7].tolist()
    with pytest.raises(DataError, match="did you mean 'test_images'"):
        load_data(tmp_path / "a.npz", keys=("test_image", "test_labels"))
    with pytest.raises(DataError, match="holds the arrays test_images, test_labels"):
        load_data(tmp_path / "a.npz")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|u1", ">i2", "<f2"])
def test_npy_pairs_are_mapped_in_any_order_and_type(tmp_path: Path, order: str, dtype: str) -> None:
    np.save(tmp_path / "x.npy", np.asarray(X.astype(dtype), order=order))  # type: ignore[call-overload]
    np.save(tmp_path / "y.npy", Y)
    data = load_data(tmp_path / "x.npy", labels=tmp_path / "y.npy", scale=1 / 255)
    index = torch.tensor([19, 3, 3])
    assert torch.allclose(data.rows(index)[0], EXPECTED[index], atol=1e-7)
    assert len(load_data((tmp_path / "x.npy", tmp_path / "y.npy"), limit=4)) == 4


def test_npy_without_labels_or_with_too_few(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y[:5])
    with pytest.raises(DataError, match="labels="):
        load_data(tmp_path / "x.npy")
    with pytest.raises(DataError, match="20 inputs but 5 labels"):
        load_data(tmp_path / "x.npy", labels=tmp_path / "y.npy")
    with pytest.raises(DataError, match="20 inputs but 5 labels"):
        load_data(tmp_path / "x.npy", labels=tmp_path / "y.npy", limit=5)


def test_bad_labels_in_a_file_are_named_by_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=np.where(np.arange(20) == 13, 0.5, 1.0))
    with pytest.raises(DataError, match=r"row 13 .*0\.5"):
        load_data(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=X, y=Y)
    with pytest.raises(DataError, match=r"row 3 .* but there are 3 classes"):
        load_data(tmp_path / "b.npz", classes=("a", "b", "c"))


def test_empty_arrays_are_nothing_to_test(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X[:0], y=Y[:0])
    with pytest.raises(NothingToTest):
        load_data(tmp_path / "a.npz")


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    flag = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (flag,)

    evil = np.array([Evil()], dtype=object)
    np.savez(tmp_path / "a.npz", x=evil, y=Y[:1])
    np.save(tmp_path / "x.npy", evil)
    np.save(tmp_path / "y.npy", Y[:1])
    with pytest.raises(DataError, match="pickled"):
        load_data(tmp_path / "a.npz")
    with pytest.raises(DataError, match="pickled"):
        load_data(tmp_path / "x.npy", labels=tmp_path / "y.npy")
    assert not flag.exists()


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_npz_is_refused(npz: Path, cut: float) -> None:
    whole = npz.read_bytes()
    npz.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(DataError, match="damaged or cut short"):
        load_data(npz)


def test_a_flipped_bit_is_found_by_the_checksum(npz: Path) -> None:
    raw = bytearray(npz.read_bytes())
    raw[300] ^= 1
    npz.write_bytes(bytes(raw))
    with pytest.raises(DataError):
        load_data(npz)


def test_a_truncated_npy_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "x.npy", X)
    raw = (tmp_path / "x.npy").read_bytes()
    for damaged in (
        raw[:-1],
        raw + b"\0",
        raw[:60],
        raw[:7],
        b"not numpy at all",
        raw[:6] + b"\x09\x00" + raw[8:],
    ):
        (tmp_path / "x.npy").write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.npy"):
            load_data(tmp_path / "x.npy", labels=tmp_path / "y.npy")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
        "{'descr': '|S9', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, " + "1, " * 20 + "), }",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,), }",
        "__import__('os').getcwd()",
        "((((((((((((((((",
    ],
)
def test_header_claims_are_held_against_the_file(tmp_path: Path, header: str) -> None:
    np.save(tmp_path / "y.npy", Y)
    (tmp_path / "x.npy").write_bytes(npy_with_header(header) + bytes(4))
    with pytest.raises(DataError):
        load_data(tmp_path / "x.npy", labels=tmp_path / "y.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy_with_header(header) + bytes(4))
        archive.writestr("y.npy", (tmp_path / "y.npy").read_bytes())
    with pytest.raises(DataError):
        load_data(tmp_path / "a.npz")


def test_a_header_of_four_gigabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFF0) + b"{" * 100)
    with pytest.raises(DataError, match=r"bad \.npy header"):
        load_data(tmp_path / "x.npy", labels=tmp_path / "x.npy")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_damage_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=X[:3], y=Y[:3])
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.npz").write_bytes(bytes(raw[: data.draw(st.integers(1, len(raw)))]))
    np.save(folder / "y.npy", Y[:3])
    plain = io.BytesIO()
    np.save(plain, X[:3])
    bare = bytearray(plain.getvalue())
    bare[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    (folder / "x.npy").write_bytes(bytes(bare))
    for call in (
        lambda: load_data(folder / "a.npz"),
        lambda: load_data((folder / "x.npy", folder / "y.npy")),
    ):
        with contextlib.suppress(HardpointError):
            all_rows(call())


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "FREE_BYTES", 1 << 16)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2000, 1000), np.uint8), y=np.zeros(2000, np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    with pytest.raises(DataError, match="claims to unpack"):
        load_data(tmp_path / "a.npz")


def test_an_encrypted_member_is_refused(npz: Path) -> None:
    raw = bytearray(npz.read_bytes())
    with zipfile.ZipFile(npz) as archive:
        starts = [info.header_offset for info in archive.infolist()]
    for start in starts:
        raw[start + 6] |= 1
    at = raw.find(b"PK\x01\x02")
    while at >= 0:
        raw[at + 8] |= 1
        at = raw.find(b"PK\x01\x02", at + 1)
    npz.write_bytes(bytes(raw))
    with pytest.raises(DataError, match="cannot unpack"):
        load_data(npz)
