"""Runs that are killed or interrupted go on to the identical result, and do nothing twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardpoint.cli.main import main
from hardpoint.evidence.store import RunFolder

from command_folder import BASIC, Run, write_data  # isort: skip

pytest_plugins = ["command_folder"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

WORDS = [
    *BASIC[:-1],
    "linf:0.05@scores:20q",
    "--threat",
    "l2:0.1@scores:20q",
    "--batch-size",
    "4",
    "--out",
    "run",
]
RESUMED = [*WORDS, "--resume"]


def in_folder(folder: str, words: list[str]) -> None:
    """What a forked process does."""
    os.chdir(folder)
    sys.exit(main(words))


def heeds_interrupts() -> None:
    """Whoever runs the tests in the background may have had interrupts ignored, which processes inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(reached: Callable[[], bool], running: Callable[[], bool]) -> bool:
    """Whether it was reached before the process ended."""
    while running():
        if reached():
            return True
        time.sleep(0.001)
    return False


def units(run: Path) -> dict[str, os.stat_result]:
    return {str(p.relative_to(run)): p.stat() for p in sorted(run.rglob("units/*.npz"))}


def results(run: Path) -> dict[str, Any]:
    """Everything found, without times."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*.npz")):
        with np.load(path) as arrays:
            found |= {
                f"{path.relative_to(run)}:{k}": arrays[k].tobytes() for k in arrays.files if k != "seconds"
            }
    for path in sorted(run.rglob("assessment.json")):
        record = json.loads(path.read_text())
        record.pop("seconds")
        for stage in record["stages"]:
            stage.pop("seconds")
        found[str(path.relative_to(run))] = record
    return found


def test_kill_9_anywhere_then_resume_is_identical(hardpoint: Run, folder: Path) -> None:
    write_data(folder / "data.npz", n=80)
    draws = random.Random(0)
    run = folder / "run"
    forks = multiprocessing.get_context("forkserver")  # torch is imported once for all of them
    forks.set_forkserver_preload(["hardpoint.cli.assess_command"])
    for units_before in [-1, 0, *sorted(draws.sample(range(1, 16), 5))]:
        process = forks.Process(target=in_folder, args=(str(folder), [*RESUMED, "--quiet"]))
        process.start()
        began = (run / "run.json").exists
        wait_for(began if units_before < 0 else lambda: len(units(run)) > units_before, process.is_alive)  # noqa: B023
        time.sleep(draws.random() * 0.02)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    before = units(run)
    assert before
    assert RunFolder(run).header()["status"] == "running"
    said = hardpoint(*RESUMED)
    assert said.code in (0, 5), said.err
    assert RunFolder(run).header()["status"] == "finished"
    after = units(run)
    assert len(after) > len(before)
    assert {name: (s.st_ino, s.st_mtime_ns) for name, s in before.items()} == {
        name: (after[name].st_ino, after[name].st_mtime_ns) for name in before
    }
    # The reference does all of the same plans in one go.
    reference = folder / "reference"
    for plan in run.rglob("plan.json"):
        place = reference / plan.relative_to(run)
        place.parent.mkdir(parents=True)
        shutil.copy(plan, place)
    shutil.copy(run / "run.json", reference / "run.json")
    again = hardpoint(*[str(reference) if word == "run" else word for word in RESUMED])
    assert again.code == said.code
    assert results(reference) == results(run)


def test_an_interrupt_says_how_to_go_on(hardpoint: Run, folder: Path) -> None:
    write_data(folder / "data.npz", n=300)
    words = [word for word in WORDS if word not in ("--out", "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "hardpoint", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_interrupts,
    )
    run = folder / "runs" / "001-net"
    assert wait_for(lambda: len(units(run)) > 2, lambda: process.poll() is None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    *_, interrupted, following = err.rstrip("\n").split("\n")
    assert interrupted == "interrupted"
    command = following.removeprefix("continue with: hardpoint ")
    assert "Traceback" not in err
    assert RunFolder(run).header()["status"] == "interrupted"
    before = len(units(run))
    said = hardpoint(*shlex.split(command))
    assert said.code in (0, 5), said.err
    assert len(units(run)) > before
    assert RunFolder(run).header()["status"] == "finished"
    assert sorted(p.name for p in (folder / "runs").iterdir()) == ["001-net"]


def test_resume_starts_a_run_that_never_began(hardpoint: Run, folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / ".part-killed").write_text("{")
    said = hardpoint(*BASIC, "--out", "run", "--resume", "--limit", "40")
    assert said.code == 0, said.err


def test_resume_without_a_folder_takes_the_newest_unfinished_run(hardpoint: Run, folder: Path) -> None:
    for _ in range(2):
        hardpoint(*BASIC, "--limit", "40")
    run = RunFolder(folder / "runs" / "001-net")
    run.update(status="interrupted")
    (run.path / "assessments" / "linf-0.05-scores-50q" / "assessment.json").unlink()
    said = hardpoint(*BASIC, "--limit", "40", "--resume")
    assert said.code == 0
    assert "evidence: runs/001-net" in said.out
    assert run.header()["status"] == "finished"
