"""Traffic signs for the examples, photographs where there are any, and a small network that reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from _common import data_file, fit
from torch import Tensor, nn

FILE = data_file("images/gtsrb/gtsrb_32x32_subset.npz")
SPEEDS = tuple(f"speed limit {v}" for v in (20, 30, 50, 60, 70, 80))
PHOTOGRAPHED = (
    *(*SPEEDS, "end of limit 80", "speed limit 100", "speed limit 120", "no overtaking"),
    *("no overtaking by lorries", "right of way at the next crossing", "priority road", "give way", "stop"),
    *("no vehicles", "no lorries", "no entry", "danger", "bend left", "bend right", "double bend"),
    *("bumpy road", "slippery road", "road narrows", "road works", "traffic lights", "pedestrians"),
    *("children", "bicycles", "snow", "wild animals", "end of all limits", "turn right", "turn left"),
    *("straight on", "straight or right", "straight or left", "keep right", "keep left", "roundabout"),
    *("end of no overtaking", "end of no overtaking by lorries"),
)
DRAWN = ("stop", "give way", "no entry", "priority road", "speed limit", "straight on")
RED, WHITE, YELLOW, BLUE = (0.7, 0.1, 0.1), (0.9, 0.9, 0.9), (0.9, 0.75, 0.1), (0.1, 0.25, 0.6)


@dataclass(frozen=True)
class Signs:
    """Pictures ``[n, 3, 32, 32]`` in [0, 1], their kinds, which physical sign each shows, and which are for testing.

    No physical sign is in both parts.
    """

    x: Tensor
    y: Tensor
    sign: Tensor
    is_test: Tensor
    names: tuple[str, ...]
    what: str


def signs() -> Signs:
    """The German traffic signs (GTSRB) where they are; else drawn ones."""
    if not FILE.exists():
        print(
            f"No photographs of traffic signs at {FILE} (set HARDPOINT_DATA): drawn signs stand in for them,"
        )
        print("and what follows says nothing about real signs.")
        return drawn_signs()
    with np.load(FILE, allow_pickle=False) as file:
        x = torch.from_numpy(file["x"]).permute(0, 3, 1, 2).float() / 255
        y, sign = (torch.from_numpy(file[name]).long() for name in ("y", "track"))
        test = torch.from_numpy(file["is_test"]).bool()
        # tracks are numbered within each class
        return Signs(x, y, y * 10_000 + sign, test, PHOTOGRAPHED, "photographs of German traffic signs")


def trained(these: Signs, epochs: int) -> nn.Module:
    """A small convolutional network, trained on the signs that are not for testing."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, len(these.names))),
    )
    return fit(net, these.x[~these.is_test], these.y[~these.is_test], epochs)


def drawn_signs(each: int = 150) -> Signs:
    """Made-up pictures: six kinds of signs in flat colours before a plain, noisy background."""
    rng = np.random.default_rng(0)
    pictures = [_drawn(kind, rng) for kind in range(len(DRAWN)) for _ in range(each)]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    row = torch.arange(len(x))
    return Signs(x, row // each, row, row % each >= 2 * each // 3, DRAWN, "drawn signs")


def _drawn(kind: int, rng: np.random.Generator) -> np.ndarray:
    line = np.arange(32.0)
    radius, (top, left) = rng.uniform(9, 14), rng.uniform(14, 18, 2)
    v, u = (line[:, None] - top) / radius, (line[None] - left) / radius
    disc, slanted = np.hypot(u, v), np.abs(u) + np.abs(v)
    bar = (np.abs(v) < 0.2) & (np.abs(u) < 0.7)
    shapes = {
        "stop": ((np.maximum(np.maximum(np.abs(u), np.abs(v)), slanted / 1.41) < 0.9, RED), (bar, WHITE)),
        "give way": ((_downward(u, v, 1.0), RED), (_downward(u, v, 0.55), WHITE)),
        "no entry": ((disc < 1, RED), (bar, WHITE)),
        "priority road": ((slanted < 1.1, WHITE), (slanted < 0.75, YELLOW)),
        "speed limit": ((disc < 1, RED), (disc < 0.7, WHITE)),
        "straight on": ((disc < 1, BLUE), ((np.abs(u) < 0.2) & (np.abs(v) < 0.7), WHITE)),
    }
    picture = np.broadcast_to(rng.uniform(0.2, 0.8, 3), (32, 32, 3)).copy()
    for inside, colour in shapes[DRAWN[kind]]:
        picture[np.broadcast_to(inside, (32, 32))] = colour
    return (picture * rng.uniform(0.6, 1.1) + rng.normal(0, 0.04, picture.shape)).clip(0, 1)


def _downward(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Inside a triangle that stands on its tip."""
    inside: np.ndarray = (v > -0.6 * size) & (np.abs(u) < (0.9 * size - v) / 1.6)
    return inside
