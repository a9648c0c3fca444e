"""Real files, where they are at hand: HARDPOINT_DATA names their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.data import check_dataset, load_data

ROOT = Path(
    os.environ.get("HARDPOINT_DATA") or Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
)


def real(name: str) -> Path:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not under HARDPOINT_DATA ({ROOT})")
    return path


def test_mnist() -> None:
    data = load_data(real("images/mnist/t10k-images-idx3-ubyte.gz"))
    assert (len(data), data.shape) == (10_000, (1, 28, 28))
    x, y = data.rows(torch.arange(10))
    assert y.tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    sums = (x.double() * 255).round().sum(dim=(1, 2, 3)).long().tolist()
    assert sums == [18454, 28850, 9871, 37014, 19237, 13855, 21184, 21062, 30734, 31350]
    seen = check_dataset(data, Box(0, 1), 10)
    assert (seen.low, seen.high) == (0.0, 1.0)
    assert seen.label_counts == (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


def test_spambase() -> None:
    path = real("text_tabular/tabular/spambase.csv.gz")
    data = load_data(path, label="Decision")
    assert (len(data), data.shape) == (4601, (57,))
    assert data.features is not None
    assert data.features[0] == "word_freq_make"
    seen = check_dataset(data, UNBOUNDED, 2)
    assert seen.label_counts == (2788, 1813)
    assert seen.low == 0
    x, _ = data.rows(torch.tensor([0]))
    assert x[0, -3:].tolist() == pytest.approx([3.756, 61, 278])


def test_gtsrb() -> None:
    data = load_data(real("images/gtsrb/gtsrb_32x32_subset.npz"))
    assert (len(data), data.shape) == (5327, (3, 32, 32))
    seen = check_dataset(data, Box(0, 1), 43)
    assert min(seen.label_counts) > 0
    assert data.describe()["reading"]["stored_layout"] == "HWC"


def test_pneumonia() -> None:
    data = load_data(
        real("images/medmnist/pneumoniamnist.npz"),
        keys=("test_images", "test_labels"),
        classes=("normal", "pneumonia"),
    )
    assert data.shape == (1, 28, 28)
    assert check_dataset(data, Box(0, 1)).label_counts == (234, 390)


def test_phishing_urls() -> None:
    data = load_data(
        real("text_tabular/tabular/phishing_urls.csv.gz"),
        label="status",
        classes=("legitimate", "phishing"),
        columns=["length_url", "nb_dots", "google_index"],
    )
    assert check_dataset(data, UNBOUNDED).label_counts == (5715, 5715)
