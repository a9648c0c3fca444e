"""``fast`` and ``standard`` beside AutoAttack's own code, input by input, on networks of different recipes.

AutoAttack (Croce and Hein, ICML 2020) is not on the package index; its source (MIT) must be importable as
``autoattack``. It needs minutes to an hour per network, so this benchmark runs only when it is asked for by name.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.models import robust_cases

_BATCH = 256


@dataclass(frozen=True)
class Outcome:
    """Who stands, what it took, and how long: passes are means per input."""

    stands: Tensor
    passes: float
    seconds: float


def run(options: Options) -> list[Table]:
    """One table."""
    table = Table(
        "Beside AutoAttack",
        [
            "network",
            "inputs",
            "AutoAttack robust",
            "fast robust",
            "only AutoAttack breaks",
            "only fast breaks",
            "passes AutoAttack",
            "passes fast",
            "s AutoAttack",
            "s fast",
            "× faster",
        ],
    )
    try:
        import autoattack  # noqa: F401
    except ImportError:
        table.notes.append("Left out: autoattack cannot be imported; put its source on PYTHONPATH.")
        return [table]
    for case in robust_cases():
        try:
            model, x, y = case.load()
        except FileNotFoundError as missing:
            table.notes.append(f"Left out: {case.name} ({missing.filename} is absent).")
            continue
        n = 100 if options.quick else 1000
        model, x, y = model.to(options.device), x[:n].to(options.device), y[:n].to(options.device)
        ours, theirs = _ours(model, x, y, case.eps), _autoattack(model, x, y, case.eps, options.device)
        table.rows.append(_row(f"{case.name}, Linf {case.eps:.3g}", ours, theirs))
        options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        f"Batch {_BATCH}, the same threads for both, one after the other. Passes are forward and backward passes, and "
        "queries, per input, counted by hooks for AutoAttack. Verification and checks are in Hardpoint's time."
    )
    return [table]


def _row(name: str, ours: Outcome, theirs: Outcome) -> list[str]:
    return [
        name,
        str(len(ours.stands)),
        f"{100 * float(theirs.stands.double().mean()):.1f}",
        f"{100 * float(ours.stands.double().mean()):.1f}",
        str(int((ours.stands & ~theirs.stands).sum())),
        str(int((theirs.stands & ~ours.stands).sum())),
        f"{theirs.passes:,.0f}",
        f"{ours.passes:,.0f}",
        f"{theirs.seconds:.0f}",
        f"{ours.seconds:.1f}",
        f"{theirs.seconds / ours.seconds:.1f}",
    ]


def _ours(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Outcome:
    began = time.perf_counter()
    result = hp.assess(model, x, y, threat=hp.Linf(eps), batch_size=_BATCH, progress=False)
    passes = result.passes.forward + result.passes.backward
    return Outcome(~result.broken, passes, time.perf_counter() - began)


def _autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, device: str) -> Outcome:
    from autoattack import AutoAttack

    counted = _Counted(model).eval()
    began = time.perf_counter()
    attack = AutoAttack(
        counted, norm="Linf", eps=eps, version="standard", device=device, verbose=False, seed=0
    )
    found = attack.run_standard_evaluation(x, y, bs=_BATCH)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        stands = torch.cat([model(part).argmax(1) for part in found.split(_BATCH)]) == y
        stands &= torch.cat([model(part).argmax(1) for part in x.split(_BATCH)]) == y
    return Outcome(stands, counted.passes / len(x), seconds)


class _Counted(nn.Module):
    """The model, counting the inputs that go forward and the gradients that come back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x)
        if x.requires_grad and torch.is_grad_enabled():
            x.register_hook(self._back)
        answer: Tensor = self.model(x)
        return answer

    def _back(self, gradient: Tensor) -> None:
        self.passes += len(gradient)
