"""``hardpoint certify --onnx --vnnlib``: one property of one network, answered as the competitions' tools answer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardpoint.bounds.vnnlib import witness_text
from hardpoint.certify.property import Decision, PropertyAnswer, decide
from hardpoint.cli.console import note, say, say_json
from hardpoint.cli.exits import Exit
from hardpoint.cli.layers import Layer, resolve
from hardpoint.core.errors import ConfigError

_CODES = {Decision.UNSAT: Exit.PASS, Decision.SAT: Exit.GATE_FAILED, Decision.UNKNOWN: Exit.INCONCLUSIVE}


@dataclass(frozen=True)
class AskedProperty:
    """How the command was called.

    Attributes:
        onnx, vnnlib: the two files.
        others: options that were given and belong to the other form of the command.
        said: what the command line says about settings.
        config: the configuration file it names.
        json_out: print one JSON object instead of lines.
        quiet: no hints.
    """

    onnx: Path | None
    vnnlib: Path | None
    others: Sequence[str]
    said: Layer
    config: Path | None
    json_out: bool
    quiet: bool


def run(asked: AskedProperty) -> int:
    """Decide the property and say so in a word, followed by the witness where there is one."""
    if asked.onnx is None or asked.vnnlib is None:
        missing = "--vnnlib" if asked.vnnlib is None else "--onnx"
        raise ConfigError(f"{missing} is missing", "give both: --onnx net.onnx --vnnlib property.vnnlib")
    if asked.others:
        raise ConfigError(f"{asked.others[0]} does not go with --onnx", "the property says what is asked")
    settings = resolve(asked.said, asked.config, os.environ).settings
    found = decide(
        asked.onnx,
        asked.vnnlib,
        seconds=settings.certify.seconds_per_input,
        soundness=settings.certify.soundness,
        seed=settings.run.seed,
    )
    code = _CODES[found.answer]
    if asked.json_out:
        say_json({"exit_code": int(code), **_told(found)})
        return code
    say(found.answer.value)
    if found.x is not None and found.y is not None:
        say(witness_text(found.x, found.y))
    if found.answer is Decision.UNKNOWN:
        note(f"best bound {found.bound:.6g}: {found.reason}")
    elif found.reason and not asked.quiet:
        note(found.reason)
    return code


def _told(found: PropertyAnswer) -> dict[str, object]:
    witness = None
    if found.x is not None and found.y is not None:
        witness = {"x": found.x.tolist(), "y": found.y.double().tolist()}
    return {
        "answer": found.answer.value,
        "witness": witness,
        "bound": found.bound if math.isfinite(found.bound) else None,
        "seconds": found.seconds,
        "reason": found.reason,
    }
