"""How long the command line takes to say something, and what an import brings in."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measure import Options, Table, median

_PROGRAMS = {
    "python alone": "pass",
    "import hardpoint": "import hardpoint",
    "hardpoint --help": "import sys; sys.argv = ['hardpoint', '--help']; from hardpoint.cli.main import main; main()",
}
_LOADED = "import sys, hardpoint; print(*({'torch', 'numpy', 'scipy'} & set(sys.modules)))"


def run(options: Options) -> list[Table]:
    """One table."""
    repeats = 3 if options.quick else 7
    table = Table("Start", ["what", "median s"])
    for name, program in _PROGRAMS.items():
        table.rows.append([name, f"{median([_seconds(program) for _ in range(repeats)]):.2f}"])
    loaded = subprocess.run([sys.executable, "-c", _LOADED], check=True, capture_output=True, text=True)
    names = loaded.stdout.strip() or "neither torch, numpy nor scipy"
    table.notes.append(f"`import hardpoint` loads {names}.")
    return [table]


def _seconds(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return time.perf_counter() - began
