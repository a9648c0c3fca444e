"""Networks that symbolic tracing cannot follow are exported, and read with the same care."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds import Interval, UnknownOperator, intervals, traced
from hardpoint.bounds.operators.operator import DOUBLE
from hardpoint.core.errors import ModelError
from small_models import rand, seeded


class Follows(nn.Module):
    """Branches on a shape, which symbolic tracing refuses, and goes on."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.first, self.norm, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(16, 3)
        self.register_buffer("mean", torch.tensor([0.4, 0.5]).view(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 2:
            raise ValueError("two channels")
        return self.function(self, x)


def _whole(net: Follows, x: Tensor) -> Tensor:
    z = (x - net.mean) / torch.tensor([0.2, 0.3]).view(2, 1, 1)
    z = functional.relu(net.norm(net.first(z)), inplace=True)
    left, right = functional.max_pool2d(z, 2).chunk(2, 1)
    z = torch.cat([1 - left, 2 * right, left + right.clamp(0, 0.5)], 1)[:, [0, 2, 4, 5]]
    return net.last(functional.dropout(z, training=net.training).flatten(1))


def _loop(net: Follows, x: Tensor) -> Tensor:
    total = functional.pad(x, (0, 0, 0, 0, 0, 2))
    for k in range(x.shape[-1] - 2):
        total = total + torch.sigmoid(net.first(x)) * (k + 1)
    rows = total.permute(0, 2, 3, 1).reshape(x.shape[0], 16, 4)
    return net.last(rows.mean(2)) @ net.last.weight[:, :3].relu()


def _parts(net: Follows, x: Tensor) -> Tensor:
    one, two = net.first(x).tanh().split([1, 3], 1)
    top, _, _, bottom = two.unbind(2)
    return net.last(torch.cat([one.flatten(1), (top - bottom).flatten(1)[:, :0]], 1))


FOLLOWED = {"whole": _whole, "loop": _loop, "parts": _parts}


def made(function) -> Follows:
    net = seeded(lambda: Follows(function)).double()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    return net.eval()


def image(n: int, seed: int = 1) -> Tensor:
    return rand(n, 2, 4, 4, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_network_that_branches_on_shapes_is_followed(name):
    net, x = made(FOLLOWED[name]), image(5)
    before = set(vars(net)), set(net.state_dict())
    graph = traced(net, x[:1])
    assert (set(vars(net)), set(net.state_dict())) == before
    for n in (1, 2, 5):
        torch.testing.assert_close(graph(x[:n]), net(x[:n]), rtol=1e-12, atol=1e-12)
    spans = intervals(graph, Interval(x - 0.1, x + 0.1, outward=DOUBLE))
    for seed in range(20):
        values = graph.values(x + 0.1 * (2 * image(5, seed) - 1))
        for value, span in zip(values, spans, strict=True):
            assert bool(((value >= span.low) & (value <= span.high)).all())
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.25).add_(0.01)
    torch.testing.assert_close(graph(x), net(x), rtol=1e-12, atol=1e-12)
    weights = [net.first.weight, net.last.bias]
    wanted = torch.autograd.grad(net(x).sin().sum(), weights)
    torch.testing.assert_close(torch.autograd.grad(graph(x).sin().sum(), weights), wanted)


def _hidden_write(net: Follows, x: Tensor) -> Tensor:
    z = net.first(x)
    z[:, 0].relu_()
    return net.last(z.mean(1).flatten(1))


def _shared_write(net: Follows, x: Tensor) -> Tensor:
    z = net.first(x)
    a, _ = z.chunk(2, 1)
    return net.last(torch.cat([a.relu_(), z], 1).mean(1).flatten(1))


REFUSED = {
    "branch on values": lambda net, x: net.last(x.mean(1).flatten(1)) if x.sum() > 0 else x.flatten(1),
    "value as a number": lambda net, x: net.last(x.mean(1).flatten(1)) * float(x.max()),
    "size of the batch": lambda net, x: net.last(x.mean(1).flatten(1)) * x.shape[0],
    "one input alone": lambda net, x: net.last(x.mean(1).flatten(1)) * (2 if x.shape[0] == 1 else 1),
    "two answers": lambda net, x: (net.last(x.mean(1).flatten(1)), x),
    "one answer in a list": lambda net, x: [net.last(x.mean(1).flatten(1))],
    "softmax": lambda net, x: net.last(x.mean(1).flatten(1)).softmax(1),
    "noise": lambda net, x: net.last(x.mean(1).flatten(1)) + torch.rand(3),
    "noise of its kind": lambda net, x: net.last(x.mean(1).flatten(1) + torch.randn_like(x[:, 0].flatten(1))),
    "mean of the batch": lambda net, x: net.last((x - x.mean(0)).mean(1).flatten(1)),
    "flipped batch": lambda net, x: net.last(x.flip(0).mean(1).flatten(1)),
    "other numbers": lambda net, x: net.last(x.mean(1).flatten(1)).round(),
    "hidden write": _hidden_write,
    "shared write": _shared_write,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused(what):
    net = made(REFUSED[what])
    before = set(vars(net))
    with pytest.raises(ModelError) as caught:
        traced(net, image(4))
    assert caught.value.cure
    assert set(vars(net)) == before


def test_a_refusal_says_what_both_ways_found():
    with pytest.raises(UnknownOperator, match=r"Follows cannot be traced: .* \(torch.export: "):
        traced(made(REFUSED["branch on values"]), image(4))
    with pytest.raises(UnknownOperator, match=r"softmax.*line \d+ of .*test_bounds_exporting.py"):
        traced(made(REFUSED["softmax"]), image(4))


def test_norms_and_dropout_that_learn_are_refused():
    with pytest.raises(ModelError):
        traced(made(_whole).train(), image(4))
