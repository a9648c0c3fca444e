"""Timing, memory and tables: what every benchmark needs."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Options:
    """What the user asked for. ``quick`` measures fewer inputs, fewer times; ``say`` shows that work goes on."""

    device: str = "cpu"
    quick: bool = False
    say: Callable[[str], None] = print

    @property
    def repeats(self) -> int:
        return 2 if self.quick else 3


@dataclass
class Table:
    """A result: a title, columns, rows of text, and what a reader must know to read them."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        lines += [_line(self.columns), _line(["---"] * len(self.columns)), *map(_line, self.rows), ""]
        return "\n".join(lines + [f"{note}\n" for note in self.notes])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Times:
    """Seconds of repeated calls: by the clock, and of processor time, which other work on the machine leaves alone."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def interleaved(jobs: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, Times]:
    """Times of each job, ``repeats`` times, taken in turn so that a busy machine treats all alike."""
    times = {name: Times() for name in jobs}
    for turn in range(repeats):
        names = list(jobs) if turn % 2 == 0 else list(jobs)[::-1]
        for name in names:
            gc.collect()
            _wait_for(device)
            wall, processor = time.perf_counter(), time.process_time()
            jobs[name]()
            _wait_for(device)
            times[name].wall.append(time.perf_counter() - wall)
            times[name].processor.append(time.process_time() - processor)
    return times


def median(values: list[float]) -> float:
    return statistics.median(values)


def peak_memory(job: Callable[[], object], device: str) -> float | None:
    """MiB that ``job`` needed on top of what was held before; None where the system cannot tell."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # pages that an earlier job left to the allocator would hide this one's
    with PeakMemory() as watched:
        before = watched.peak
        job()
    return max(0.0, watched.peak - before)


class PeakMemory:
    """The most MiB of its own that this process held while in the ``with`` block; pages of mapped files not counted."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._look()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.003):
            self._look()

    def _look(self) -> None:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
        self.peak = max(self.peak, (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20)


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def machine(device: str) -> str:
    """The machine in one line."""
    processor = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), processor)
    gpu = f", {torch.cuda.get_device_name()}" if device != "cpu" else ""
    return f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}"
