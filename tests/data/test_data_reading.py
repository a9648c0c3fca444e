"""Units and axes: pixels to [0, 1], channels first, nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hardpoint.core.errors import DataError
from hardpoint.data.reading import choose_reading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_byte_is_divided_by_255_exactly(dtype: torch.dtype) -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    x = choose_reading((16, 16), np.uint8, dtype=dtype).apply(stored).flatten()
    assert x.dtype == dtype
    assert x[0] == 0
    assert x[255] == 1
    if dtype == torch.float32:
        assert torch.equal(x, torch.arange(256.0) / 255)
    else:
        assert torch.allclose(x, torch.arange(256.0, dtype=dtype) / 255, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("stored", "dtype", "shape", "scaled"),
    [
        ((28, 28), "u1", (1, 28, 28), True),
        ((28, 28), "f4", (28, 28), False),
        ((32, 24, 3), "u1", (3, 32, 24), True),
        ((32, 24, 3), "f4", (3, 32, 24), False),
        ((32, 24, 1), "u1", (1, 32, 24), True),
        ((3, 32, 24), "u1", (3, 32, 24), True),
        ((3, 32, 3), "u1", (3, 32, 3), True),
        ((1, 28, 1), "f4", (1, 28, 1), False),
        ((32, 24, 5), "u1", (32, 24, 5), True),
        ((64,), "u1", (64,), False),
        ((8, 8, 3), "i8", (3, 8, 8), False),
        ((2, 4, 8, 8), "u1", (2, 4, 8, 8), True),
    ],
)
def test_defaults(stored: tuple[int, ...], dtype: str, shape: tuple[int, ...], scaled: bool) -> None:
    reading = choose_reading(stored, dtype)
    assert reading.shape(stored) == shape
    assert (reading.scale == 1 / 255) == scaled
    assert tuple(reading.apply(np.zeros((2, *stored), dtype)).shape) == (2, *shape)


def test_what_cannot_be_decided_is_said() -> None:
    assert "ambiguous" in str(choose_reading((3, 32, 3), "u1").describe()["note"])
    assert "note" not in choose_reading((32, 32, 3), "u1").describe()


def test_channels_move_without_mixing_pixels() -> None:
    stored = np.arange(2 * 5 * 6 * 3, dtype=np.float32).reshape(2, 5, 6, 3)
    x = choose_reading((5, 6, 3), "f4").apply(stored)
    assert x.is_contiguous()
    for c in range(3):
        assert np.array_equal(x[1, c].numpy(), stored[1, :, :, c])


def test_options_override_the_defaults() -> None:
    kept = choose_reading((28, 28), "u1", scale=1, layout="as-is")
    assert kept.apply(np.full((1, 28, 28), 200, np.uint8)).max() == 200
    assert kept.shape((28, 28)) == (28, 28)
    assert choose_reading((3, 8, 3), "u1", layout="HWC").shape((3, 8, 3)) == (3, 3, 8)
    assert choose_reading((64,), "f8", scale=1 / 16).apply(np.full((1, 64), 8.0)).unique().tolist() == [0.5]


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.0},
        {"scale": float("nan")},
        {"scale": -1.0},
        {"layout": "NHWC"},
        {"layout": "HWC"},
        {"dtype": torch.int64},
    ],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(DataError):
        choose_reading((28, 28), "u1", **options)  # type: ignore[arg-type]
