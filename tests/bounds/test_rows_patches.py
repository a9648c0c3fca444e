"""Linear bounds of convolutional networks by patches are those by dense rows, and rows of affine networks are derivatives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bounded_nets import NETS, net_and_inputs, points_in
from hardpoint.bounds import Interval, traced
from hardpoint.bounds.crown import both_ways, crown_spans
from hardpoint.bounds.graph import Graph
from hardpoint.bounds.linear import backward
from hardpoint.bounds.operators.operator import DOUBLE
from hardpoint.bounds.rows import Dense, Patches
from small_models import rand, randn, seeded

CONVOLUTIONS = [
    {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for kernel, stride, padding, dilation, groups in itertools.product(
        ((1, 1), (3, 2), (2, 3)), (1, (2, 3)), (0, 1, (2, 1)), (1, (1, 2)), (1, 2)
    )
]


def every_element(graph: Graph, x: Tensor, place: int) -> Tensor:
    """int64 ``[n, m]``: the places of all elements of a value."""
    size = graph.values(x)[place][0].numel()
    return torch.arange(size).expand(len(x), -1)


def both_forms(graph: Graph, spans: list[Interval], x: Tensor, place: int) -> None:
    """Bounds of every element of a value agree, whichever form the rows have; so do the linear functions."""
    rows = both_ways(every_element(graph, x, place), spans[place].low)
    assert isinstance(rows, Patches)
    patches, dense = (backward(graph, spans, form, place) for form in (rows, rows.dense()))
    torch.testing.assert_close(patches.least(spans[0]), dense.least(spans[0]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(patches.shift, dense.shift, rtol=1e-10, atol=1e-10)
    assert patches.rows is not None
    assert dense.rows is not None
    torch.testing.assert_close(patches.rows.dense().values, dense.rows.dense().values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(patches.corner(spans[0]), dense.corner(spans[0]))


@pytest.mark.parametrize(
    "settings", CONVOLUTIONS, ids=lambda each: "-".join(str(part) for part in each.values())
)
def test_rows_of_convolutions_are_their_derivatives(settings):
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 4, **settings), nn.Conv2d(4, 2, 2, stride=(2, 1)))
    ).double()
    x = randn(2, 2, 9, 9, seed=1, dtype=torch.float64)
    graph, box = traced(net, x), Interval(x, x + 1, DOUBLE)
    spans = crown_spans(graph, box)
    both_forms(graph, spans, x, graph.output)
    places = every_element(graph, x, graph.output)
    linear = backward(graph, spans, both_ways(places, spans[-1].low))
    assert linear.rows is not None
    count = places.shape[1]
    matrix = torch.autograd.functional.jacobian(lambda z: net(z.unsqueeze(0)).flatten(), x[0])
    found = linear.rows.dense().values
    torch.testing.assert_close(found[0, :count], matrix)
    torch.testing.assert_close(found[1, count:], -matrix)
    torch.testing.assert_close(linear.shift[0, :count], net(torch.zeros_like(x[:1])).flatten())


class Skips(nn.Module):
    """Residual sums of patches of several sizes, a 1x1 shortcut with a stride, a value added to itself, and channels
    that are scaled."""

    def __init__(self, stride: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(4, 4, kernel, stride=stride, padding=kernel // 2, groups=2)
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.short = nn.Conv2d(4, 4, 1, stride=stride, bias=False)
        self.register_buffer("spread", torch.tensor([0.4, -0.7]).view(1, 2, 1, 1))
        self.register_buffer("gain", torch.tensor([1.5, -0.5, 0.0, 2.0]).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = functional.relu(self.norm(self.first((x - 0.1) / self.spread)) * self.gain)
        a = self.last(functional.relu(self.wide(z))) + self.short(z)
        b = functional.leaky_relu(a, 0.1) + a
        return functional.relu(self.last(b) + b) + b


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 5), (3, 5), (1, 1)])
@torch.no_grad()
def test_residual_networks_have_the_same_bounds_in_both_forms(stride, kernel):
    def made() -> nn.Module:
        net = Skips(stride, kernel).double().train()
        for _ in range(3):
            net(torch.randn(8, 2, 7, 6, dtype=torch.float64))
        nn.init.normal_(net.norm.weight)
        return net.eval()

    net, x = seeded(made), randn(2, 2, 7, 6, seed=3, dtype=torch.float64)
    graph = traced(net, x)
    for outward in (None, DOUBLE):
        spans = crown_spans(graph, Interval(x - 0.05, x + 0.05, outward))
        for place in range(2, len(graph.steps) + 1, 2 - stride % 2):
            both_forms(graph, spans, x, place)
    for z in (x, x - 0.05, x + 0.05, x - 0.05 + 0.1 * rand(*x.shape, seed=4, dtype=torch.float64)):
        for span, value in zip(spans, graph.values(z), strict=True):
            assert bool(((span.low <= value) & (value <= span.high)).all())


def test_patches_of_one_place_are_dense_rows_of_one_element():
    shape = (3, 4, 5)
    places = torch.tensor([[0, 59, 17], [23, 24, 5]])
    found = Patches.single(places, shape, torch.zeros(1, dtype=torch.float64))
    wanted = (
        torch.zeros(2, 3, 60, dtype=torch.float64).scatter(2, places.unsqueeze(2), 1.0).view(2, 3, *shape)
    )
    assert torch.equal(found.dense().values, wanted)
    values = randn(2, *shape, seed=1, dtype=torch.float64)
    assert torch.equal(found.dot(values), Dense(wanted).dot(values))
    assert torch.equal(found.reach(values.abs()), Dense(wanted).reach(values.abs()))


def random_patches(seed: int, h: int, w: int, apart: bool) -> Patches:
    """Rectangles that partly leave the image, 0 outside."""
    shape, generator = (2, 5, 4), torch.Generator().manual_seed(seed)
    top = torch.randint(-2, 4, (2, 3), generator=generator)
    left = torch.randint(-2, 3, (2, 3), generator=generator)
    if not apart:
        top, left = top[:1, :1].expand(2, 3).clone(), left[:1, :1].expand(2, 3).clone()
    values = torch.randn(2, 3, 2, h, w, generator=generator, dtype=torch.float64)
    return Patches(values, top, left, shape).cut()


@pytest.mark.parametrize("seed", range(20))
def test_sums_norms_and_products_of_patches_are_those_of_dense_rows(seed):
    first = random_patches(seed, 1 + seed % 4, 1 + seed % 3, apart=bool(seed % 2))
    second = random_patches(seed + 99, 2 + seed % 2, 1 + seed % 5, apart=bool(seed % 3))
    for other in (
        second,
        Patches(second.values, first.top - 1, first.left + 1, first.shape).cut(),
        second.dense(),
    ):
        torch.testing.assert_close(
            first.plus(other).dense().values, first.dense().values + other.dense().values
        )
    values = randn(2, 2, 5, 4, seed=seed, dtype=torch.float64)
    for whole in (values, values[:1]):
        torch.testing.assert_close(first.dot(whole), first.dense().dot(whole.expand(2, -1, -1, -1)))
    torch.testing.assert_close(first.reach(values.abs()), first.dense().reach(values.abs()))
    for order in (1.0, 2.0, torch.inf):
        torch.testing.assert_close(first.norm(order), first.dense().norm(order))


def test_norms_of_tiny_and_huge_coefficients_are_neither_0_nor_infinite():
    rows = torch.tensor([[[3e-200, 4e-200], [3e200, 4e200], [0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(
        Dense(rows).norm(2), torch.tensor([[5e-200, 5e200, 0.0]], dtype=torch.float64), rtol=1e-12, atol=0
    )
    small = Dense(torch.tensor([[[0.0, 0.0]]], dtype=torch.float64, requires_grad=True))
    (slope,) = torch.autograd.grad(small.norm(2).sum(), small.values)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_rows_of_every_operator_enclose_every_value(name):
    net, x = net_and_inputs(name)
    graph = traced(net, x)
    for outward, eps in itertools.product((None, DOUBLE), (1e-6, 0.1, 2.0)):
        box = Interval(x - eps, x + eps, outward)
        spans = crown_spans(graph, box)
        slack = 0.0 if outward else 1e-11
        for row in range(len(x)):
            points = points_in(box.of(torch.tensor([row])), 100, seed=row)
            for span, value in zip(spans, graph.values(points), strict=True):
                size = slack * (1 + span.size[row])
                assert bool(((value >= span.low[row] - size) & (value <= span.high[row] + size)).all())


def test_a_convolution_along_one_axis_has_its_derivative_as_rows():
    for stride, padding, dilation, groups in itertools.product((1, 3), (0, 2), (1, 2), (1, 2)):
        layer = nn.Conv1d(2, 4, 3, stride, padding, dilation, groups)
        net, x = nn.Sequential(layer).double(), randn(2, 2, 11, seed=2, dtype=torch.float64)
        graph = traced(net, x)
        spans = crown_spans(graph, Interval(x - 1, x + 1))
        size = spans[-1].low[0].numel()
        rows = (
            torch.eye(size, dtype=torch.float64).view(1, size, *spans[-1].low.shape[1:]).expand(2, -1, -1, -1)
        )
        linear = backward(graph, spans, rows)
        assert linear.rows is not None
        matrix = torch.autograd.functional.jacobian(lambda z: net(z.unsqueeze(0)).flatten(), x[0])  # noqa: B023
        torch.testing.assert_close(linear.rows.dense().values[0], matrix)
