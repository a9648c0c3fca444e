"""A small convolutional network for scikit-learn's handwritten digits, and its two sets of weights."""

from __future__ import annotations

from importlib.resources import as_file, files

import torch
from torch import Tensor, nn

from hardpoint.models.weights import load_weights

EPS = 0.15
"""The Linf budget the hardened weights were trained for, with pixels in [0, 1]."""


def digits_network() -> nn.Module:
    """8x8 grey pixels ``[n, 1, 8, 8]`` in [0, 1] to ten scores; 38,282 parameters, untrained."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def trained_digits_network(which: str) -> nn.Module:
    """The network with its ``"plain"`` or ``"hardened"`` weights, in evaluation mode."""
    network = digits_network()
    with as_file(files("hardpoint.cli.demo") / f"digits_{which}.safetensors") as path:
        network.load_state_dict(load_weights(path))
    return network.eval()


def digits_split() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """scikit-learn's 1,797 digits as (train, test) pairs of images in [0, 1] and labels.

    The last 500 are the test set: they were written by other people than the first.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images / 16.0, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(data.target, dtype=torch.int64)
    return (x[:-500], y[:-500]), (x[-500:], y[-500:])
