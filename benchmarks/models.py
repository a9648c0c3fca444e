"""The architectures of the published networks that are measured on, and the data that belongs to them.

Weights and images are not part of the project. They are found in the folder ``HARDPOINT_DATA`` (by default
``../shared/data``); cases whose files are absent are left out and said to be.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hardpoint.cli.demo.digits import EPS, digits_split, trained_digits_network

DATA = Path(os.environ.get("HARDPOINT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Case:
    """One network, its test inputs in [0, 1] and one attack setting."""

    name: str
    load: Callable[[], tuple[nn.Module, Tensor, Tensor]]
    eps: float
    step: float
    random_start: bool = False

    @property
    def setting(self) -> str:
        start = "random start" if self.random_start else "no random start"
        return f"Linf {_short(self.eps)}, step {_short(self.step)}, {start}"


def cases() -> list[Case]:
    """Every case of the PGD comparison, the bundled digits networks first."""
    return [
        Case("digits, plain", lambda: digits("plain"), EPS, 0.01, True),
        Case("digits, hardened", lambda: digits("hardened"), EPS, 0.01, True),
        Case("MNIST LeNet5, plain", lambda: lenet5("clean"), 0.3, 0.01),
        Case("MNIST LeNet5, plain", lambda: lenet5("clean"), 0.1, 0.01),
        Case("MNIST LeNet5, adversarially trained", lambda: lenet5("adv"), 0.3, 0.01),
        Case("MNIST LeNet5, adversarially trained", lambda: lenet5("adv"), 0.3, 0.01, True),
        Case("MNIST SmallCNN, TRADES", _small_cnn, 0.3, 0.01, True),
        Case("CIFAR-10 ResNet-2B", _resnet2b, 2 / 255, 0.5 / 255, True),
    ]


def robust_cases() -> list[Case]:
    """Networks trained to be robust, by different recipes, at the budget they were trained for."""
    return [
        Case("digits, hardened (PGD)", lambda: digits("hardened"), EPS, 0.01),
        Case("MNIST WK17a (dual bounds)", lambda: wk17a("mnist_wk17a.pth"), 0.1, 0.01),
        Case("MNIST convex (dual bounds)", lambda: wk17a("mnist_kw_convex.pth"), 0.1, 0.01),
        Case("CIFAR-10 ResNet-2B (PGD)", _resnet2b, 2 / 255, 0.5 / 255),
        Case("CIFAR-10 as JPEG, ResNet-2B (PGD)", _resnet2b_jpeg, 2 / 255, 0.5 / 255),
        Case("MNIST LeNet5 (PGD)", lambda: lenet5("adv"), 0.3, 0.01),
        Case("MNIST SmallCNN (TRADES)", _small_cnn, 0.3, 0.01),
    ]


class Normalised(nn.Module):
    """A network behind the normalisation of its inputs, so that attacks see [0, 1]."""

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


class LeNet5(nn.Module):
    """The MNIST network of AdverTorch's examples (Ding et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.linear1 = nn.Linear(64 * 7 * 7, 200)
        self.relu3 = nn.ReLU()
        self.linear2 = nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.linear2(self.relu3(self.linear1(x.flatten(1))))


class SmallCNN(nn.Module):
    """The MNIST network of TRADES (Zhang et al., ICML 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential()
        layers = [("conv1", 1, 32), ("conv2", 32, 32), ("conv3", 32, 64), ("conv4", 64, 64)]
        for turn, (name, inputs, outputs) in enumerate(layers):
            self.feature_extractor.add_module(name, nn.Conv2d(inputs, outputs, 3))
            self.feature_extractor.add_module(f"relu{turn + 1}", nn.ReLU())
            if turn % 2:
                self.feature_extractor.add_module(f"pool{turn // 2 + 1}", nn.MaxPool2d(2))
        self.classifier = nn.Sequential()
        self.classifier.add_module("fc1", nn.Linear(64 * 4 * 4, 200))
        self.classifier.add_module("relu1", nn.ReLU())
        self.classifier.add_module("drop", nn.Dropout(0.5))
        self.classifier.add_module("fc2", nn.Linear(200, 200))
        self.classifier.add_module("relu2", nn.ReLU())
        self.classifier.add_module("fc3", nn.Linear(200, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.feature_extractor(x).flatten(1))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class ResNet2B(nn.Module):
    """The smaller CIFAR-10 residual network of the verification competition of 2021 (VNN-COMP)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(_Block(8, 16, 2), _Block(16, 16, 1))
        self.linear1 = nn.Linear(16 * 8 * 8, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.conv1(x)))
        return self.linear2(torch.relu(self.linear1(x.flatten(1))))


def digits(which: str) -> tuple[nn.Module, Tensor, Tensor]:
    x, y = digits_split()[1]
    return trained_digits_network(which), x, y


def lenet5(which: str) -> tuple[nn.Module, Tensor, Tensor]:
    return _loaded(LeNet5(), f"mnist_advertorch_{which}_lenet5.pt"), *mnist()


def wk17a(file: str = "mnist_wk17a.pth") -> tuple[nn.Module, Tensor, Tensor]:
    """The network of Wong and Kolter (ICML 2018)."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    return _loaded(network, file), *mnist()


def _small_cnn() -> tuple[nn.Module, Tensor, Tensor]:
    return _loaded(SmallCNN(), "mnist_trades_smallcnn.pth"), *mnist()


def _resnet2b() -> tuple[nn.Module, Tensor, Tensor]:
    images = np.load(DATA / "images/cifar10/cifar10_test_lossless737.npz")
    keep = images["unconditioned"].astype(bool)  # the others were picked for being classified right
    x = torch.from_numpy(images["x"][keep]).permute(0, 3, 1, 2).contiguous().float() / 255
    y = torch.from_numpy(images["y"][keep]).long()
    return _resnet2b_network(), x, y


def _resnet2b_jpeg() -> tuple[nn.Module, Tensor, Tensor]:
    """The first 1,000 test images, decoded from JPEG: there is no lossless copy of them all."""
    from PIL import Image

    images = np.load(DATA / "images/cifar10/cifar10_test_jpegbytes.npz")
    content, ends = images["jpeg"].tobytes(), images["offset"][:1001]
    pixels = [np.asarray(Image.open(BytesIO(content[start:end]))) for start, end in pairwise(ends)]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous().float() / 255
    return _resnet2b_network(), x, torch.from_numpy(images["y"][:1000]).long()


def _resnet2b_network() -> nn.Module:
    network = _loaded(ResNet2B(), "cifar_resnet2b.pth")
    return Normalised(network, [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]).eval()


def _loaded(network: nn.Module, file: str) -> nn.Module:
    state = torch.load(DATA / "models" / file, map_location="cpu", weights_only=True)
    network.load_state_dict(state.get("state_dict", state))
    return network.eval()


def mnist() -> tuple[Tensor, Tensor]:
    """MNIST's 10,000 test images ``[n, 1, 28, 28]`` in [0, 1] and their labels."""
    pixels = _idx("t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28).float() / 255
    return pixels, _idx("t10k-labels-idx1-ubyte.gz", 8).long()


def mnist_training(rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """MNIST's 60,000 training images ``[n, 1, 28, 28]`` in [0, 1] and their labels, or some of them."""
    pixels = _idx("train-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)[rows]
    return pixels.float() / 255, _idx("train-labels-idx1-ubyte.gz", 8)[rows].long()


def _idx(file: str, header: int) -> Tensor:
    """The bytes of one of MNIST's files behind its header."""
    with gzip.open(DATA / "images/mnist" / file) as stream:
        return torch.frombuffer(bytearray(stream.read()[header:]), dtype=torch.uint8)


def _short(value: float) -> str:
    steps = value * 255
    return f"{steps:.3g}/255" if value < 0.1 and abs(2 * steps - round(2 * steps)) < 1e-9 else f"{value:.4g}"
