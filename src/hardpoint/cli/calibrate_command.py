"""``hardpoint calibrate``: what each threshold of the detectors costs and catches."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from hardpoint.assess.tuning import ThresholdTable, tune
from hardpoint.cli.build import build_data, build_model, build_threats, check_together
from hardpoint.cli.config import RunSettings
from hardpoint.cli.console import say, say_json
from hardpoint.cli.defence import prepare_defence
from hardpoint.cli.defence_kinds import DEFAULT_DETECTORS
from hardpoint.cli.exits import Exit
from hardpoint.cli.layers import Layer, resolve
from hardpoint.core.errors import ConfigError
from hardpoint.engine.budget import Budget

_SHARES = (0.1, 0.05, 0.01)


@dataclass(frozen=True)
class Asked:
    """How the command was called.

    Attributes:
        said: what the command line says about settings.
        config: the configuration file it names.
        alphas: the shares of false alarms it names, as text.
        json_out: print one JSON object instead of tables.
        quiet: no progress and no hints.
    """

    said: Layer
    config: Path | None
    alphas: str | None
    json_out: bool
    quiet: bool


def run(asked: Asked) -> int:
    """A table of thresholds under every threat; nothing is enforced and nothing is written."""
    resolved = resolve(asked.said, asked.config, os.environ)
    settings = resolved.settings
    alphas = _read(asked.alphas) if asked.alphas is not None else (*_SHARES, settings.defence.alpha)
    model = build_model(resolved)
    threats = build_threats(resolved, model)
    data = build_data(settings)
    check_together(model, data, threats)
    detectors = settings.defence.detectors or DEFAULT_DETECTORS
    made = prepare_defence(settings, model, data, detectors, quiet=asked.quiet)
    x, y = made.data.rows(torch.arange(len(made.data)))
    tables = {
        planned.name: tune(
            made.model,
            made.detectors,
            made.benign,
            x,
            y,
            threat=planned.threat,
            alphas=alphas,
            mode=settings.run.mode,
            seed=settings.run.seed,
            budget=_budget(settings.run),
            progress=not asked.quiet,
            batch_size=settings.run.batch_size,
            allow_training=settings.run.allow_training,
        )
        for planned in threats
    }
    return _told(asked, tables)


def _budget(said: RunSettings) -> Budget:
    return Budget(said.passes, said.queries, said.seconds)


def _read(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        shares = ()
    if not shares or not all(0 < share < 1 for share in shares):
        raise ConfigError(f"--alpha: {text!r}", "give shares between 0 and 1, for example 0.05,0.01")
    return shares


def _told(asked: Asked, tables: dict[str, ThresholdTable]) -> int:
    """Print the tables; a row that cannot be enforced, or a number in doubt, leaves the question open."""
    rows = [row for table in tables.values() for row in table]
    is_open = any(row.needed is not None for row in rows) or any(table.doubts for table in tables.values())
    code = Exit.INCONCLUSIVE if is_open else Exit.PASS
    if asked.json_out:
        shown = {name: table.describe() for name, table in tables.items()}
        say_json({"exit_code": int(code), "thresholds": shown})
        return code
    for name, table in tables.items():
        say(f"{name}  robust {table.naive.robust_accuracy} without detectors")
        say(str(table))
        say(f"false alarms: {table.calibration} benign inputs calibrate, {table.holdout} others measure")
    if not asked.quiet:
        say("next:     write detectors and alpha in [defence], then: hardpoint assess")
    return code
