"""Runs the benchmarks, prints their tables and writes them to docs/benchmarks.md.

python -m benchmarks.run [--only pgd --only trap] [--quick] [--device cuda] [--threads 1] [--write PATH]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import importlib.metadata
import os
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from benchmarks.measure import Options, Table, machine
from benchmarks.peers import PGD, version

NAMES = ("pgd", "trap", "overhead", "memory", "startup")
LONG = (
    "architecture_search",
    "autoattack",
    "bounds",
    "certified_training",
    "detectors",
    "ensembles",
    "hardening",
    "hardening_ablation",
    "minimal_norms",
    "overfitting",
    "smoothing",
    "stacks",
    "table_hardening",
    "tables",
    "trades_step",
    "soundness",
    "verification",
)
"""Only by name: these take from ten minutes to hours."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    asked = _parser().parse_args(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    console = Console()
    options = Options(device=asked.device, quick=asked.quick, say=console.log)
    console.print(_heading(options))
    tables: list[Table] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # how to copy each model is measured afresh
        for name in asked.only or NAMES:
            for table in importlib.import_module(f"benchmarks.{name}").run(options):
                console.print(_rich(table))
                tables.append(table)
    path = asked.write or (PAGE if not asked.only else None)
    if path is not None:
        path.write_text(_page(tables, options, sys.argv[1:] if arguments is None else arguments))
        console.print(f"Written to {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=(*NAMES, *LONG), help="run this one; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="fewer inputs and repeats")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument(
        "--write", type=Path, help="where to write; docs/benchmarks.md when everything is run"
    )
    return parser


def _heading(options: Options) -> str:
    versions = list[str]()
    for tool in PGD:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # most tables need none of them
            versions.append(f"{tool} {version(tool)}")
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{machine(options.device)}. Python {python}, torch {torch.__version__}, {', '.join(versions)}."


def _page(tables: list[Table], options: Options, arguments: list[str]) -> str:
    command = shlex.join(["python", "-m", "benchmarks.run", *arguments])
    head = [
        "# Benchmarks",
        "",
        "Measured side by side in one process; `make bench` measures again on your machine and rewrites this page.",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, `{command}`. {_heading(options)}",
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(table.markdown() for table in tables)


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=table.title, caption="\n".join(map(escape, table.notes)), caption_justify="left")
    for place, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if place < 1 else "right")
    for row in table.rows:
        shown.add_row(*(escape(cell.replace("**", "")) for cell in row))
    return shown


if __name__ == "__main__":
    raise SystemExit(main())
