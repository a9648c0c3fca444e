"""The graph computes what the network computes, whatever its weights become; what it does not know it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import hardpoint as hp
from bounded_nets import NETS, Says, net_and_inputs
from hardpoint.bounds import KNOWN, UnknownOperator, interval_certified, traced
from hardpoint.core.errors import HardpointError, ModelError
from small_models import rand


@pytest.mark.parametrize("name", NETS)
def test_a_graph_answers_as_its_network(name):
    net, x = net_and_inputs(name)
    graph = traced(net, x[:1])
    for size in (1, 2, 7):
        points = torch.randn(size, *x.shape[1:], dtype=torch.float64) * 2
        torch.testing.assert_close(graph(points), net(points), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_a_graph_reads_the_weights_as_they_are_and_gradients_reach_them(name):
    net, x = net_and_inputs(name)
    graph = traced(net, x)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.25).add_(0.01)
    torch.testing.assert_close(graph(x), net(x), rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(net(x).sin().sum(), list(net.parameters()))
    found = torch.autograd.grad(graph(x).sin().sum(), list(net.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["normed", "residual", "strips"])
def test_a_graph_in_training_mode_settles_as_a_forward_pass_does(name):
    net, x = net_and_inputs(name)
    net.train()
    before = copy.deepcopy(net.state_dict())
    graph = traced(net, x)
    assert all(
        torch.equal(before[key], value) for key, value in net.state_dict().items()
    )  # tracing leaves no trace
    assert not graph.is_settled
    twin = copy.deepcopy(net)
    settled, answers = graph.settled(x)
    assert settled.is_settled
    torch.testing.assert_close(answers, twin(x), rtol=1e-12, atol=1e-12)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[key], value)
    torch.testing.assert_close(settled(x), answers, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        settled(x[:1]), answers[:1], rtol=1e-9, atol=1e-10
    )  # no longer by its own batch
    wanted = torch.autograd.grad(twin(x).sin().sum(), list(twin.parameters()))
    found = torch.autograd.grad(settled(x).sin().sum(), list(net.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)  # through the statistics too


def test_a_norm_that_is_not_settled_has_no_bounds():
    from hardpoint.bounds import Interval, intervals

    net, x = net_and_inputs("normed")
    graph = traced(net.train(), x)
    with pytest.raises(UnknownOperator, match="settle"):
        intervals(graph, Interval(x, x))


def _inplace(net: Says, x: Tensor) -> Tensor:
    z = net.line(x)
    return functional.relu(z, inplace=True) + z


def _inplace_through_a_view(net: Says, x: Tensor) -> Tensor:
    z = net.line(x)
    return z + torch.relu_(z.view(-1, 2, 3)).flatten(1)


REFUSED = {
    "softmax": lambda net, x: net.line(x).softmax(1),
    "product": lambda net, x: net.line(x) * x,
    "quotient": lambda net, x: 1 / net.line(x),
    "power": lambda net, x: net.line(x) ** 2,
    "absolute value": lambda net, x: net.line(x).abs(),
    "branch": lambda net, x: net.line(x) if x.sum() > 0 else x,
    "batch mean": lambda net, x: net.line(x) - x.mean(0),
    "mean of all": lambda net, x: net.line(x) - x.mean(),
    "flattened batch": lambda net, x: net.line(x).flatten(0),
    "joined batch": lambda net, x: torch.cat([x, net.line(x)], 0),
    "weights from the input": lambda net, x: functional.linear(x, net.line(x)[:2]),
    "size of the batch": lambda net, x: net.line(x) * x.shape[0],
    "noise": lambda net, x: net.line(x) + torch.rand_like(net.held),
    "noise of the input's kind": lambda net, x: net.line(x) + torch.randn_like(x),
    "written twice": _inplace,
    "written through a view": _inplace_through_a_view,
    "written buffer": lambda net, x: net.line(x) + net.held.add_(1),
    "two answers": lambda net, x: (net.line(x), x),
    "no answer": lambda net, x: net.held,
    "steep leak": lambda net, x: functional.leaky_relu(net.line(x), 1.5),
    "falling leak": lambda net, x: functional.leaky_relu(net.line(x), -0.5),
    "indices": lambda net, x: functional.max_pool2d(x.view(-1, 1, 2, 3), 2, return_indices=True)[0],
    "other bits": lambda net, x: net.line(x).view(torch.int32),
    "weighted sum": lambda net, x: torch.add(net.line(x), x, alpha=2),
    "rounding": lambda net, x: torch.div(net.line(x), 2, rounding_mode="floor"),
    "two tensors": lambda net, x: net.line(x).chunk(2, 1)[0],
    "content as a number": lambda net, x: net.line(x) * (x.amax() > 100).item(),
    "weight as a number": lambda net, x: net.line(x) * net.held.sum().item(),
    "comparison": lambda net, x: torch.where(x > 0.5, net.line(x), x),
    "detached": lambda net, x: net.line(x).detach(),
    "named inputs": lambda net, x: torch.sub(net.line(x), other=x),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_bound_is_known_for_is_refused(what):
    with pytest.raises(ModelError) as caught:
        traced(Says(REFUSED[what]).eval(), rand(4, 6))
    assert caught.value.cure


def test_a_refusal_names_operator_and_line():
    with pytest.raises(UnknownOperator, match=r"softmax\(\).*line \d+ of .*test_bounds_graph.py") as caught:
        traced(Says(REFUSED["softmax"]).eval(), rand(4, 6))
    line = int(str(caught.value).split("line ")[1].split()[0])
    assert "softmax" in open(__file__).readlines()[line - 1]  # noqa: PTH123, SIM115
    with pytest.raises(UnknownOperator, match=r"layer '1\.0' \(Softmax\)"):
        traced(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Softmax(1))), rand(1, 2))


def test_a_layer_is_known_by_its_exact_class():
    class Shifted(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    net = nn.Sequential(Doubled(2, 2), Shifted())
    x = torch.randn(20, 2)
    torch.testing.assert_close(traced(net, x)(x), net(x))  # traced into, not taken for what they inherit from


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train(),
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval(),
        nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")),
        nn.Sequential(nn.AdaptiveAvgPool2d(2)),
        nn.Sequential(nn.LSTM(2, 2)),
        nn.Sequential(nn.Softmax(1)),
    ],
    ids=lambda net: type(net[-1]).__name__,
)
def test_layers_that_no_bound_is_known_for_are_refused(net):
    x = rand(2, 2, 4, 4) if isinstance(net[0], nn.Conv2d | nn.AdaptiveAvgPool2d) else rand(2, 2)
    with pytest.raises(UnknownOperator):
        traced(net, x)


def test_hooks_and_reparametrised_weights_are_refused():
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda module, args, out: out + 1)
    parametrised = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    for net in (hooked, parametrised):
        with pytest.raises(UnknownOperator):
            traced(net, rand(1, 2))


def test_a_network_that_reads_global_state_is_found_out():
    calls = []

    def turning(net: Says, x: Tensor) -> Tensor:
        calls.append(1)
        return net.line(x) * len(calls)

    with pytest.raises(HardpointError, match="does not compute"):
        traced(Says(turning), rand(1, 6))


def test_inputs_of_another_shape_are_an_error_with_a_cure():
    with pytest.raises(ModelError, match="fails on"):
        traced(nn.Sequential(nn.Linear(3, 2)), rand(2, 4))
    with pytest.raises(ModelError, match="without an input"):
        traced(nn.Sequential(nn.Linear(3, 2)), rand(0, 3))


def test_tracing_draws_nothing_from_the_global_generator():
    net = nn.Sequential(nn.Linear(3, 2))
    before = torch.get_rng_state()
    traced(net, rand(2, 3))
    assert torch.equal(before, torch.get_rng_state())


def test_tracing_leaves_nothing_on_the_network():
    net = Says(lambda net, x: net.line(x) + torch.arange(6) * 0.5)
    before, x = set(vars(net)), rand(4, 6)
    graph = traced(net, x)
    assert set(vars(net)) == before
    torch.testing.assert_close(graph(x), net(x))


def test_a_graph_reads_buffers_as_they_are():
    net, x = Says(lambda net, x: net.line(x) / (2 * net.held)), rand(4, 6)
    graph = traced(net, x)
    net.held.mul_(3)
    torch.testing.assert_close(graph(x), net(x))


def test_the_known_names_are_listed():
    assert {"Conv2d", "BatchNorm1d", "MaxPool2d", "relu", "cat", "view"} <= set(KNOWN)


class Aliased(nn.Module):
    """Writes into a value that another name sees; the write does nothing at most points."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        kept = h
        h += torch.relu(self.second(x) - 1000)
        return kept


class OwnSum(Aliased):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h += self.second(x)
        h *= 2.0
        return h


class Crowded(Aliased):
    """Answers the opposite of what it does where a hundred ask at once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * (1 - 2 * (x.shape[0] // 100))


class SeldomOff(Aliased):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keep", torch.tensor([0.999, 0.999]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * torch.bernoulli(self.keep)


class Noisy(Aliased):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + 1e-12 * torch.rand(2)


@pytest.mark.parametrize("kind", [Aliased, Crowded, SeldomOff, Noisy])
def test_what_a_few_points_do_not_show_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(UnknownOperator):
        traced(kind().eval(), torch.zeros(1, 2))


def test_a_sum_in_place_that_nobody_else_sees_is_a_sum() -> None:
    net, x = OwnSum().double().eval(), torch.rand(5, 2).double()
    torch.testing.assert_close(traced(net, x)(x), net(x))


def test_the_shape_of_one_input_may_be_asked_for() -> None:
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0], x.shape[1] * x.size(2))

    x = torch.rand(4, 2, 3)
    assert torch.equal(traced(Flat(), x)(x), x.flatten(1))


def test_a_network_that_keeps_what_it_computes_is_refused_in_words() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = self.layer(x)
            return self.last

    net, x = Keeps().eval(), torch.rand(2, 2)
    net(x)
    with pytest.raises(ModelError, match="cannot be copied"):
        interval_certified(net, x, torch.tensor([0, 1]), hp.Linf(0.1))
