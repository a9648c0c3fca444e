"""Peak memory of an assessment: beside one forward and backward pass, and from 1,000 to 10,000 inputs.

Each measurement is a process of its own, which reports the most memory it held. The inputs lie in a file and the
evidence goes to a run folder, so neither has to fit into memory. Pages of mapped files are not counted: they are the
system's cache, and it takes them back when it needs them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Options, PeakMemory, Table

BATCH = 128
_SIZES = (1_000, 10_000)
_SHAPE = (3, 32, 32)


def run(options: Options) -> list[Table]:
    """One table; host memory, so the network stays on the CPU."""
    table = Table("Peak memory", ["what", "peak MiB", "above the idle process MiB"])
    with tempfile.TemporaryDirectory() as folder:
        _write_inputs(Path(folder), _SIZES[-1])
        idle = _peak(["idle", folder])
        measured = [("the process with the model loaded", idle)]
        measured.append((f"one forward and backward pass, batch {BATCH}", _peak(["pass", folder])))
        measured += [
            (f"assess, {n:,} inputs, batch {BATCH}", _peak(["assess", folder, str(n)])) for n in _SIZES
        ]
    table.rows = [[what, f"{peak:.0f}", f"{peak - idle:.0f}"] for what, peak in measured]
    one, few, many = (peak for _, peak in measured[1:])
    table.notes.append(
        f"1,000 inputs: {few / one:.2f}× one forward and backward pass; 10,000 inputs: {many / few:.2f}× 1,000 inputs."
    )
    return [table]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16 * 16, 10),
    ).eval()


def _write_inputs(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.float32, shape=(n, *_SHAPE))
    labels, network = [], _network()
    for start in range(0, n, 500):
        x[start : start + 500] = rng.random((500, *_SHAPE), dtype=np.float32)
        with torch.no_grad():
            labels.append(network(torch.from_numpy(x[start : start + 500])).argmax(1).numpy())
    x.flush()
    np.save(folder / "y.npy", np.concatenate(labels))
    for size in _SIZES[:-1]:
        np.save(folder / f"x{size}.npy", x[:size])
        np.save(folder / f"y{size}.npy", np.concatenate(labels)[:size])


def _peak(arguments: list[str]) -> float:
    """MiB that a child process held at most."""
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    return float(json.loads(answer.stdout.splitlines()[-1])["peak"])


def _child(what: str, folder: Path, size: str = "") -> None:
    import hardpoint as hp
    from hardpoint.data import load_data

    network, assess = _network(), hp.assess  # the name loads all that an assessment imports
    with PeakMemory() as watched:
        if what == "pass":
            network.requires_grad_(False)
            x = torch.from_numpy(np.load(folder / "x.npy", mmap_mode="r")[:BATCH].copy())
            for _ in range(20):
                _one_pass(network, x)
        if what == "assess":
            suffix = size if size != str(_SIZES[-1]) else ""
            data = load_data((folder / f"x{suffix}.npy", folder / f"y{suffix}.npy"))
            with tempfile.TemporaryDirectory() as runs:
                run_dir = Path(runs) / "run"
                assess(network, data, threat=hp.Linf(0.3), run_dir=run_dir, batch_size=BATCH, progress=False)
    print(json.dumps({"peak": watched.peak}))


def _one_pass(network: nn.Module, x: Tensor) -> None:
    point = x.requires_grad_(True)
    torch.autograd.grad(network(point).sum(), point)


if __name__ == "__main__":
    _child(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
