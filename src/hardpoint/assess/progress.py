"""Showing how far a run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO


class Progress(Protocol):
    """Receives what a run does."""

    def begin(self, what: str, total: int) -> None:
        """A stage named ``what`` starts on ``total`` inputs."""
        ...

    def advance(self, count: int) -> None:
        """``count`` more inputs are done."""
        ...

    def end(self, outcome: str) -> None:
        """The stage is over."""
        ...


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self, outcome: str) -> None: ...


class PlainLines:
    """One line per stage that takes longer than five seconds, and one every half minute."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what, self._total, self._done = "", 0, 0
        self._started = self._shown = time.monotonic()

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._started = self._shown = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._shown > 30:
            self._shown = now
            self._stream.write(f"{self._what}: {self._done} of {self._total} inputs\n")
            self._stream.flush()

    def end(self, outcome: str) -> None:
        seconds = time.monotonic() - self._started
        if seconds > 5:
            self._stream.write(f"{self._what}: {outcome} ({seconds:.0f} s)\n")
            self._stream.flush()


class Bar:
    """A bar with the time left, in place."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def begin(self, what: str, total: int) -> None:
        self._task = self._bars.add_task(what, total=total, outcome="")

    def advance(self, count: int) -> None:
        self._bars.advance(self._task, count)

    def end(self, outcome: str) -> None:
        self._bars.update(self._task, completed=self._bars.tasks[self._task].total, outcome=outcome)


@contextmanager
def shown_progress(progress: bool | Progress) -> Iterator[Progress]:
    """The progress display for a run: True picks a bar on a terminal and plain lines elsewhere, on stderr."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield Silent()
        return
    if not sys.stderr.isatty():
        yield PlainLines(sys.stderr)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bars = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[outcome]}"),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        yield Bar(bars)
