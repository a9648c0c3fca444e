"""Linear bounds against those that an independent implementation, auto_LiRPA, computed for a network of Wong and Kolter."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bounded_nets import network_of
from hardpoint.bounds import Interval
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.crown import bent_values, both_ways, crown_spans
from hardpoint.bounds.graph import Graph
from hardpoint.bounds.linear import backward

DATA = Path(os.environ.get("HARDPOINT_DATA", ""))
EPS, IMAGES = 0.1, 100

pytestmark = pytest.mark.skipif(
    not os.environ.get("HARDPOINT_DATA") or not (DATA / "verify" / "oracle").is_dir(),
    reason="needs HARDPOINT_DATA",
)


def problem() -> tuple[Graph, Interval, Tensor, Tensor]:
    """The network, the boxes, their labels and the least margins found for them."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    held = torch.load(DATA / "models" / "mnist_kw_convex.pth", map_location="cpu", weights_only=True)
    net.load_state_dict(held.get("state_dict", held) if isinstance(held, dict) else held)
    images = torch.load(DATA / "verify" / "images" / "mnist_eran1000.pth", weights_only=True)
    x = images["x_uint8"][:IMAGES].view(-1, 1, 28, 28).double() / 255
    with (DATA / "verify" / "oracle" / "wk_mnist_eps0.1_eran1000.csv").open() as stream:
        known = [float(row["min_margin_lb_CROWN"]) for row in csv.DictReader(stream)]
    box = Interval((x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1))
    exact = network_of(net.eval().requires_grad_(False), x[:1].float()).exact
    return exact, box, images["y"][:IMAGES].long(), torch.tensor(known[:IMAGES]).double()


def margins(graph: Graph, spans: list[Interval], y: Tensor) -> Tensor:
    return backward(graph, spans, Claim.of_classes(y, 10).rows).least(spans[0]).amin(1)


def textbook(graph: Graph, box: Interval) -> list[Interval]:
    """Every value that is bent is known by linear bounds of each of its elements, and by nothing else."""
    spans, bent = [box], set(bent_values(graph))
    for k, step in enumerate(graph.steps, 1):
        spans.append(step.operator.interval(*(spans[i] for i in step.inputs)))
        if k in bent:
            like = spans[k].low
            every = torch.arange(like[0].numel()).expand(len(like), -1)
            found = [
                backward(graph, spans, both_ways(some, like), k).least(box).chunk(2, 1)
                for some in torch.split(every, 512, 1)
            ]
            low, high = (torch.cat([each[i] for each in found], 1).view_as(like) for i in (0, 1))
            spans[k] = Interval(low, -high)
    return spans


def test_linear_bounds_are_those_of_another_implementation():
    graph, box, y, known = problem()
    with torch.no_grad():
        found = torch.cat(
            [
                margins(graph, textbook(graph, box.of(some)), y[some])
                for some in torch.arange(IMAGES).split(20)
            ]
        )
    assert float(((found - known).abs() <= 1e-4).double().mean()) >= 0.99


def test_what_it_proves_is_proven():
    """Ours are cut with interval bounds and may draw other lines: some margins are a little higher, some lower."""
    graph, box, y, known = problem()
    with torch.no_grad():
        found = margins(graph, crown_spans(graph, box), y)
    assert torch.equal(found > 0, known > 0)
    assert float((found - known).mean()) >= 0
