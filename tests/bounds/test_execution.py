"""What float32 computes lies within the errors that certificates of deployed networks allow for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bounded_nets import NETS, Says, net_and_inputs
from hardpoint.bounds import Interval, traced
from hardpoint.bounds.certified import in_double
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.execution import execution_errors, execution_losses
from hardpoint.bounds.operators.operator import DOUBLE
from small_models import rand, randn, seeded


def errors_of(net: nn.Module, x: Tensor, eps: float = 0.1) -> Tensor:
    """``[n, K]``, for a network in float32."""
    exact = traced(in_double(net), x[:1].double())
    quick = traced(in_double(net).float(), x[:1].float())
    box = Interval(x.double() - eps, x.double() + eps, DOUBLE)
    with torch.no_grad():
        return execution_errors(exact, crown_spans(exact, box), quick).total[exact.output]


def losses_of(net: nn.Module, x: Tensor, rows: Tensor, eps: float = 0.1) -> Tensor:
    """``[n, S]``, for a network in float32."""
    exact = traced(in_double(net), x[:1].double())
    quick = traced(in_double(net).float(), x[:1].float())
    box = Interval(x.double() - eps, x.double() + eps, DOUBLE)
    with torch.no_grad():
        return execution_losses(exact, crown_spans(exact, box), rows.expand(len(x), -1, -1), quick)


def observed(
    net: nn.Module, x: Tensor, eps: float = 0.1, count: int = 200, rows: Tensor | None = None
) -> Tensor:
    """``[n, K]``: the largest difference between float32 and float64 at drawn points and corners; of ``rows``, where
    they are given."""
    u = rand(count, *x.shape, seed=9)
    u = torch.where(rand(count, *x.shape, seed=8) < 0.5, u, u.round())
    points = (x - eps * (1 - 1e-6) + 2 * eps * (1 - 1e-6) * u).flatten(0, 1)
    with torch.no_grad():
        wide = in_double(net)(points.double())
        many = net(points).double() - wide
        one_by_one = torch.cat([net(point.unsqueeze(0)) for point in points[:64]]).double() - wide[:64]
    if rows is not None:
        many, one_by_one = many @ rows.T, one_by_one @ rows.T
    found = many.abs()
    found[:64] = torch.maximum(found[:64], one_by_one.abs())
    return found.view(count, len(x), -1).amax(0)


CURVED = {
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "elu": nn.ELU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "leaky": nn.LeakyReLU(),
}


@pytest.mark.parametrize("name", NETS)
def test_no_point_is_farther_off_than_the_error(name):
    net, x = net_and_inputs(name)
    net, x = net.float(), x.float()
    errors = errors_of(net, x)
    assert bool((observed(net, x) <= errors).all())
    assert bool(errors.isfinite().all())
    assert float(errors.max()) < 0.05  # of use


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_curves_are_within_the_error_at_every_scale(name, size):
    net = seeded(
        lambda: nn.Sequential(
            nn.Linear(4, 16), CURVED[name], nn.Linear(16, 16), CURVED[name], nn.Linear(16, 3)
        )
    )
    with torch.no_grad():
        net[0].weight *= size
        net[2].weight *= size
    net, x = net.eval(), rand(3, 4)
    assert bool((observed(net, x) <= errors_of(net, x)).all())


@pytest.mark.parametrize("name", [*NETS, *CURVED])
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.3])
def test_no_point_takes_more_from_a_row_than_the_loss(name, eps):
    """Sums of answers lose at most what their terms do one by one, and never less than is seen."""
    if name in NETS:
        net, x = net_and_inputs(name)
        net, x = net.float(), x.float()
    else:
        net = seeded(
            lambda: nn.Sequential(
                nn.Linear(4, 16), CURVED[name], nn.Linear(16, 16), CURVED[name], nn.Linear(16, 3)
            )
        ).eval()
        x = rand(3, 4)
    with torch.no_grad():
        classes = net(x).shape[1]
    rows = torch.cat([torch.eye(classes), randn(4, classes, seed=5), torch.ones(1, classes)]).double()
    losses, errors = losses_of(net, x, rows, eps), errors_of(net, x, eps)
    assert bool((observed(net, x, eps, rows=rows) <= losses).all())
    assert bool((losses <= (errors @ rows.abs().T) * (1 + 1e-6)).all())


def test_the_loss_of_a_deep_network_does_not_grow_as_its_layers_could_if_all_added_up():
    """Orthogonal layers of units that are all on: an error keeps its length, and its absolute values do not."""
    layers: list[nn.Module] = []
    for seed in range(8):
        line = nn.Linear(16, 16)
        with torch.no_grad():
            line.weight.copy_(torch.linalg.qr(randn(16, 16, seed=seed)).Q)
            line.bias.copy_(3 - 3 * line.weight.sum(1) if seed else torch.tensor(3.0))
        layers += [line, nn.ReLU()]
    net, x = nn.Sequential(*layers, nn.Linear(16, 2)).eval(), rand(2, 16, seed=1)
    losses, errors = losses_of(net, x, torch.eye(2).double(), 0.01), errors_of(net, x, 0.01)
    assert bool((observed(net, x, 0.01) <= losses).all())
    assert float((errors / losses).min()) > 20


def test_every_order_of_summation_is_within_the_error():
    """One long sum with cancellation, taken in many orders and in chunks."""
    weight, x = randn(1, 300, seed=1) * 10.0 ** (6 * rand(1, 300, seed=2)), rand(1, 300, seed=3)
    weight = torch.cat([weight, -weight.flip(1)], 1)
    x = torch.cat([x, x.flip(1)], 1)
    net = nn.Sequential(nn.Linear(600, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(weight)
    error = float(errors_of(net, x, eps=0.0))
    exact = float((weight.double() * x.double()).sum())
    products, worst = (weight * x)[0], 0.0
    for seed in range(30):
        order = torch.randperm(600, generator=torch.Generator().manual_seed(seed))
        total = torch.zeros(())
        for each in products[order]:
            total = total + each
        chunked = products[order].view(-1, 1 + seed % 6 if 600 % (1 + seed % 6) == 0 else 4).sum(1).sum()
        worst = max(worst, abs(float(total) - exact), abs(float(chunked) - exact))
    up = products.sort().values
    worst = max(worst, abs(float(torch.cumsum(up, 0)[-1]) - exact))
    assert 0 < worst <= error


def test_constants_that_float32_rounds_count_even_where_their_sums_cancel():
    for forward in (
        lambda net, x: net.line((x - 0.1) * 2.0**30),
        lambda net, x: net.line((0.1 - x) * 2.0**30),
        lambda net, x: net.line(
            functional.pad(x[:, :-1], (0, 1), value=0.1) - functional.pad(x[:, 1:] * 0, (1, 0))
        ),
        lambda net, x: net.line(x * 0.1),
        lambda net, x: net.line(x / 0.3),
    ):
        net = Says(forward)
        x = torch.full((1, 6), 0.1)
        assert bool((observed(net, x, eps=0.0) <= errors_of(net, x, eps=0.0)).all())
    net = Says(
        lambda net, x: net.line(
            (functional.pad(x, (0, 6), value=0.1)[:, 6:] + functional.pad(-x, (0, 6))[:, :6]) * 2.0**30
        )
    )
    assert bool((observed(net, x, eps=0.0) <= errors_of(net, x, eps=0.0)).all())


class Computed(nn.Module):
    """Weights that forward() computes, with what is lost in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 2.0**-30], [0.5, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, (self.weight + 1.0 - 1.0) * 2.0**30)


def test_weights_that_are_computed_otherwise_in_float32_have_no_bound():
    net, x = Computed(), torch.tensor([[0.0, 1.0]])
    assert float(observed(net, x, 0.0).max()) >= 1
    assert bool((errors_of(net, x, 0.0) == torch.inf).all())


def test_weights_that_are_computed_with_one_rounding_are_within_the_error():
    net = Says(lambda net, x: functional.linear(x, net.line.weight * 0.3, net.line.bias / 3))
    x = rand(3, 6)
    errors = errors_of(net, x)
    assert bool(errors.isfinite().all())
    assert bool((observed(net, x) <= errors).all())


@pytest.mark.parametrize("kind", ["sum", "pool", "value"])
def test_what_may_overflow_has_no_bound(kind):
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    x = torch.tensor([[1.9, 1.9]])
    with torch.no_grad():
        net[0].weight.copy_(
            torch.tensor([[2e38, -2e38], [0.0, 0.0]] if kind == "sum" else [[3e38, 0.0], [0.0, 0.0]])
        )
    if kind == "pool":
        net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(1, 2))
        x = torch.full((1, 1, 2, 2), 2e38)
    exact = traced(in_double(net), x.double())
    with torch.no_grad():
        errors = execution_errors(exact, crown_spans(exact, Interval(x.double(), x.double(), DOUBLE)))
    assert float(errors.total[exact.output][0, 0]) == torch.inf


def test_operators_without_a_bound_of_their_error_have_none():
    net, x = Says(lambda net, x: net.line(x.clamp(0, 0.7))), rand(2, 6)
    assert bool((errors_of(net, x) == torch.inf).all())


def test_denormal_numbers_may_be_flushed():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1e-40)
        net[1].weight.fill_(1e38)
    x = rand(1, 4)
    assert bool((errors_of(net, x, 0.0) >= in_double(net)(x.double()).abs()).all())
