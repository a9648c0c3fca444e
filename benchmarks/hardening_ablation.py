"""What adversarial weights, a moving average and picking the best epoch each add to PGD training on little data.

Robust training overfits (Rice, Wong and Kolter, ICML 2020), most where data are few and the step size does not fall.
CIFAR-10, Linf 8/255; the same network, epochs, optimiser and order in every row; robust accuracy under APGD with 100
steps on test images.
"""

from __future__ import annotations

from dataclasses import replace

import torch

import hardpoint as hp
from benchmarks.hardening import cifar, residual
from benchmarks.measure import Options, Table
from hardpoint.attacks import APGD
from hardpoint.attacks.base import attack_alone
from hardpoint.data import MemoryDataset
from hardpoint.engine.guard import preserved_random_state
from hardpoint.evidence.rate import Rate
from hardpoint.harden.recipes import Awp, Pgd, Recipe
from hardpoint.models import TorchModel

_EPS = 8 / 255


def run(options: Options) -> list[Table]:
    """One table."""
    n, epochs, seeds = (200, 2, 1) if options.quick else (1000, 60, 3)
    last = hp.Training(
        epochs=epochs, batch_size=64, optimiser="sgd", lr=0.05, pace="constant", validation=0.0
    )
    best = replace(last, validation=0.1)
    rows: dict[str, tuple[Recipe, hp.Training]] = {
        "PGD, weights of the last epoch": (Pgd(2), last),
        "+ moving average 0.99": (Pgd(2), replace(last, average=0.99)),
        "+ AWP 0.01": (Awp(Pgd(2), gamma=0.01), last),
        "+ best epoch (a tenth held back)": (Pgd(2), best),
        "+ best epoch, moving average": (Pgd(2), replace(best, average=0.99)),
        "all three": (Awp(Pgd(2), gamma=0.01), replace(best, average=0.99)),
    }
    (x, y), (xt, yt) = cifar(n)
    tested = len(xt)
    table = Table(
        f"What each adds: CIFAR-10, {n} images, Linf 8/255", ["training", "clean", "robust", "by seed"]
    )
    for name, (recipe, training) in rows.items():
        clean, robust = list[int](), list[int]()
        for seed in range(seeds):
            with preserved_random_state(seed=seed):
                net = residual(10)
            threat = hp.Linf(_EPS)
            done = hp.harden(
                net, x, y, threat=threat, recipe=recipe, training=training, seed=seed, progress=False
            )
            model = TorchModel(done.model)
            found = attack_alone(APGD(steps=100), model, MemoryDataset(xt, yt), hp.Threat(threat), seed)
            clean.append(int((model.predict(xt) == yt).sum()))
            robust.append(int((~found.broken).sum()))
        rates = [str(Rate.of(sum(part), seeds * tested)) for part in (clean, robust)]
        table.rows.append([name, *rates, ", ".join(f"{100 * one / tested:.1f}" for one in robust)])
        options.say(" | ".join(table.rows[-1]))
    table.notes.append(f"{epochs} epochs, {seeds} seeds of {tested} test inputs, 95 % intervals.")
    return [table]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for found in run(Options()):
        print(found.markdown())
