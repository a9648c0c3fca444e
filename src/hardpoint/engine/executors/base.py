"""What the engine asks of a place where work runs, and the simplest such place: this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from hardpoint.core.errors import RunError

Work = Callable[[Any, Any], Any]
"""``work(session, piece) -> result``."""


class Pool(Protocol):
    """Workers that hold a session and do pieces of work, as often as they are asked to."""

    def run(self, pieces: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """``(piece, work(session, piece))`` for every piece, in the order they finish."""
        ...


class Executor(Protocol):
    """A place where work runs."""

    @property
    def workers(self) -> int:
        """How many pieces run at once."""
        ...

    def open(self, work: Work, session: Any) -> AbstractContextManager[Pool]:
        """Workers for the time of a ``with`` block; they start when the first piece comes."""
        ...


@dataclass(frozen=True)
class InProcess:
    """One piece after the other, here."""

    workers: int = 1

    @contextmanager
    def open(self, work: Work, session: Any) -> Iterator[Pool]:
        yield _Here(work, session)


@dataclass(frozen=True)
class _Here:
    work: Work
    session: Any

    def run(self, pieces: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for piece in pieces:
            yield piece, self.work(self.session, piece)


def checked_workers(workers: int) -> None:
    """Raise ``RunError`` for fewer than one worker."""
    if workers < 1:
        raise RunError(f"workers is {workers}", "give 1 or more")


def lost_workers() -> RunError:
    """The error for workers that die again and again."""
    return RunError(
        "worker processes keep dying (out of memory, or killed)",
        "resume the run with fewer workers or a smaller batch size",
    )
