"""How near the nearest adversarial examples are that each minimal-norm attack finds, at what cost, beside the peers.

adversarial-library (BSD-3) is not on the package index; it is measured where it can be imported as ``adv_lib``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.models import lenet5
from hardpoint import attacks
from hardpoint.attacks.base import StandaloneAttack

_BATCH = 256
Found = tuple[Tensor, float]
"""Distances of the inputs that the model gets right, infinite where nothing was found, and passes per input."""


@dataclass(frozen=True)
class Entry:
    """One attack of one library."""

    library: str
    name: str
    find: Callable[[nn.Module, Tensor, Tensor], Found]


def run(options: Options) -> list[Table]:
    """One table per norm."""
    return [_table("L2", 2.0, _l2, options), _table("Linf", math.inf, _linf, options)]


def _table(norm: str, order: float, entries: Callable[[float], list[Entry]], options: Options) -> Table:
    columns = ["network", "attack", "median distance", "found", "passes", "s"]
    table = Table(f"Minimal norms, {norm}", columns)
    for which, said in (("clean", "LeNet5, plain"), ("adv", "LeNet5, adversarially trained")):
        try:
            model, x, y = lenet5(which)
        except FileNotFoundError as missing:
            table.notes.append(f"Left out: {said} ({missing.filename} is absent).")
            continue
        n = 64 if options.quick else 300
        model, x, y = model.to(options.device), x[:n].to(options.device), y[:n].to(options.device)
        with torch.no_grad():
            right = model(x).argmax(1) == y
        for entry in entries(order):
            began = time.perf_counter()
            try:
                distance, passes = entry.find(model, x[right], y[right])
            except ImportError as error:
                table.notes.append(f"Left out: {entry.library} {entry.name} ({error}).")
                continue
            spent = time.perf_counter() - began
            share = 100 * float(torch.isfinite(distance).double().mean())
            middle = f"{float(distance.median()):.4f}"
            shown = "" if math.isnan(passes) else f"{passes:,.0f}"
            row = [said, f"{entry.library} {entry.name}", middle, f"{share:.1f} %", shown, f"{spent:.0f}"]
            table.rows.append(row)
            options.say(" | ".join(row))
    table.notes.append(
        f"The first {64 if options.quick else 300} MNIST test images, those answered right. Published medians on these "
        "weights: plain L2 1.388 (DDN), Linf .112 (FAB); adversarially trained L2 1.872 (DDN), Linf .351 (FAB), from "
        "advertorch's benchmark page and the FAB repository."
    )
    return table


def _ours(name: str, attack: StandaloneAttack, ball: hp.threats.Perturbation) -> Entry:
    def find(model: nn.Module, x: Tensor, y: Tensor) -> Found:
        result = attack(model, x, y, ball, batch_size=_BATCH)
        return result.distance, result.passes.forward + result.passes.backward

    return Entry("Hardpoint", name, find)


def _foolbox(name: str, make: str, steps: int, order: float) -> Entry:
    def find(model: nn.Module, x: Tensor, y: Tensor) -> Found:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        attack = getattr(foolbox.attacks, make)(steps=steps)
        pairs = zip(x.split(_BATCH), y.split(_BATCH), strict=True)
        found = torch.cat([attack(wrapped, a, b, epsilons=None)[1] for a, b in pairs])
        return _distances(model, x, y, found, order), math.nan

    return Entry("foolbox", name, find)


def _adv_lib(name: str, make: str, steps: int, order: float, **settings: float) -> Entry:
    def find(model: nn.Module, x: Tensor, y: Tensor) -> Found:
        from adv_lib import attacks as theirs

        pairs = zip(x.split(_BATCH), y.split(_BATCH), strict=True)
        attack = getattr(theirs, make)
        found = torch.cat([attack(model, a, b, steps=steps, **settings) for a, b in pairs])
        return _distances(model, x, y, found, order), 2.0 * steps

    return Entry("adversarial-library", name, find)


def _distances(model: nn.Module, x: Tensor, y: Tensor, found: Tensor, order: float) -> Tensor:
    with torch.no_grad():
        wrong = model(found).argmax(1) != y
    far = torch.linalg.vector_norm((found - x).double().flatten(1), ord=order, dim=1)
    return torch.where(wrong, far, torch.inf)


def _l2(order: float) -> list[Entry]:
    ball = hp.L2(math.inf)
    return [
        _ours("DDN 1000", attacks.DDN(steps=1000), ball),
        _ours("FMN 1000", attacks.FMN(steps=1000), ball),
        _ours("SuperDeepFool", attacks.SuperDeepFool(), ball),
        _ours("PDPGD 500", attacks.PDPGD(steps=500), ball),
        _ours("FAB-T 9×100", attacks.FAB(steps=100, targets=9), ball),
        _foolbox("DDN 1000", "DDNAttack", 1000, order),
        _adv_lib("DDN 1000", "ddn", 1000, order),
        _adv_lib("FMN 1000", "fmn", 1000, order, norm=order),
    ]


def _linf(order: float) -> list[Entry]:
    ball = hp.Linf(math.inf)
    return [
        _ours("FMN 1000", attacks.FMN(steps=1000), ball),
        _ours("PDPGD 500", attacks.PDPGD(steps=500), ball),
        _ours("FAB-T 9×100", attacks.FAB(steps=100, targets=9), ball),
        _foolbox("FMN 1000", "LInfFMNAttack", 1000, order),
        _adv_lib("FMN 1000", "fmn", 1000, order, norm=order),
    ]
