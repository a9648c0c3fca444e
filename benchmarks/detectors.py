"""Detectors: are the promised false alarms kept, do published detection rates come out, what does it cost in time?

python -m benchmarks.detectors [false-alarms] [published] [latency] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.detector_latency import latency
from benchmarks.false_alarms import false_alarms
from benchmarks.measure import Options, Table, machine
from benchmarks.squeezing import published

JOBS: dict[str, Callable[[Options], list[Table]]] = {
    "false-alarms": false_alarms,
    "published": published,
    "latency": latency,
}


def run(options: Options) -> list[Table]:
    """All tables."""
    return [table for job in JOBS.values() for table in job(options)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detectors", description=__doc__.splitlines()[0]
    )
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"{', '.join(JOBS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer inputs and repeats")
    asked = parser.parse_args()
    unknown = set(asked.jobs) - set(JOBS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; use {', '.join(JOBS)}")
    options = Options(quick=asked.quick)
    print(machine("cpu"))
    for name in asked.jobs or JOBS:
        for table in JOBS[name](options):
            print(table.markdown(), flush=True)


if __name__ == "__main__":
    main()
