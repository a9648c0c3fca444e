"""Networks of every kind that bounds are known for, small, with weights that make each part matter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds import Interval, traced
from hardpoint.bounds.certified import in_double
from hardpoint.bounds.graph import Network
from small_models import rand, seeded


class Residual(nn.Module):
    """Images, a skip connection, norms, both kinds of global mean, and ReLU written in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.after = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.relu(self.norm(self.first(x)))
        z = torch.relu(self.after(self.second(z)) + z)
        means = [functional.adaptive_avg_pool2d(z, 1).flatten(1), z.mean((2, 3))]
        return self.last(torch.cat(means, 1).view(x.size(0), -1))


class Scaled(nn.Module):
    """Normalisation by buffers and numbers, constants on both sides, functions instead of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5]))
        self.register_buffer("std", torch.tensor([-0.2, 0.3]))
        self.weight = nn.Parameter(torch.randn(6, 2, 1, 1))
        self.line = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean.view(-1, 1, 1)) / self.std[:, None, None]
        z = functional.conv2d(x, self.weight * 0.5, stride=2)
        z = 1.5 - functional.leaky_relu(z, 0.1) * -2
        z = functional.dropout(-z / 2, training=self.training, p=0.0)
        a, b = torch.sigmoid(z), z.tanh()
        z = (a - b + 0.25).reshape(x.shape[0], 6 * x.shape[2] * x.shape[3] // 4)
        return functional.linear(z[:, :] if False else z, self.line.weight, self.line.bias)


class Says(nn.Module):
    """A linear layer, and a function of its answer."""

    def __init__(self, function: Callable[[Says, Tensor], Tensor]) -> None:
        super().__init__()
        self.line, self.function = nn.Linear(6, 6), function
        self.register_buffer("held", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def points_in(box: Interval, many: int, seed: int) -> Tensor:
    """Points of one box: a third inside, a third on faces, a third corners."""
    u = rand(many, *box.low.shape[1:], seed=seed, dtype=torch.float64)
    faces = torch.where(rand(*u.shape, seed=seed + 1) < 0.5, u, u.round())
    mixed = torch.cat([u[: many // 3], faces[many // 3 : 2 * many // 3], u[2 * many // 3 :].round()])
    return torch.minimum(torch.maximum(box.low + mixed * (box.high - box.low), box.low), box.high)


def network_of(net: nn.Module, x: Tensor) -> Network:
    """Both graphs of a network."""
    exact = traced(in_double(net), x[:1].double())
    return Network(exact, traced(in_double(net).float(), x[:1].float()))


def images() -> Tensor:
    return torch.rand(5, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rows() -> Tensor:
    return torch.rand(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _deep() -> nn.Module:
    hidden = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.LeakyReLU(0.2), nn.Linear(8, 5), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(5, 3))


def _normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Dropout(0.0), nn.Linear(8, 3))


def _pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2),
        nn.MaxPool2d(3, 2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, (1, 2), padding="same"),
        nn.AvgPool2d(2, 1, padding=1, count_include_pad=False),
        nn.Identity(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def _strips() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 2, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )  # fmt: skip


def _open_end() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3), nn.ReLU())


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "deep": (_deep, rows),
    "normed": (_normed, rows),
    "pooled": (_pooled, images),
    "residual": (Residual, images),
    "scaled": (Scaled, images),
    "strips": (_strips, rows),
    "no last layer": (_open_end, rows),
}


def net_and_inputs(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """float64, in evaluation mode, with norms that hold statistics."""
    build, inputs = NETS[name]
    x = inputs()

    def made() -> nn.Module:
        net = build().double().train()
        for _ in range(3):
            net(torch.rand(16, *x.shape[1:], dtype=torch.float64) * 3 - 1)
        for layer in net.modules():  # scales of both signs
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.weight.data.normal_()
                layer.bias.data.normal_()
        return net.eval()

    return seeded(made, seed), x
