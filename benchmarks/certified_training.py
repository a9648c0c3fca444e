"""How much training by interval bounds proves on MNIST, and how long it takes.

python -m benchmarks.certified_training [--quick] [--threads 2] [--only 0.1] [--recipe ibp] [--write PATH]

A network of 0.16 million weights is trained on the training images and proven on all test images by interval bounds in
float64. Time is what training took, by the clock and of processor time, which other work on the machine leaves alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.models import mnist, mnist_training
from hardpoint.bounds import interval_certified
from hardpoint.engine.guard import preserved_random_state
from hardpoint.evidence.rate import Rate
from hardpoint.harden.recipes import CrownIbp, Ibp, MtlIbp, Recipe, Sabr


@dataclass(frozen=True)
class Setting:
    """One budget, and what is trained longer than it: ``reach`` radii of it are learned."""

    eps: float
    reach: float
    epochs: int
    asked: float


SETTINGS = (Setting(0.1, 1.2, 20, 0.96), Setting(0.3, 1.1, 16, 0.88))
"""For comparison, a small network trained by dual bounds: 94.2 % proven at 0.1 (Wong and Kolter, ICML 2018)."""
RECIPES: dict[str, Callable[[float], Recipe]] = {
    "ibp": lambda reach: Ibp(reach=reach),
    "crown_ibp": lambda reach: CrownIbp(reach=reach),
    "sabr": lambda reach: Sabr(part=0.6, reach=reach),
    "mtl_ibp": lambda reach: MtlIbp(bound=0.1, reach=reach),
}


def network() -> nn.Sequential:
    """Three convolutions and a hidden layer, a batch norm before every ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(64 * 16, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def run(
    options: Options, settings: Sequence[Setting] = SETTINGS, recipes: Sequence[str] = ("ibp",)
) -> list[Table]:
    """One table."""
    columns = ["recipe", "Linf", "epochs", "minutes", "processor minutes", "clean", "proven", "asked"]
    table = Table("Certified training: MNIST, 10,000 test images", columns)
    for setting in settings:
        for recipe in recipes:
            table.rows.append(_row(setting, recipe, options))
            options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        f"Proven: by interval bounds in float64, widened by their rounding; a network with a batch norm before every "
        f"ReLU, {torch.get_num_threads()} threads, 95 % intervals."
    )
    return [table]


def _row(setting: Setting, name: str, options: Options) -> list[str]:
    n, epochs = (2000, 2) if options.quick else (60_000, setting.epochs)
    (x, y), (xt, yt) = mnist_training(slice(0, n)), mnist()
    with preserved_random_state(seed=0):
        net = network()
    training = hp.Training(epochs=epochs, lr=2e-3, weight_decay=0.0, ramp=0.5, validation=0.0)
    wall, processor = time.perf_counter(), time.process_time()
    recipe = RECIPES[name](setting.reach)
    done = hp.harden(net, x, y, threat=hp.Linf(setting.eps), recipe=recipe, training=training, progress=False)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    options.say(f"{name}: proven while it learned, " + " ".join(f"{e.attacked:.3f}" for e in done.history))
    if options.quick:
        xt, yt = xt[:1000], yt[:1000]
    with torch.no_grad():
        clean = torch.cat([done.model(part).argmax(1) for part in xt.split(500)]) == yt
    proven = interval_certified(done.model, xt, yt, hp.Linf(setting.eps))
    rates = [str(Rate.of(int(part.sum()), len(part))) for part in (clean, proven)]
    minutes = [f"{seconds / 60:.1f}" for seconds in (wall, processor)]
    return [recipe.name, f"{setting.eps:g}", str(epochs), *minutes, *rates, f"{100 * setting.asked:g} %"]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.certified_training", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", action="append", type=float, help="this budget; may be repeated")
    parser.add_argument("--recipe", action="append", choices=tuple(RECIPES), help="this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer inputs, two epochs")
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--write", type=Path, help="where to write the table")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    console = Console(width=150)
    chosen = [s for s in SETTINGS if asked.only is None or s.eps in asked.only]
    tables = run(Options(quick=asked.quick, say=console.log), chosen, asked.recipe or ("ibp",))
    text = "\n".join(table.markdown() for table in tables)
    console.print(text, markup=False)
    if asked.write is not None:
        asked.write.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
