"""Trains the two networks that ship with the demonstration: `python scripts/train_demo_models.py`.

Plain: cross-entropy. Hardened: the same on examples from 7 steps of projected gradient ascent inside the Linf
ball of `EPS` (Madry et al., ICLR 2018). Same seed, data, epochs and optimiser; about a minute on two cores.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hardpoint.cli.demo.digits import EPS, digits_network, digits_split

FOLDER = Path(__file__).parent.parent / "src" / "hardpoint" / "cli" / "demo"
EPOCHS, BATCH, STEPS = 80, 64, 7


def perturbed(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Seven ascent steps from a random start inside the ball and the pixel range."""
    low, high = (x - EPS).clamp_min(0), (x + EPS).clamp_max(1)
    z = low + torch.rand(x.shape, generator=generator) * (high - low)
    for _ in range(STEPS):
        z.requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(model(z), y), z)
        z = torch.clamp(z.detach() + 2.5 * EPS / STEPS * gradient.sign(), low, high)
    return z


def train(hardened: bool) -> nn.Module:
    """The trained network."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    (x, y), _ = digits_split()
    model = digits_network()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            inputs = perturbed(model, x[rows], y[rows], generator) if hardened else x[rows]
            optimiser.zero_grad()
            cross_entropy(model(inputs), y[rows]).backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def main() -> None:
    _, (x, y) = digits_split()
    for name, hardened in (("plain", False), ("hardened", True)):
        model = train(hardened)
        accuracy = float((model(x).argmax(1) == y).double().mean())
        save_file(model.state_dict(), FOLDER / f"digits_{name}.safetensors")
        print(f"{name}: {100 * accuracy:.1f} % of the test digits right")  # noqa: T201


if __name__ == "__main__":
    main()
