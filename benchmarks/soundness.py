"""Drawn points against the bounds of the verification competition's networks: none may lie outside.

BENCHMARKS=acasxu,rl_benchmarks POINTS=10000 python -m benchmarks.run --only soundness

For every labelled instance, the answers of each box are bounded by intervals, linear bounds and chosen lines, with all
rounding counted; half the points are drawn, half are corners. Exact answers are the float64 graph's, those of float32
onnxruntime's, which must stay within what `deployed` allows for.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Options, Table
from benchmarks.verification import FOLDER, NAMES, file_of
from hardpoint.bounds.alpha import Ascent, alpha_linear, alpha_spans
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.execution import execution_losses
from hardpoint.bounds.interval import intervals
from hardpoint.bounds.linear import backward
from hardpoint.bounds.onnx import OnnxNetwork, read_network
from hardpoint.bounds.operators.operator import DOUBLE, Interval
from hardpoint.bounds.vnnlib import read_vnnlib

_AT_ONCE = 500


def run(options: Options) -> list[Table]:
    """One row per benchmark."""
    count = int(os.environ.get("POINTS", "1000" if options.quick else "10000"))
    table = Table(
        f"Bounds of the verification competition's networks against {count} points of each box",
        [
            "benchmark",
            "boxes",
            "points outside a bound",
            "boxes bounded in float32",
            "float32 outside",
            "nearest",
        ],
    )
    for name in os.environ.get("BENCHMARKS", ",".join(NAMES)).split(","):
        with (FOLDER / name / "verdicts.csv").open() as stream:
            rows = [row for row in csv.DictReader(stream) if row["verdict"] in ("sat", "unsat")]
        rows = rows[:: 10 if options.quick else 1]
        boxes, outside, finite, deployed, nearest = 0, 0, 0, 0, float("inf")
        for number, row in enumerate(rows):
            for net, box in _boxes(
                file_of(FOLDER / name, row["onnx"]), file_of(FOLDER / name, row["vnnlib"])
            ):
                found = _against(net, box, count, seed=number)
                boxes, outside, finite = boxes + 1, outside + found[0], finite + found[1]
                deployed, nearest = deployed + found[2], min(nearest, found[3])
            options.say(f"{row['onnx']} {row['vnnlib']}: {outside} outside so far")
        table.rows.append([name, str(boxes), str(outside), str(finite), str(deployed), f"{nearest:.2g}"])
    table.notes.append(
        "Nearest: the least distance from an answer to its bound, as a share of the bound's width, over all points."
    )
    return [table]


def _boxes(onnx: Path, vnnlib: Path) -> Sequence[tuple[OnnxNetwork, Interval]]:
    wanted = read_vnnlib(vnnlib)
    net = read_network(onnx, *wanted.hull())
    firsts = [group[0] for group in wanted.grouped()]
    return [(net, Interval(case.low.unsqueeze(0), case.high.unsqueeze(0), DOUBLE)) for case in firsts]


def _against(net: OnnxNetwork, box: Interval, count: int, seed: int) -> tuple[int, bool, int, float]:
    """Points outside a bound, whether float32 has one too, its answers outside that, and the nearest that any came."""
    graph = net.network.exact
    every = torch.eye(net.outputs, dtype=torch.float64)
    rows = torch.cat([every, -every]).unsqueeze(0)
    with torch.no_grad():
        plain, spans = intervals(graph, box), crown_spans(graph, box)
        crown = backward(graph, spans, rows).least(box)[0]
    narrow = alpha_spans(net.network, spans, Ascent(steps=4))
    alpha = alpha_linear(net.network, narrow, rows, Ascent(steps=6)).least(box)[0]
    loss = execution_losses(graph, spans, rows)[0]
    end = plain[graph.output]
    lows = torch.stack([torch.cat([end.low[0], -end.high[0]]), crown, alpha])
    generator = torch.Generator().manual_seed(seed)
    outside = wrong = 0
    nearest = torch.inf
    for start in range(0, count, _AT_ONCE):
        u = torch.rand(
            min(_AT_ONCE, count - start), *box.low.shape[1:], generator=generator, dtype=torch.float64
        )
        u[::2] = u[::2].round()
        x = torch.minimum(torch.maximum(box.low + u * (box.high - box.low), box.low), box.high)
        with torch.no_grad():
            values = _both(graph(x))
        gap = values.unsqueeze(1) - lows
        outside += int((~(gap >= 0)).any(2).any(1).sum())
        width = -(lows[:, : net.outputs] + lows[:, net.outputs :]).repeat(1, 2)
        nearest = min(nearest, float((gap / width.clamp_min(1e-300)).min()))
        single = _inside(x, box)
        answers = _both(net.model.answers(single).double().flatten(1))
        wrong += int((~(answers >= lows.amax(0) - loss)).any(1).sum())
    return outside, bool(loss.isfinite().all()), wrong, nearest


def _both(values: Tensor) -> Tensor:
    return torch.cat([values, -values], 1)


def _inside(x: Tensor, box: Interval) -> Tensor:
    """float32 points of the box, where it holds any."""
    single, far = x.float(), torch.tensor(torch.inf)
    single = torch.where(single.double() > box.high, torch.nextafter(single, -far), single)
    return torch.where(single.double() < box.low, torch.nextafter(single, far), single)
