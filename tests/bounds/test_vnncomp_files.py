"""Every property and network of five VNN-COMP benchmarks: read, and true to the witnesses that tools found."""

from __future__ import annotations

import csv
import functools
import gzip
import os
from pathlib import Path

import pytest
import torch

from hardpoint.bounds import Interval, intervals
from hardpoint.bounds.onnx import OnnxNetwork, read_network
from hardpoint.bounds.operators.operator import DOUBLE
from hardpoint.bounds.vnnlib import Property, holds, read_vnnlib

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FOLDER = Path(os.environ.get("HARDPOINT_DATA", "")) / "verify" / "vnncomp"
pytestmark = pytest.mark.skipif(
    not os.environ.get("HARDPOINT_DATA") or not FOLDER.is_dir(), reason="needs HARDPOINT_DATA"
)
SIZES = {
    "acasxu": (45, 10),
    "eran_sigmoid": (1, 36),
    "mnist_fc": (3, 30),
    "rl_benchmarks": (3, 296),
    "verivital": (2, 60),
}
"""How many networks and properties each has."""


def rows(bench: str) -> list[dict[str, str]]:
    with (FOLDER / bench / "verdicts.csv").open() as file:
        return list(csv.DictReader(file))


@functools.cache
def wanted(bench: str, name: str) -> Property:
    path = FOLDER / bench / name
    return read_vnnlib(path if path.exists() else path.with_name(path.name + ".gz"))


@functools.cache
def network(bench: str, name: str) -> OnnxNetwork:
    first = next(row["vnnlib"] for row in rows(bench) if row["onnx"] == name)
    return read_network(FOLDER / bench / name, *wanted(bench, first).hull())


@pytest.mark.parametrize("bench", SIZES)
def test_properties_are_of_their_networks(bench):
    pairs = {(row["onnx"], row["vnnlib"]) for row in rows(bench)}
    assert len({first for first, _ in pairs}) == SIZES[bench][0]
    assert len({second for _, second in pairs}) == SIZES[bench][1]
    for onnx, vnnlib in pairs:
        said, net = wanted(bench, vnnlib), network(bench, onnx)
        assert (said.inputs, said.outputs) == (net.inputs, net.outputs)
        assert said.cases
    disjunctive = [vnnlib for _, vnnlib in pairs if len(wanted(bench, vnnlib).grouped()) > 1]
    assert set(disjunctive) == ({"vnnlib/prop_6.vnnlib"} if bench == "acasxu" else set())


@pytest.mark.parametrize("bench", SIZES)
def test_graphs_compute_what_the_files_do_and_intervals_hold(bench):
    for place, name in enumerate(sorted({row["onnx"] for row in rows(bench)})):
        net = network(bench, name)
        first = next(row["vnnlib"] for row in rows(bench) if row["onnx"] == name)
        low, high = wanted(bench, first).hull()
        u = torch.rand(100, len(low), generator=torch.Generator().manual_seed(place), dtype=torch.float64)
        x = torch.where(u > 0.9, high, low + torch.where(u < 0.1, 0, u) * (high - low))
        served = net.model.answers(x.float()).flatten(1).double()
        near = 1e-6 + 2e-6 * float(served.abs().max())
        torch.testing.assert_close(net.graph(x.float().double()), served, rtol=0, atol=near)
        spans = intervals(net.graph, Interval(low[None], high[None], outward=DOUBLE))
        for value, span in zip(net.graph.values(x), spans, strict=True):
            assert bool(((value >= span.low) & (value <= span.high)).all())


@pytest.mark.parametrize("bench", ["acasxu", "mnist_fc", "rl_benchmarks"])
def test_witnesses_that_need_no_tolerance_hold(bench):
    strict = {(row["onnx"], row["vnnlib"]): row["witness_strict"] == "1" for row in rows(bench)}
    with gzip.open(FOLDER / bench / "witness.csv.gz", "rt") as file:
        witnesses = [row for row in csv.reader(file) if row[0] != "onnx"]
    assert witnesses
    for onnx, vnnlib, *numbers in witnesses:
        said, net = wanted(bench, vnnlib), network(bench, onnx)
        x = torch.tensor([float(number) for number in numbers if number], dtype=torch.float64)
        for y in (net.graph(x[None])[0], net.model.answers(x[None]).flatten()):
            assert holds(said, x, y) is strict[onnx, vnnlib]
