"""The one door: options that fit, options that do not, and bundled sets without a network."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.core.errors import DataError, MissingExtra
from hardpoint.data import MemoryDataset, load_data
from hardpoint.data.options import TAKES, DataOptions


def test_every_option_fits_something_and_is_known() -> None:
    assert set().union(*TAKES.values()) == set(DataOptions.__annotations__)


def test_a_dataset_is_returned_as_it_is() -> None:
    data = MemoryDataset(torch.zeros(5, 2), [0] * 5)
    assert load_data(data) is data
    assert len(load_data(data, limit=3)) == 3
    assert len(load_data(data, limit=30)) == 5
    with pytest.raises(DataError, match="'scale' does not fit data of kind dataset"):
        load_data(data, scale=2.0)


def test_arrays_are_read_like_files(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    y = np.arange(9) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    in_file = load_data(tmp_path / "a.npz", classes=("a", "b"))
    for given in (x, torch.from_numpy(x)):
        data = load_data((given, y), classes=("a", "b"), name="mine")
        assert data.sha256() == in_file.sha256()
        assert data.describe()["reading"] == in_file.describe()["reading"]
        assert data.name == "mine"
    assert load_data((torch.ones(2, 3, dtype=torch.bfloat16), [0, 1])).shape == (3,)
    with pytest.raises(DataError, match="9 inputs but 8 labels"):
        load_data((x, y[:8]), limit=4)
    with pytest.raises(DataError, match="type <U1"):
        load_data((np.array(["a"]), [0]))


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "iris", "wine"])
def test_bundled_sets_need_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("sklearn.datasets")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    data = load_data(f"sklearn:{name}")
    table, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    x, y = data.rows(torch.arange(len(data)))
    assert np.array_equal(x.numpy(), table.astype(np.float32))
    assert np.array_equal(y.numpy(), labels)
    assert data.features is not None
    assert len(data.features) == table.shape[1]
    assert data.classes is not None
    assert len(data.classes) == labels.max() + 1
    assert data.describe()["source"] == f"sklearn:{name}"


def test_bundled_options() -> None:
    pytest.importorskip("sklearn")
    data = load_data("sklearn:digits", scale=1 / 16, limit=10, dtype=torch.float64)
    x, _ = data.rows(torch.arange(10))
    assert x.dtype == torch.float64
    assert x.max() == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sklearn:fetch_openml", "would be downloaded.*never uses the network"),
        ("sklearn:digit", "did you mean 'digits'"),
        ("https://example.com/x.npz", "nothing is downloaded"),
        ("no/such/file.npz", "does not exist"),
        (17, "int is no data"),
        ((1, 2, 3), "tuple of 3"),
    ],
)
def test_what_is_no_data_is_refused(spec: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(spec)  # type: ignore[arg-type]


def test_files_that_are_missing_empty_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "train.npz").write_bytes(b"")
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(DataError, match=r"did you mean 'train\.npz'"):
        load_data(tmp_path / "trian.npz")
    with pytest.raises(DataError, match="empty file"):
        load_data(tmp_path / "train.npz")
    with pytest.raises(DataError, match="kind that is not known"):
        load_data(tmp_path / "model.pkl")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": "y"}, "'label' does not fit data of kind npz; it fits: csv, parquet"),
        ({"lables": "y"}, "unknown data option 'lables'; did you mean 'labels'"),
        ({"limit": 0}, "leaves nothing"),
        ({"keys": "xy"}, "two names"),
        ({"keys": ["x"]}, "two names"),
        ({"classes": "cat"}, "two or more names"),
        ({"classes": ("cat", "cat")}, "two or more names"),
        ({"spool_dir": "/no/such/folder"}, "spool folder .* does not exist"),
    ],
)
def test_options_that_say_nothing_are_errors(tmp_path: Path, options: dict[str, object], words: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.zeros(3))
    with pytest.raises(DataError, match=words):
        load_data(tmp_path / "a.npz", **options)  # type: ignore[arg-type]


def test_labels_given_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match="given twice"):
        load_data((tmp_path / "x.npy", tmp_path / "x.npy"), labels=tmp_path / "x.npy")


def test_an_option_that_is_none_was_not_given() -> None:
    nothing: DataOptions = dict.fromkeys(DataOptions.__annotations__)  # type: ignore[assignment]
    assert len(load_data((torch.zeros(2, 3), [0, 1]), **nothing)) == 2


@pytest.mark.parametrize(
    ("module", "spec", "extra"),
    [
        ("sklearn", "sklearn:iris", "sklearn"),
        ("PIL", "images", "images"),
        ("pyarrow", "t.parquet", "parquet"),
    ],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, spec: str, extra: str
) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"x")
    (tmp_path / "t.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"hardpoint\[{extra}\]"):
        load_data(spec if ":" in spec else tmp_path / spec)
