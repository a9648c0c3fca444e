"""Instances of the verification competition with known answers: how many are solved, and whether any answer is wrong.

BENCHMARKS=acasxu,rl_benchmarks SECONDS_EACH=116 python -m benchmarks.run --only verification

Each instance has its own time limit, or SECONDS_EACH where that is less. An answer `unsat` where a counterexample is
known is unsound; `sat` counts only with a witness that onnxruntime confirms.
"""

from __future__ import annotations

import csv
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Options, Table, median
from benchmarks.models import DATA
from hardpoint.certify.property import Decision, decide
from hardpoint.evidence.certificate import Level

FOLDER = DATA / "verify" / "vnncomp"
NAMES = ("acasxu", "rl_benchmarks", "mnist_fc", "verivital", "eran_sigmoid")


@dataclass
class _Score:
    """What became of the instances of one benchmark."""

    instances: int = 0
    known: int = 0
    solved: int = 0
    unsat: int = 0
    sat: int = 0
    beyond: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def run(options: Options) -> list[Table]:
    """One row per benchmark."""
    level = Level(os.environ.get("SOUNDNESS", "real"))
    names = os.environ.get("BENCHMARKS", ",".join(NAMES)).split(",")
    table = Table(
        f"Instances of the verification competition, soundness {level.value}",
        [
            "benchmark",
            "solved",
            "unsat",
            "sat",
            "solved beyond what is labelled",
            "wrong",
            "median s",
            "longest s",
        ],
    )
    for name in names:
        score = _scored(name, level, options)
        table.rows.append(
            [
                name,
                f"{score.solved} of {score.known}",
                str(score.unsat),
                str(score.sat),
                str(score.beyond),
                ", ".join(score.wrong) or "0",
                f"{median(score.seconds):.2f}",
                f"{max(score.seconds):.1f}",
            ]
        )
    table.notes.append(
        "Solved counts instances whose answer others agree on; reading the files is counted in their time."
    )
    return [table]


def _scored(name: str, level: Level, options: Options) -> _Score:
    folder, score = FOLDER / name, _Score()
    with (folder / "verdicts.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[:: 10 if options.quick else 1]:
        limit = min(float(row["timeout_s"]), float(os.environ.get("SECONDS_EACH", "inf")))
        began = time.perf_counter()
        found = decide(
            file_of(folder, row["onnx"]), file_of(folder, row["vnnlib"]), seconds=limit, soundness=level
        )
        seconds = time.perf_counter() - began
        score.seconds.append(seconds)
        score.instances += 1
        wanted, answer = row["verdict"], found.answer
        what = f"{row['onnx']} {row['vnnlib']}"
        if wanted in ("sat", "unsat"):
            score.known += 1
            score.solved += answer.value == wanted
            if answer is not Decision.UNKNOWN and answer.value != wanted:
                score.wrong.append(what)
        elif answer is not Decision.UNKNOWN:
            score.beyond += 1
        score.unsat += answer is Decision.UNSAT
        score.sat += answer is Decision.SAT
        options.say(f"{what}: {answer.value} (known {wanted}), {seconds:.1f} s {found.reason}")
    return score


def file_of(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"
