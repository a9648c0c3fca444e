"""The pre-flight checks name the layer, read outputs as they are meant, and look at the whole of the data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.core.errors import BadModelOutput, DataError, ModelError, ModelInTrainingMode, NonFiniteOutput
from hardpoint.models.torch import TorchModel
from small_models import Detach, NaNs, Noisy, Quantise, Sign, Wrapped, conv, linear, mlp, rand

X = rand(250, 8, seed=3)
Y = torch.zeros(250, dtype=torch.int64)


def findings(model: nn.Module, x=X) -> dict[str, str]:
    return {f.id: f.message for f in hp.doctor(model, x, torch.zeros(len(x), dtype=torch.int64))}


def with_layer(layer: nn.Module) -> nn.Sequential:
    """``layer`` in the middle of a net, called ``odd``."""
    body = mlp()
    net = nn.Sequential()
    for name, part in [
        ("flat", body[0]),
        ("first", body[1]),
        ("odd", layer),
        ("act", body[2]),
        ("last", body[3]),
    ]:
        net.add_module(name, part)
    return net.eval()


@pytest.mark.parametrize("layer", [Sign(), Quantise(4), Detach()], ids=["sign", "quantise", "detach"])
def test_the_layer_that_stops_the_gradient_is_named(layer):
    found = findings(with_layer(layer))
    assert "'odd'" in found["HP107"]
    assert "100 %" in found["HP107"]


def test_a_gradient_that_is_zero_for_few_inputs_is_no_finding():
    class Dead(nn.Module):
        def forward(self, x):
            return torch.where(x[:, :1] > 0.97, x.detach(), x)

    assert "HP107" not in findings(nn.Sequential(Dead(), mlp()).eval())


def test_a_gradient_that_is_not_finite_is_a_failure():
    class Root(nn.Module):
        def forward(self, x):
            return (x - x).abs().sqrt() + x

    (found,) = [f for f in hp.doctor(nn.Sequential(Root(), mlp()).eval(), X, Y) if f.id == "HP107"]
    assert "NaN" in found.message
    assert found.severity.word == "fail"


def test_the_layer_that_makes_nan_is_named():
    net = with_layer(NaNs(-10.0))
    assert "'odd'" in findings(net)["HP102"]
    with pytest.raises(NonFiniteOutput, match="'odd'"):
        hp.assess(net, X, Y, threat=hp.Linf(0.1), progress=False)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(24), nn.Dropout(0.3)])
def test_the_layer_in_training_mode_is_named_and_nothing_moves(layer):
    net = with_layer(layer)
    layer.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert "'odd'" in findings(net)["HP101"]
    with pytest.raises(ModelInTrainingMode, match=r"'odd'.*allow_training"):
        hp.assess(net, X, Y, threat=hp.Linf(0.1), progress=False)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert layer.training


def test_a_layer_may_be_allowed_to_train():
    net = with_layer(nn.Dropout(0.3))
    net.odd.train()
    found = {f.id for f in hp.doctor(net, X, Y, allow_training=("odd",))}
    assert "HP101" not in found
    assert "HP105" in found


@pytest.mark.parametrize(
    "odd",
    [
        lambda z: z.unsqueeze(2),
        lambda z: z[:1],
        lambda z: z[:, :0],
        lambda z: {"scores": z},
        lambda z: z.sum(),
    ],
    ids=["rank", "rows", "columns", "dict", "number"],
)
def test_outputs_that_are_no_scores_are_named(odd):
    net = Wrapped(mlp(), after=odd).eval()
    assert "HP103" in findings(net)
    with pytest.raises(BadModelOutput):
        hp.assess(net, X, Y, threat=hp.Linf(0.1), progress=False)


def test_inputs_outside_the_range_are_named_by_row():
    x = X.clone()
    x[7, 3] = 1.5
    with pytest.raises(DataError, match="row 7"):
        hp.assess(mlp(), x, Y, threat=hp.Linf(0.1), progress=False)
    with pytest.raises(DataError, match="row 0.*input_range"):
        findings(mlp(), 255 * X)


def test_inputs_that_look_normalised_are_pointed_out():
    net = TorchModel(conv(), input_range=(-3.0, 3.0))
    x = torch.randn(250, 2, 6, 5, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    assert "HP202" in findings(net, x)
    assert "HP202" not in findings(conv(), rand(250, 2, 6, 5))


def test_shapes_and_types_the_model_cannot_take_are_explained():
    for x in (rand(30, 5), X[:30].double()):
        with pytest.raises(ModelError, match="cannot take inputs"):
            hp.assess(mlp(), x, Y[:30], threat=hp.Linf(0.1), progress=False)


def test_data_sorted_by_class_does_not_make_the_model_look_constant():
    net = mlp()
    x = X[net(X).argmax(1).argsort()]
    assert "HP112" not in findings(net, x)


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_a_single_sigmoid_is_read_as_a_probability():
    """Its threshold is one half, not zero: read as a logit it would always answer class 1."""
    weight = torch.tensor([[6.0, -4.0, 3.0, 1.0, -2.0, 0.0, 1.0, -1.0]])
    logit = linear(weight, -(weight @ torch.full((8, 1), 0.5)).flatten())
    sigmoid = nn.Sequential(logit, nn.Sigmoid()).eval()
    y = (logit(X).flatten() > 0).long()
    assert set(findings(sigmoid)) == {"HP104"}
    assert not findings(logit)
    as_logit, as_probability = (
        hp.assess(m, X, y, threat=hp.Linf(0.05), progress=False) for m in (logit, sigmoid)
    )
    assert as_logit.clean_accuracy.value == as_probability.clean_accuracy.value == 1.0
    assert torch.equal(as_logit.broken, as_probability.broken)


def test_confident_and_constant_and_random_models():
    net = mlp()
    assert "HP109" in findings(Wrapped(net, after=lambda z: 1000 * z).eval())
    constant = findings(Wrapped(net, after=lambda z: 0 * z + torch.arange(4.0)).eval())
    assert {"HP107", "HP110", "HP112"} <= set(constant)
    assert "HP105" in findings(Noisy(net, 1e-6).eval())
    assert "HP110" in findings(nn.Sequential(Quantise(8), net).eval())


def test_the_doctor_leaves_hooks_and_generators_alone():
    net = with_layer(NaNs(-10.0))
    state = torch.get_rng_state().tolist()
    grad = torch.autograd.grad
    findings(net)
    assert not any(m._forward_hooks for m in net.modules())
    assert torch.get_rng_state().tolist() == state
    assert torch.autograd.grad is grad
