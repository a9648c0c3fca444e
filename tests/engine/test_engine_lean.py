"""Rewrites that make the input gradient cheaper must leave answers and gradients what they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.engine.lean import ThinConv2d, input_gradient, lean, pool_first
from hardpoint.engine.twin import TwinPlan, build_twin
from hardpoint.models.torch import TorchModel


def random_like(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient_of(module: nn.Module, x: Tensor) -> Tensor:
    point = x.clone().requires_grad_(True)
    out = module(point)
    weights = random_like(*out.shape, seed=9).to(out.dtype)
    return torch.autograd.grad((out * weights).sum(), point)[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4), (5, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_thin_gradient_is_that_of_the_convolution(
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    layout: torch.memory_format,
) -> None:
    x, weight = random_like(2, channels, 9, 8), random_like(6, channels, *kernel, seed=1)
    point = x.requires_grad_(True)
    out = functional.conv2d(point, weight, None, stride, padding)
    above = random_like(*out.shape, seed=2).contiguous(memory_format=layout)
    wanted = torch.autograd.grad(out, point, above)[0]
    got = input_gradient(above, weight, x.shape, stride, padding)
    assert got.shape == x.shape
    torch.testing.assert_close(got, wanted)


class WithFunctions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.relu(self.conv(x)), 2).flatten(1)


class ReluUsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.relu(self.conv(x))
        return functional.max_pool2d(kept, 2).flatten(1).sum(1, keepdim=True) + kept.flatten(1)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.conv(x))
        return functional.max_pool2d(out, 2) if float(x.sum()) > 0 else out


def layers(**changes: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2, **changes), nn.Flatten())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "module",
    [
        layers(),
        layers(stride=1, padding=1),
        layers(ceil_mode=True),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 2, 2)),
        WithFunctions(),
        ReluUsedTwice(),
        Untraceable(),
    ],
)
def test_lean_modules_answer_and_slope_alike(module: nn.Module) -> None:
    module = module.double().eval().requires_grad_(False)
    x = random_like(3, 1, 9, 9, seed=4)
    rewritten = lean(copy.deepcopy(module))
    torch.testing.assert_close(rewritten(x), module(x))
    torch.testing.assert_close(gradient_of(rewritten, x), gradient_of(module, x))


def test_the_pool_comes_first_where_it_may() -> None:
    moved = pool_first(WithFunctions())
    order = [node.target for node in moved.graph.nodes if node.op == "call_function"]  # type: ignore[union-attr]
    assert order == [functional.max_pool2d, functional.relu]
    twice = ReluUsedTwice()
    assert pool_first(twice) is twice


def test_layers_that_are_not_plain_and_thin_are_kept() -> None:
    kept = [
        nn.Conv2d(8, 4, 3),
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(1, 4, 3, dilation=2),
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(1, 4, 3, padding="same"),
    ]
    for layer in kept:
        body = nn.Sequential(layer).requires_grad_(False)
        assert lean(body)[0] is layer  # type: ignore[index]
    hooked = nn.Conv2d(1, 4, 3).requires_grad_(False)
    hooked.register_forward_hook(lambda *_: None)
    assert lean(nn.Sequential(hooked))[0] is hooked  # type: ignore[index]
    assert isinstance(lean(nn.Sequential(nn.Conv2d(1, 4, 3)).requires_grad_(False))[0], ThinConv2d)  # type: ignore[index]


def test_a_lean_twin_leaves_the_model_alone() -> None:
    module = layers().eval()
    before = [type(layer) for layer in module.modules()]
    twin = build_twin(TorchModel(module), TwinPlan(lean=True))
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(twin.scores(x), module(x))
    assert [type(layer) for layer in module.modules()] == before
