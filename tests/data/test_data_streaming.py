"""Memory does not grow with the number of rows, and file-backed data is cheap to send."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.core.box import UNBOUNDED
from hardpoint.core.errors import DataError
from hardpoint.data import Dataset, check_dataset, load_data, row_chunks, subset
from hardpoint.data.mapped import MappedDataset

N, D = 20_000, 40
WHOLE = N * D * 4


def peak(work: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write_csv(folder: Path) -> Path:
    line = ",".join(["0.5"] * D)
    header = ",".join(f"f{i}" for i in range(D)) + ",label\n"
    (folder / "t.csv").write_text(header + f"{line},1\n" * N)
    return folder / "t.csv"


def write_npz(folder: Path) -> Path:
    x = np.random.default_rng(0).random((N, D), dtype=np.float32)
    np.savez_compressed(folder / "t.npz", x=x, y=np.ones(N, np.uint8))
    return folder / "t.npz"


def write_idx(folder: Path) -> Path:
    import gzip

    pixels = np.random.default_rng(0).integers(0, 256, (N * 4, D), dtype=np.uint8)
    head = bytes([0, 0, 8, 2]) + struct.pack(">2I", N * 4, D)
    (folder / "t-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels.tobytes(), 1))
    head = bytes([0, 0, 8, 1]) + struct.pack(">I", N * 4)
    (folder / "t-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + bytes(N * 4), 1))
    return folder / "t-images-idx3-ubyte.gz"


@pytest.mark.parametrize("write", [write_csv, write_npz, write_idx])
def test_twenty_thousand_rows_are_never_held_at_once(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    load_data(path, limit=10)  # imports and caches

    def work() -> None:
        data = load_data(path)
        for index in row_chunks(data, 256):
            data.rows(index)
        subset(data, 100, seed=0).rows(torch.arange(100))

    assert peak(work) < WHOLE * 0.6


def test_a_pass_holds_little_of_large_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((40, 300, 300), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(40))
    data = load_data((tmp_path / "x.npy", tmp_path / "y.npy"))
    check_dataset(data, UNBOUNDED)
    assert peak(lambda: check_dataset(data, UNBOUNDED)) < 40 * 300 * 300 * 4 / 2
    assert [len(i) for i in row_chunks(data)][:2] == [2, 2]


def sums(data: Dataset) -> float:
    return float(data.rows(torch.arange(len(data)))[0].sum())


def test_file_backed_data_is_cheap_to_send_and_read_by_other_processes(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "t.npz", x=np.arange(5000.0).reshape(1000, 5), y=np.arange(1000) % 2)
    data = load_data(tmp_path / "t.npz")
    assert len(pickle.dumps(data)) < 4000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(sums, (data,)) == sums(data)
        assert pool.apply(sums, (subset(data, 10),)) == sums(subset(data, 10))
    gc.collect()
    assert sums(data) == 4999 * 2500  # the workers did not take the rows with them


def spooled(data: Dataset) -> Path:
    assert isinstance(data, MappedDataset)
    return data.x.path.parent


def test_the_spool_goes_when_the_last_reader_goes(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "t.npz", x=np.zeros((10, 5)), y=np.zeros(10))
    spool_dir = tmp_path / "spool"
    spool_dir.mkdir()
    data = load_data(tmp_path / "t.npz", spool_dir=spool_dir)
    folder = spooled(data)
    assert folder.parent == spool_dir
    part, copy = subset(data, 3), pickle.loads(pickle.dumps(data))
    del data
    gc.collect()
    assert sums(part) == 0
    del part
    gc.collect()
    assert sums(copy) == 0
    del copy
    gc.collect()
    assert not folder.exists()


def test_a_failed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n1,0\nx,1\n")
    (tmp_path / "spool").mkdir()
    with pytest.raises(DataError):
        load_data(tmp_path / "t.csv", spool_dir=tmp_path / "spool")
    gc.collect()
    assert not list((tmp_path / "spool").iterdir())


def test_a_file_that_shrinks_during_a_run_is_an_error_not_a_crash(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1000, 50)))
    np.save(tmp_path / "y.npy", np.zeros(1000))
    data = load_data((tmp_path / "x.npy", tmp_path / "y.npy"))
    (tmp_path / "x.npy").write_bytes(b"short")
    with pytest.raises(DataError, match="can no longer be read"):
        data.rows(torch.tensor([999]))
