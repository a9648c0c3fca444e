"""PGD with 40 steps by Hardpoint and three other libraries: same model, inputs, budget, step and batch size.

Every library's examples are judged by the same check, which uses none of the libraries. The bar: at least three
times as fast as the fastest other library, at the same or a lower robust accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table, interleaved, median, peak_memory
from benchmarks.models import Case, cases
from benchmarks.peers import OURS, PGD, Job

BAR = 3.0
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Checked:
    """The common verdict on a library's examples."""

    robust: float
    invalid: int


def run(options: Options) -> list[Table]:
    """One table per batch size."""
    batches = [128] if options.quick else [128, 256]
    tables = []
    for batch in batches:
        table = Table(
            f"PGD-40, batch {batch}",
            [
                "network",
                "attack",
                "library",
                "median s",
                "× ours",
                "robust",
                "forward",
                "backward",
                "peak MiB",
            ],
        )
        for case in cases():
            try:
                table.rows += measure(case, batch, options)
            except FileNotFoundError as missing:
                table.notes.append(f"Left out: {case.name}, {case.setting} ({missing.filename} is absent).")
        table.notes.append(
            "Seconds: median of interleaved repeats by the clock; CPU: least processor time, which other work on the"
            " machine leaves alone. Verification is included for Hardpoint. Robust: share of inputs"
            " that the untouched model still gets right, examples outside the budget or the box counted as unbroken."
            f" Passes are means per input. **Bold**: {BAR:g}× the fastest other library or better."
        )
        tables.append(table)
    return tables


def measure(case: Case, batch: int, options: Options) -> list[list[str]]:
    """The rows of one case."""
    model, x, y = case.load()
    n = (128 if options.quick else 256) if batch == 128 else 512
    model, x, y = model.to(options.device), x[:n].to(options.device), y[:n].to(options.device)
    job = Job(model, x, y, case.eps, case.step, case.random_start, batch)
    found: dict[str, Tensor] = {}

    def jobs(keep: bool) -> dict[str, Callable[[], object]]:
        def one(tool: str) -> object:
            examples = PGD[tool](job)
            if keep:
                found[tool] = examples
            return examples

        return {tool: lambda tool=tool: one(tool) for tool in PGD}  # type: ignore[misc]

    small = replace(job, x=x[: min(n, 64)], y=y[: min(n, 64)])
    for tool in PGD:  # imports, kernels, the choice of the twin
        PGD[tool](small)
    seconds = interleaved(jobs(keep=True), options.repeats, options.device)
    wall = {tool: median(times.wall) for tool, times in seconds.items()}
    processor = {tool: min(times.processor) for tool, times in seconds.items()}
    fastest = min(value for tool, value in wall.items() if tool != OURS) / wall[OURS]
    rows = []
    for tool in PGD:
        verdict = check(model, x, y, found[tool], case.eps)
        memory = peak_memory(lambda tool=tool: PGD[tool](job), options.device)  # type: ignore[misc]
        forward, backward = passes(tool, job)
        name = f"**{tool} ({fastest:.1f}×)**" if tool == OURS and fastest >= BAR else tool
        rows.append(
            [
                case.name if tool == OURS else "",
                case.setting if tool == OURS else "",
                name,
                f"{wall[tool]:.2f}",
                f"{wall[tool] / wall[OURS]:.2f}",
                f"{processor[tool]:.2f}",
                f"{processor[tool] / processor[OURS]:.2f}",
                f"{verdict.robust:.1%}" + (f" ({verdict.invalid} invalid)" if verdict.invalid else ""),
                f"{forward:.1f}",
                f"{backward:.1f}",
                "?" if memory is None else f"{memory:.0f}",
            ]
        )
    options.say(f"{case.name}, {case.setting}, batch {batch}, {n} inputs: " + _words(wall, processor, rows))
    return rows


def _words(wall: dict[str, float], processor: dict[str, float], rows: list[list[str]]) -> str:
    parts = zip(wall, wall.values(), processor.values(), rows, strict=True)
    return "; ".join(f"{tool} {w:.2f} s, CPU {p:.2f} s, robust {row[7]}" for tool, w, p, row in parts)


def check(model: nn.Module, x: Tensor, y: Tensor, examples: Tensor, eps: float) -> Checked:
    """Robust accuracy by the model's own forward pass, the norm and the box."""
    gap = (examples.double() - x.double()).abs().flatten(1).amax(1)
    valid = (gap <= eps + _ROUNDING) & ((examples >= 0) & (examples <= 1)).flatten(1).all(1)
    with torch.no_grad():
        clean = torch.cat([model(part).argmax(1) for part in x.split(128)]) == y
        right = torch.cat([model(part).argmax(1) for part in examples.split(128)]) == y
    robust = clean & (right | ~valid)
    return Checked(float(robust.double().mean()), int((~valid).sum()))


def passes(tool: str, job: Job) -> tuple[float, float]:
    """Mean forward and backward passes per input; the others' are counted by hooks on the model."""
    if tool == OURS:
        attack = hp.attacks.PGD(steps=job.steps, step_size=job.step, random_start=job.random_start)
        spent = attack(job.model, job.x, job.y, hp.Linf(job.eps), batch_size=job.batch).passes
        return spent.forward, spent.backward
    count = {"forward": 0, "backward": 0}

    def arriving(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        count["forward"] += len(inputs[0])
        if inputs[0].requires_grad and torch.is_grad_enabled():
            inputs[0].register_hook(returning)

    def returning(gradient: Tensor) -> None:
        count["backward"] += len(gradient)

    hook = job.model.register_forward_pre_hook(arriving)
    try:
        PGD[tool](job)
    finally:
        hook.remove()
    return count["forward"] / len(job.x), count["backward"] / len(job.x)
