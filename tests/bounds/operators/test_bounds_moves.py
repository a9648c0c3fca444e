"""Operators that move, pad, multiply by matrices or limit: they compute what torch does, and their intervals hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds import Interval, UnknownOperator, intervals, margin_bounds, traced
from hardpoint.bounds.crown import crown_margins
from hardpoint.bounds.operators.operator import DOUBLE, Affine, Transposes
from small_models import rand, randn

SHAPE = (2, 4, 3)
LAYERS = [
    nn.ConstantPad2d((1, 0, 2, 0), 2.5), nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.ReplicationPad2d(2),
    nn.CircularPad2d(1), nn.ReLU6(), nn.Hardtanh(-0.5, 0.25),
]  # fmt: skip


class Does(nn.Module):
    """A function of an image and some buffers."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(LAYERS)
        self.register_buffer("order", torch.tensor([2, 0, 0, -1]))
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("right", randn(3, 5, seed=1, dtype=torch.float64))
        self.register_buffer("left", randn(5, 4, seed=2, dtype=torch.float64))
        self.register_buffer("stack", randn(2, 3, 4, seed=3, dtype=torch.float64))
        self.register_buffer("level", randn(4, 1, seed=4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


MOVES = {
    "first": lambda net, x: x[:, 0],
    "number": lambda net, x: x[:, 1, 2, -1],
    "slices": lambda net, x: x[:, ::1, 1:4:2, None],
    "from the end": lambda net, x: x[..., -1],
    "picked": lambda net, x: x[:, :, net.order],
    "list": lambda net, x: x[:, [1, 1, 0]],
    "masked": lambda net, x: x[:, :, net.mask],
    "permuted": lambda net, x: x.permute(0, 3, 1, 2),
    "permuted by a function": lambda net, x: torch.permute(x, (0, 2, 1, 3)),
    "transposed": lambda net, x: x.transpose(-1, 1),
    "moved": lambda net, x: x.movedim(1, -1),
    "narrowed": lambda net, x: x.narrow(2, 1, 2),
    "selected": lambda net, x: x.select(2, -1),
    "by index": lambda net, x: torch.index_select(x, 2, net.order.abs()),
    "flipped": lambda net, x: x.flip(1, 3),
    "rolled": lambda net, x: torch.roll(x, (1, -1), (2, 3)),
    "spread": lambda net, x: x.unsqueeze(2).expand(-1, 2, 3, 4, 3),
    "repeated": lambda net, x: x.repeat(1, 2, 1, 1),
    "squeezed": lambda net, x: x[:, :1].squeeze(1).unsqueeze(-1),
    "unflattened": lambda net, x: x.flatten(1).unflatten(1, (4, 6)),
    "reordered": lambda net, x: functional.pixel_unshuffle(
        functional.pixel_shuffle(x.permute(0, 2, 1, 3), 2), 2
    ),
}
PADS = {
    "zeros": lambda net, x: functional.pad(x, (1, 2)),
    "a number": lambda net, x: functional.pad(x, (0, 1, 2, 0), value=-1.5),
    "channels": lambda net, x: functional.pad(x, (0, 0, 0, 0, 1, 1), "constant", 0.5),
    "cropped": lambda net, x: functional.pad(x, (-1, 1, 0, -2)),
    "mirrored": lambda net, x: functional.pad(x, (2, 1, 0, 1), mode="reflect"),
    "edge": lambda net, x: functional.pad(x, (1, 1, 3, 0), mode="replicate"),
    "around": lambda net, x: functional.pad(x, (1, 1, 1, 2), mode="circular"),
    **{type(layer).__name__: lambda net, x, i=i: net.layers[i](x) for i, layer in enumerate(LAYERS[:-2])},
}  # fmt: skip
PRODUCTS = {
    "right": lambda net, x: x @ net.right,
    "stacked right": lambda net, x: torch.matmul(x, net.stack),
    "left": lambda net, x: net.left @ x,
    "stacked left": lambda net, x: torch.matmul(net.stack, x),
    "batched": lambda net, x: x[:, 0] @ net.left[:3, :3],
    "computed": lambda net, x: x.matmul(net.right * 2 + 1),
}
LIMITS = {
    "clamped": lambda net, x: x.clamp(-0.2, 0.7),
    "clamped above": lambda net, x: torch.clamp(x, max=0.1),
    "clamped by a tensor": lambda net, x: torch.clip(x, net.level, net.level + 0.5),
    "crossed": lambda net, x: x.clamp(0.5, -0.5),
    "below": lambda net, x: x.clamp_min(0.1),
    "above": lambda net, x: torch.clamp_max(x, 0.1),
    "six": lambda net, x: functional.relu6(9 * x),
    "hard": lambda net, x: functional.hardtanh(x, -0.5, 0.25),
    "largest": lambda net, x: torch.maximum(x, x.flip(3)),
    "smallest": lambda net, x: torch.minimum(net.level, x),
    "six as a layer": lambda net, x: net.layers[-2](x) + net.layers[-1](x),
}
ALL = {**MOVES, **PADS, **PRODUCTS, **LIMITS}


def made(name: str) -> Does:
    return Does(ALL[name]).double().eval()


def image(n: int, seed: int) -> Tensor:
    return 2 * rand(n, *SHAPE, seed=seed, dtype=torch.float64) - 1


@pytest.mark.parametrize("name", ALL)
def test_an_operator_computes_what_torch_does_and_its_interval_holds(name):
    net = made(name)
    graph = traced(net, image(1, 0))
    for n in (1, 4):
        torch.testing.assert_close(graph(image(n, 1)), net(image(n, 1)), rtol=1e-14, atol=1e-14)
    ends = image(2, 2), image(2, 3)
    for outward in (None, DOUBLE):
        box = Interval(torch.minimum(*ends), torch.maximum(*ends), outward)
        spans = intervals(graph, box)
        assert all(span.outward is outward for span in spans)
        slack = 0.0 if outward else 1e-12
        for seed in range(50):
            u = rand(2, *SHAPE, seed=seed, dtype=torch.float64)
            x = torch.minimum(box.low + torch.where(u < 0.1, 0, u) * (box.high - box.low), box.high)
            for value, span in zip(graph.values(x), spans, strict=True):
                assert bool(((value >= span.low - slack) & (value <= span.high + slack)).all())


@pytest.mark.parametrize("name", {**MOVES, **PADS})
def test_moves_and_padding_widen_nothing(name):
    graph = traced(made(name), image(1, 0))
    ends = image(3, 1), image(3, 2)
    box = Interval(torch.minimum(*ends), torch.maximum(*ends), outward=DOUBLE)
    span = intervals(graph, box)[-1]
    assert torch.equal(span.low, graph(box.low))
    assert torch.equal(span.high, graph(box.high))


@pytest.mark.parametrize("name", {**MOVES, **PADS, **PRODUCTS})
def test_affine_operators_are_and_transposes_are_their_derivatives(name):
    graph = traced(made(name), image(1, 0))
    values = graph.values(image(2, 1))
    for step in graph.steps:
        assert isinstance(step.operator, Affine)
        taken = [values[place].detach().requires_grad_() for place in step.inputs]
        shift = [randn(*part.shape, seed=5, dtype=torch.float64) for part in taken]
        out = step.operator.value(*taken)
        away = step.operator.value(*(a + b for a, b in zip(taken, shift, strict=True)))
        back = step.operator.value(*(a - 2 * b for a, b in zip(taken, shift, strict=True)))
        torch.testing.assert_close(2 * (away - out), out - back, rtol=1e-9, atol=1e-9)
        rows = randn(*out.shape, seed=6, dtype=torch.float64)
        slope = torch.autograd.grad(out, taken, rows)[0]
        if isinstance(step.operator, Transposes):
            found = step.operator.transposed(rows, taken[0].shape[1:])
            torch.testing.assert_close(found, slope, rtol=1e-12, atol=1e-12)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(sorted(ALL)), st.floats(1e-6, 1.0))
def test_no_point_beats_linear_bounds_through_them(seed, name, eps):
    function = ALL[name]
    net = Does(lambda net, x: (torch.relu(function(net, x).reshape(x.shape[0], -1)) @ net.head) - 1).double()
    count = function(net, image(1, 0)).numel()
    net.register_buffer("head", randn(count, 3, seed=seed, dtype=torch.float64))
    x, y = image(3, seed), torch.arange(3)
    graph = traced(net.eval(), x)
    spans = intervals(graph, Interval(x - eps, x + eps))
    margins = crown_margins(graph, spans, y)
    for turn in range(5):
        u = rand(*x.shape, seed=seed + turn, dtype=torch.float64)
        scores = net(x - eps + 2 * eps * (u if turn % 2 else u.round()))
        found = scores.gather(1, y.view(-1, 1)) - scores
        for low in (margins, margin_bounds(graph, spans, y)):
            assert bool((found >= low - 1e-9 * (1 + found.abs())).all())


REFUSED = {
    "batch slice": lambda net, x: x[1:],
    "batch order": lambda net, x: x.flip(0),
    "batch roll": lambda net, x: x.roll(1),
    "batch repeated": lambda net, x: x.repeat(2, 1, 1, 1),
    "batch transposed": lambda net, x: x.transpose(0, 1),
    "batch element": lambda net, x: x[0],
    "batch padded": lambda net, x: functional.pad(x, (0, 0, 0, 0, 0, 0, 1, 0)),
    "picked by the input": lambda net, x: x[:, :, (x > 0).sum()],
    "picked by numbers": lambda net, x: x[:, :, x.argmax()],
    "padded with NaN": lambda net, x: functional.pad(x, (1, 1), value=float("nan")),
    "padded without end": lambda net, x: functional.pad(x, (1, 1), value=float("inf")),
    "limits from the input": lambda net, x: x.clamp(x.mean(), 1),
    "NaN limit": lambda net, x: x.clamp(float("nan"), 1),
    "lone vector": lambda net, x: x @ net.right[:, 0],
    "product with itself": lambda net, x: x @ x.transpose(2, 3),
    "written slice": lambda net, x: _written_slice(x * 1),
    "written view": lambda net, x: _written_view(x * 1),
    "clamped in place": lambda net, x: _clamped(x * 1),
    "six in place": lambda net, x: _six(x * 1),
}


def _written_slice(z: Tensor) -> Tensor:
    z[:, 0].relu_()
    return z


def _written_view(z: Tensor) -> Tensor:
    return torch.relu_(z.transpose(1, 2)[:, 1:]).flatten(1).sum(1, keepdim=True) + z.flatten(1)


def _clamped(z: Tensor) -> Tensor:
    return z.clamp_(0, 1) + z


def _six(z: Tensor) -> Tensor:
    return functional.hardtanh(z, -0.5, 0.5, True) + z


@pytest.mark.parametrize("what", REFUSED)
def test_what_mixes_inputs_or_hides_a_change_is_refused(what):
    from hardpoint.core.errors import ModelError

    with pytest.raises(ModelError):
        traced(Does(REFUSED[what]).double().eval(), image(4, 1))


def test_refusals_say_why():
    with pytest.raises(UnknownOperator, match="does not keep the inputs of a batch apart"):
        traced(Does(lambda net, x: x.flip(0)).eval(), image(2, 1))


def test_a_private_view_may_be_written_into():
    net = Does(lambda net, x: (x * 2)[:, 1:].relu_()).double().eval()
    torch.testing.assert_close(traced(net, image(1, 0))(image(3, 1)), net(image(3, 1)))


def test_empty_batches_pass():
    for name in ALL:
        graph = traced(made(name), image(1, 0))
        assert len(graph(image(1, 0)[:0])) == 0
