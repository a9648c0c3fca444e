"""Robust training at twice the price of ordinary training: what it reaches beside ten gradient steps per update.

Three data sets, the same network, epochs, optimiser, order of inputs and first weights in every row; robust accuracy by
``standard`` on test inputs. The price is processor time of the whole training, one thread, the least over the seeds:
other work on the machine only adds.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.models import DATA, mnist, mnist_training
from hardpoint.evidence.rate import Rate
from hardpoint.harden import Crop, Flip
from hardpoint.harden.names import DEFAULT, recipe_named
from hardpoint.harden.recipes import Recipe

RECIPES = "plain,n_fgsm,default,pgd"


@dataclass(frozen=True)
class Setting:
    """Data, network, budget and schedule."""

    name: str
    network: Callable[[], nn.Module]
    data: Callable[[], tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]
    eps: float
    training: hp.Training


class Block(nn.Module):
    """Two convolutions and a short cut (He et al., CVPR 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.short(x))


def residual(classes: int, width: int = 8) -> nn.Module:
    """A residual network of seven layers."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2),
        Block(4 * width, 8 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


def plain_convolutions() -> nn.Module:
    """The network of Wong and Kolter (ICML 2018)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def settings(quick: bool) -> dict[str, Setting]:
    """By name. Where ``quick``, less data and fewer epochs."""
    adam = hp.Training(epochs=3 if quick else 15, validation=0.0)
    crop = (Crop(2 if quick else 4),)
    sgd = replace(
        adam, epochs=3 if quick else 20, batch_size=64, optimiser="sgd", lr=0.1, pace="cycle", augment=crop
    )
    digits, photographs = (2_000, 2_000) if quick else (10_000, 5_000)
    return {
        "MNIST": Setting(
            "MNIST", plain_convolutions, lambda: (mnist_training(slice(digits)), mnist()), 0.3, adam
        ),
        "GTSRB": Setting("GTSRB", lambda: residual(43), lambda: traffic_signs(photographs), 4 / 255, sgd),
        "CIFAR-10": Setting(
            "CIFAR-10",
            lambda: residual(10),
            lambda: cifar(photographs),
            8 / 255,
            replace(sgd, augment=(*sgd.augment, Flip())),
        ),
    }


def traffic_signs(most: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training signs, ``most`` spread over all classes, and test signs."""
    held = np.load(DATA / "images" / "gtsrb" / "gtsrb_32x32_subset.npz")
    x = torch.from_numpy(held["x"]).permute(0, 3, 1, 2).float() / 255
    y, test = torch.from_numpy(held["y"]).long(), torch.from_numpy(held["is_test"])
    spread = torch.linspace(0, int((~test).sum()) - 1, most).long().unique()  # they are sorted by class
    return (x[~test][spread], y[~test][spread]), (x[test], y[test])


def cifar(most: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training images from JPEG, test images without loss."""
    from PIL import Image

    folder = DATA / "images" / "cifar10"
    held = np.load(folder / "cifar10_train16k_jpegbytes.npz")
    ends, content = held["offset"], held["jpeg"].tobytes()
    pictures = [
        np.asarray(Image.open(io.BytesIO(content[ends[i] : ends[i + 1]])).convert("RGB")) for i in range(most)
    ]
    test = np.load(folder / "cifar10_test_lossless737.npz")
    train_x, test_x = (
        torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() / 255 for part in (pictures, test["x"])
    )
    return (train_x, torch.from_numpy(held["y"][:most]).long()), (test_x, torch.from_numpy(test["y"]).long())


def run(options: Options) -> list[Table]:
    """One table per data set; ``HARDENING`` names some of them, ``SEEDS`` says how many, ``RECIPES`` which, ``JUDGE``
    in which mode robust accuracy is measured."""
    wanted = os.environ.get("HARDENING", "")
    seeds = 1 if options.quick else int(os.environ.get("SEEDS", "3"))
    judge = os.environ.get("JUDGE", "standard")
    found = settings(options.quick)
    names = [name for name in found if not wanted or name in wanted.split(",")]
    return [_measured(found[name], seeds, judge, options) for name in names]


def _measured(setting: Setting, seeds: int, judge: str, options: Options) -> Table:
    (train_x, train_y), (x, y) = setting.data()
    tested = min(len(x), 200 if options.quick else 750)
    spread = torch.linspace(0, len(x) - 1, tested).long()  # some are sorted by class
    x, y = x[spread], y[spread]
    table = Table(
        f"Robust training on {setting.name}, Linf {setting.eps:.3g}",
        ["recipe", "price", "clean", "robust", "of PGD-10's"],
    )
    clean, robust = dict[str, list[Tensor]](), dict[str, list[Tensor]]()
    price, shown = dict[str, list[float]](), dict[str, str]()
    for seed in range(seeds):
        for key in os.environ.get("RECIPES", RECIPES).split(","):
            recipe: Recipe | str = key if key == DEFAULT else recipe_named(key)
            torch.manual_seed(seed)
            net = setting.network()
            began = time.process_time()
            done = hp.harden(
                net,
                train_x,
                train_y,
                threat=hp.Linf(setting.eps),
                recipe=recipe,
                training=setting.training,
                seed=seed,
                progress=False,
            )
            seconds = time.process_time() - began
            judged = hp.assess(done.model, x, y, threat=hp.Linf(setting.eps), mode=judge, progress=False)
            right = done.model(x).argmax(1) == y
            clean.setdefault(key, []).append(right)
            robust.setdefault(key, []).append(~judged.broken)
            price.setdefault(key, []).append(seconds)
            shown[key] = f"default ({done.recipe})" if key == DEFAULT else done.recipe
            options.say(
                f"{setting.name}, seed {seed}, {shown[key]}: {seconds:.0f} s, {judged.robust_accuracy}, "
                f"clean {float(right.double().mean()):.3f}"
            )
    best = float(torch.cat(robust["pgd"]).double().mean()) if "pgd" in robust else 0.0
    for key in shown:
        rates = [Rate.of(int(torch.cat(part).sum()), seeds * len(x)) for part in (clean[key], robust[key])]
        ratio = min(price[key]) / min(price["plain"])
        cells = [shown[key], f"{ratio:.2f}×", *(str(rate) for rate in rates)]
        table.rows.append([*cells, f"{100 * rates[1].value / best:.0f} %" if best else "–"])
    table.notes.append(
        f"{len(train_x):,} training inputs, {setting.training.epochs} epochs, {seeds} seeds of {len(x)} test inputs; "
        f"robust accuracy by `{judge}`. The price is processor time, the least of the seeds'."
    )
    return table
