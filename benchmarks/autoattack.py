"""``fast`` and ``standard`` beside AutoAttack's own code, input by input, on networks of different recipes.

AutoAttack (Croce and Hein, ICML 2020) is not on the package index; its source (MIT) must be importable as
``autoattack``. It needs minutes to an hour per network, so this benchmark runs only when it is asked for by name, and
``KEEP=FOLDER`` keeps what AutoAttack found there: a later run measures Hardpoint alone. ``MODES=fast`` leaves
``standard`` out.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table, machine, peak_memory
from benchmarks.models import Case, robust_cases
from hardpoint.assess import Mode

_BATCH = 256


@dataclass(frozen=True)
class Outcome:
    """Who stands, and what it took: passes are means per input, seconds are of processor time, memory is the most MiB
    that was held on top of what was held before."""

    stands: Tensor
    passes: float
    seconds: float
    memory: float


def run(options: Options) -> list[Table]:
    """One table."""
    table = Table(
        "Beside AutoAttack",
        [
            "network",
            "inputs",
            "mode",
            "robust, AutoAttack",
            "robust",
            "only AutoAttack breaks",
            "only Hardpoint breaks",
            "passes, AutoAttack",
            "passes",
            "s, AutoAttack",
            "s",
            "× faster",
            "MiB, AutoAttack",
            "MiB",
        ],
    )
    try:
        import autoattack  # noqa: F401
    except ImportError:
        table.notes.append("Left out: autoattack cannot be imported; put its source on PYTHONPATH.")
        return [table]
    modes = [Mode.parse(mode) for mode in os.environ.get("MODES", "fast,standard").split(",")]
    for case in robust_cases():
        try:
            model, x, y = case.load()
        except FileNotFoundError as missing:
            table.notes.append(f"Left out: {case.name} ({missing.filename} is absent).")
            continue
        n = 100 if options.quick else 1000
        model, x, y = model.to(options.device), x[:n].to(options.device), y[:n].to(options.device)
        theirs = _theirs(case, model, x, y, options.device)
        for mode in modes:
            cells = _row(mode, _ours(model, x, y, case.eps, mode), theirs)
            table.rows.append([f"{case.name}, Linf {case.eps:.3g}", *cells])
            options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        f"Batch {_BATCH}, the same threads for both, one after the other; processor time. Passes are forward "
        "and backward passes, and queries, per input, counted by hooks for AutoAttack. Verification and all checks of "
        "the panel are in Hardpoint's time."
    )
    return [table]


def _row(mode: Mode, ours: Outcome, theirs: Outcome) -> list[str]:
    return [
        str(len(ours.stands)),
        mode.value,
        f"{100 * float(theirs.stands.double().mean()):.1f}",
        f"{100 * float(ours.stands.double().mean()):.1f}",
        str(int((ours.stands & ~theirs.stands).sum())),
        str(int((theirs.stands & ~ours.stands).sum())),
        f"{theirs.passes:,.0f}",
        f"{ours.passes:,.0f}",
        f"{theirs.seconds:,.0f}",
        f"{ours.seconds:,.0f}",
        f"{theirs.seconds / ours.seconds:.1f}",
        f"{theirs.memory:.0f}",
        f"{ours.memory:.0f}",
    ]


def _measured(work: Callable[[], tuple[Tensor, float]], device: str) -> Outcome:
    found: list[tuple[Tensor, float]] = []
    began = time.process_time()
    memory = peak_memory(lambda: found.append(work()), device)
    seconds = time.process_time() - began
    ((stands, passes),) = found
    return Outcome(stands, passes, seconds, math.nan if memory is None else memory)


def _ours(model: nn.Module, x: Tensor, y: Tensor, eps: float, mode: Mode) -> Outcome:
    def work() -> tuple[Tensor, float]:
        result = hp.assess(model, x, y, threat=hp.Linf(eps), mode=mode, batch_size=_BATCH, progress=False)
        return ~result.broken, result.passes.forward + result.passes.backward

    return _measured(work, str(x.device))


def _theirs(case: Case, model: nn.Module, x: Tensor, y: Tensor, device: str) -> Outcome:
    """AutoAttack's outcome: kept from a run on this machine with as many threads, or found now."""
    keep = os.environ.get("KEEP")
    if keep is None:
        return _autoattack(model, x, y, case.eps, device)
    file = Path(keep) / f"{case.name} {case.eps:.4g} {len(x)}.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True)
        if kept.pop("machine") == machine(device):
            return Outcome(**kept)
    outcome = _autoattack(model, x, y, case.eps, device)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**asdict(outcome), "machine": machine(device)}, file)
    return outcome


def _autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, device: str) -> Outcome:
    from autoattack import AutoAttack

    counted = _Counted(model).eval()

    def work() -> tuple[Tensor, float]:
        attack = AutoAttack(
            counted, norm="Linf", eps=eps, version="standard", device=device, verbose=False, seed=0
        )
        found = attack.run_standard_evaluation(x, y, bs=_BATCH)
        with torch.no_grad():
            stands = torch.cat([model(part).argmax(1) for part in found.split(_BATCH)]) == y
            stands &= torch.cat([model(part).argmax(1) for part in x.split(_BATCH)]) == y
        return stands, counted.passes / len(x)

    return _measured(work, device)


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
