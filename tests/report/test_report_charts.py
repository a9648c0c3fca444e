from __future__ import annotations

import math
import re
import struct
import zlib
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from report_records import HOSTILE

from hardpoint.core.errors import DataError
from hardpoint.evidence import CurvePoint, Rate
from hardpoint.report import charts
from hardpoint.report.png import data_uri, png

POINTS = [CurvePoint(x, Rate.of(k, 50)) for x, k in ((1.0, 45), (2.0, 30), (4.0, 5))]
AXIS = charts.Axis("eps")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
def test_ticks_are_round_few_even_and_inside(low: float, span: float, count: int) -> None:
    high = low + span
    at = charts.ticks(low, high, count)
    assert len(at) <= count + 1
    slack = 1e-6 * (abs(low) + abs(high) + span)
    assert all(low - slack <= t <= high + slack for t in at)
    steps = np.diff(at)
    if len(steps):
        assert np.allclose(steps, steps[0], rtol=1e-3)
        mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6)
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-2


@given(st.floats(1e-6, 1e6), st.floats(1.5, 1e8))
def test_log_ticks_lie_inside(low: float, factor: float) -> None:
    at = charts.log_ticks(low, low * factor)
    assert len(at) <= 9
    assert all(low <= t <= low * factor for t in at)


@given(st.integers(0, 5000), st.integers(2, 50))
def test_thinning_keeps_the_ends(n: int, limit: int) -> None:
    kept = charts.thinned(range(n), limit)
    assert len(kept) == min(n, limit)
    assert kept == sorted(set(kept))
    if n:
        assert (kept[0], kept[-1]) == (0, n - 1)


def test_a_curve_is_well_formed_and_draws_every_interval() -> None:
    marks = [charts.Mark(0.0, Rate.of(48, 50), HOSTILE)]
    svg = charts.curve(POINTS, charts.Axis(HOSTILE), marks=marks, gate=0.5)
    tree = ET.fromstring(svg)
    assert tree.get("role") == "img"
    assert tree.get("aria-label")
    band = tree.find("polygon[@class='band']")
    assert band is not None
    corners = [tuple(map(float, c.split(","))) for c in band.get("points", "").split()]
    assert len(corners) == 2 * len(POINTS)
    heights = [y for _, y in corners]
    assert all(up < down for up, down in zip(heights[:3], heights[:2:-1], strict=True))
    assert len(tree.findall("circle")) == len(POINTS)
    assert "<script" not in svg


def test_a_falling_curve_falls_on_the_page() -> None:
    line = ET.fromstring(charts.curve(POINTS, AXIS)).find("polyline")
    assert line is not None
    corners = [tuple(map(float, c.split(","))) for c in line.get("points", "").split()]
    assert corners == sorted(corners)
    assert [y for _, y in corners] == sorted(y for _, y in corners)


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert charts.curve([], AXIS) == ""
    assert charts.curve(POINTS[:1], AXIS) == ""
    assert charts.curve([CurvePoint(0.0, Rate.of(1, 2))], charts.Axis("q", log=True)) == ""
    with_infinite = [*POINTS, CurvePoint(math.inf, Rate.of(0, 50))]
    assert charts.curve(with_infinite, AXIS) == charts.curve(POINTS, AXIS)
    assert charts.curve([*POINTS, CurvePoint(math.nan, Rate.of(0, 50))], AXIS) == charts.curve(POINTS, AXIS)
    log = charts.Axis("queries", log=True)
    assert charts.curve([CurvePoint(0.0, Rate.of(9, 9)), *POINTS], log) == charts.curve(POINTS, log)


def test_a_curve_holds_a_bounded_number_of_points() -> None:
    many = [CurvePoint(float(x), Rate.of(5, 10)) for x in range(1, 30_000)]
    svg = charts.curve(many, charts.Axis("queries", log=True))
    line = ET.fromstring(svg).find("polyline")
    assert line is not None
    assert len(line.get("points", "").split()) == charts.MAX_POINTS


@given(st.integers(1, 400), st.data())
def test_a_bar_and_its_whisker_stay_inside(n: int, data: st.DataObject) -> None:
    rate = Rate.of(data.draw(st.integers(0, n)), n)
    svg = charts.bar(rate, gate=0.5, clean=Rate.of(n, n))
    ET.fromstring(svg)
    assert all(0 <= float(v) <= 100 for v in re.findall(r'="([\d.]+)%"', svg))
    assert f"n = {n}" in svg


def test_series_with_holes_and_constants_are_drawn() -> None:
    svg = charts.series([1.0, math.nan, 2.0, math.inf, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0], HOSTILE)
    assert "nan" not in svg
    assert "inf" not in svg
    ET.fromstring(svg)
    assert charts.series([1.0, 1.0], [1.0, 1.0], "flat")
    assert charts.series([1.0], [2.0], "short") == ""
    long = charts.series([0.0] * 10**5, [1.0] * 10**5, "long")
    assert len(long) < 60_000


def decoded(file: bytes) -> np.ndarray:
    """The pixels of a PNG without filters, read by the standard alone; checks every chunk's sum."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(file):
        (size,) = struct.unpack(">I", file[at : at + 4])
        kind, body = file[at + 4 : at + 8], file[at + 8 : at + 8 + size]
        assert struct.unpack(">I", file[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])).flatmap(
        lambda shape: arrays(np.uint8, shape)
    )
)
def test_png_keeps_every_pixel(pixels: np.ndarray) -> None:
    assert np.array_equal(decoded(png(pixels)), pixels)
    assert np.array_equal(decoded(png(pixels[:, ::-1])), pixels[:, ::-1])


def test_png_is_read_by_an_imaging_library() -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    import io

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(image.open(io.BytesIO(png(pixels)))), pixels)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8), np.zeros((2, 2)), np.zeros(3, np.uint8)],
)
def test_what_is_no_picture_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match="no picture"):
        data_uri(pixels)
