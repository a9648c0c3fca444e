"""Networks for MNIST that are trained here, and images that they have not seen.

``network`` learns from the first half of the training images; the other half and the test images are benign inputs that
it was not trained on (``unseen``). The images are found as ``benchmarks.models`` finds them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.models import mnist, mnist_training

EARLY, LATE, DROPOUT = "4", "8", 9
"""Layers: the last convolution's, the last hidden one, and the one that drops."""
_TRAINED_ON = 30_000


def network(width: int = 16, inputs: int = _TRAINED_ON, epochs: int = 7) -> nn.Sequential:
    """A convolutional network, trained on the first images with shifts of up to two pixels."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 49, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )
    return _trained(net, inputs, epochs)


def carlini_wagner(epochs: int = 6) -> nn.Sequential:
    """The network of Carlini and Wagner, "Towards evaluating the robustness of neural networks" (S&P 2017), table I,
    which later work on MNIST attacks and defends; trained here, on all 60,000 images."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 16, 200),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, 10),
    )
    return _trained(net, 60_000, epochs)


def _trained(net: nn.Sequential, inputs: int, epochs: int) -> nn.Sequential:
    """``net``, trained on the first images with shifts of up to two pixels."""
    x, y = mnist_training(slice(0, inputs))
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    steps = epochs * math.ceil(inputs / 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(inputs).split(128):
            shift = torch.randint(-2, 3, (2,)).tolist()
            loss = nn.functional.cross_entropy(net(x[rows].roll(shift, (2, 3))), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def unseen() -> tuple[Tensor, Tensor]:
    """40,000 images that ``network`` was not trained on, in an order drawn once."""
    (a, b), (c, d) = mnist_training(slice(_TRAINED_ON, 60_000)), mnist()
    order = torch.randperm(40_000, generator=torch.Generator().manual_seed(0))
    return torch.cat([a, c])[order], torch.cat([b, d])[order]


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(torch.cat([net(part).argmax(1) for part in x.split(500)]).eq(y).double().mean())
