"""What the engine costs over bare calls of the model, where the forward pass takes about 5 ms.

Both sides take the same 40 gradient steps on the same copy of the model; the bare loop does nothing but the forward
pass, the loss and ``autograd.grad``. No input falls or is retired, so the number of calls is equal. The bar: 10 %.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table, interleaved
from hardpoint.attacks.losses import Loss, untargeted
from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.engine.attack import Task
from hardpoint.engine.oracle import Oracle
from hardpoint.engine.runner import run_attack
from hardpoint.engine.twin import Twin, TwinPlan, build_twin
from hardpoint.models.torch import TorchModel

BAR = 0.10
Maker = Callable[[int, tuple[int, ...]], nn.Module]
STEPS = 40
_SHAPES = {"64 images of 1×28×28": (64, 1, 28, 28), "32 images of 3×32×32": (32, 3, 32, 32)}


def _dense(width: int, shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape[1:]), 16 * width),
        nn.ReLU(),
        nn.Linear(16 * width, 16 * width),
        nn.ReLU(),
        nn.Linear(16 * width, 10),
    )


def _convolutional(width: int, shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape[1], width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


_NETWORKS = {"dense": _dense, "convolutional": _convolutional}


def run(options: Options) -> list[Table]:
    """One table."""
    table = Table(
        "Engine overhead",
        ["batch", "network", "forward ms", "bare calls s", "engine s", "overhead", f"≤ {BAR:.0%}"],
    )
    for batch, shape in _SHAPES.items():
        for network, make in _NETWORKS.items():
            table.rows.append([batch, network, *measure(shape, make, options)])
    table.notes.append(
        "Least of interleaved repeats of 40 gradient steps without random start, and one last forward pass."
    )
    return [table]


def measure(shape: tuple[int, ...], make: Maker, options: Options) -> list[str]:
    """The cells of one row."""
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1).to(options.device)
    twin, forward = _about_5ms(x, make, options)
    y = twin.predict(x)
    n = len(x)
    region = hp.Linf(1e-3).around(x, Box(0, 1))
    index, zero = torch.arange(n, device=x.device), torch.zeros(n, dtype=torch.int64, device=x.device)
    task = Task(
        index, y, region, torch.zeros(n, 0, dtype=torch.int64), zero, hp.Untargeted(), Box(0, 1), Rng(0)
    )
    attack = hp.attacks.PGD(steps=STEPS, step_size=1e-5, random_start=False)

    def bare() -> None:
        for _ in range(STEPS):
            point = x.detach().requires_grad_(True)
            torch.autograd.grad(untargeted(Loss.CE, twin.raw_scores(point), y).sum(), point)
        twin.scores(x)

    def engine() -> None:
        found = run_attack(attack, Oracle(twin, Access.GRADIENTS), task, capacity=n)
        if int(found.backward.sum()) != STEPS * n:
            raise RuntimeError("inputs left early, the comparison would be unfair")

    bare(), engine()
    times = interleaved({"bare": bare, "engine": engine}, 4 if options.quick else 8, options.device)
    least = {name: min(seconds.wall) for name, seconds in times.items()}
    overhead = least["engine"] / least["bare"] - 1
    return [
        f"{forward * 1e3:.1f}",
        f"{least['bare']:.3f}",
        f"{least['engine']:.3f}",
        f"{overhead:+.1%}",
        "yes" if overhead <= BAR else "no",
    ]


def _about_5ms(x: Tensor, make: Maker, options: Options) -> tuple[Twin, float]:
    """A network whose forward pass on ``x`` takes about 5 ms on this machine, and the seconds it takes."""
    width = 8
    while True:
        torch.manual_seed(0)
        body = make(width, tuple(x.shape)).eval().to(options.device)
        body(x)
        twin = build_twin(TorchModel(body), TwinPlan())
        assert isinstance(twin, Twin)  # a module always has one
        seconds = sorted(_seconds(twin, x) for _ in range(21))[10]
        if seconds > 4.8e-3 or width > 1024:
            return twin, seconds
        width = max(width + 1, int(width * 1.15))


def _seconds(twin: Twin, x: Tensor) -> float:
    began = time.perf_counter()
    twin.scores(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
