"""Where work runs: in this process, in local processes, or on a Ray cluster.

Work is a function of a session (model, data, settings: made once per worker) and a small description of one
piece. Pieces are independent, results come back as they finish, nothing is shared: losing a worker loses
its piece only.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from hardpoint.core.errors import MissingExtra, RunError

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs pieces of work somewhere."""

    @property
    def workers(self) -> int:
        """How many pieces run at once."""
        ...

    def run(
        self, work: Callable[[Any, Piece], Result], session: Any, pieces: Iterable[Piece]
    ) -> Iterator[tuple[Piece, Result]]:
        """``(piece, work(session, piece))`` for every piece, in the order they finish."""
        ...


@dataclass(frozen=True)
class InProcess:
    """One piece after the other, here."""

    workers: int = 1

    def run(
        self, work: Callable[[Any, Piece], Result], session: Any, pieces: Iterable[Piece]
    ) -> Iterator[tuple[Piece, Result]]:
        for piece in pieces:
            yield piece, work(session, piece)


@dataclass(frozen=True)
class LocalProcesses:
    """Several processes on this machine; the cores are shared out among them.

    The session must be picklable: give the model as a module whose class can be imported, or as
    ``"pkg.mod:factory"``. A script that uses this needs ``if __name__ == "__main__":``.
    """

    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise RunError(f"workers is {self.workers}", "give 1 or more")

    def run(
        self, work: Callable[[Any, Piece], Result], session: Any, pieces: Iterable[Piece]
    ) -> Iterator[tuple[Piece, Result]]:
        pieces = list(pieces)
        if not pieces:
            return
        threads = max(1, torch.get_num_threads() // self.workers)
        context = multiprocessing.get_context("spawn")  # forking a process that runs OpenMP threads can hang
        pool = concurrent.futures.ProcessPoolExecutor(
            min(self.workers, len(pieces)),
            mp_context=context,
            initializer=_begin_worker,
            initargs=(work, session, threads, os.getpid()),
        )
        try:
            waiting = {pool.submit(_work, piece): piece for piece in pieces}
            for future in concurrent.futures.as_completed(waiting):
                yield waiting.pop(future), future.result()  # a finished future would keep its arrays
        except (AttributeError, TypeError, ImportError, pickle.PicklingError) as error:
            if "pickle" not in str(error).lower() and "can't get" not in str(error).lower():
                raise
            raise RunError(
                f"the model or the data cannot be sent to a worker process ({error})",
                'give the model as "pkg.mod:factory", or use one worker',
            ) from error
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process died (out of memory, or killed)",
                "resume the run with fewer workers or a smaller batch size",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_WORKER: dict[str, Any] = {}


def _begin_worker(work: Callable[[Any, Any], Any], session: Any, threads: int, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its workers
    torch.set_num_threads(threads)
    _WORKER.update(work=work, session=session)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(piece: Any) -> Any:
    return _WORKER["work"](_WORKER["session"], piece)


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster: the one at ``address``, or a local one that is started and stopped.

    Raises:
        MissingExtra: when Ray is not installed.
    """

    workers: int = 2
    address: str | None = None

    def run(
        self, work: Callable[[Any, Piece], Result], session: Any, pieces: Iterable[Piece]
    ) -> Iterator[tuple[Piece, Result]]:
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "running on a Ray cluster") from None
        pieces = list(pieces)
        started = not ray.is_initialized()
        if started:
            options: dict[str, Any] = (
                {"address": self.address}
                if self.address
                else {
                    "num_cpus": self.workers,
                    "include_dashboard": False,
                }
            )
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        try:
            threads = max(1, torch.get_num_threads() // self.workers)
            actor = ray.remote(num_cpus=1)(_RayWorker)
            actors = [actor.remote(work, session, threads) for _ in range(min(self.workers, len(pieces)))]
            yield from _share_out(ray, actors, pieces)
        finally:
            if started:
                ray.shutdown()


class _RayWorker:
    def __init__(self, work: Callable[[Any, Any], Any], session: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        self._work, self._session = work, session

    def run(self, piece: Any) -> Any:
        return self._work(self._session, piece)


def _share_out(ray: Any, actors: list[Any], pieces: list[Any]) -> Iterator[tuple[Any, Any]]:
    queue = iter(pieces)
    running: dict[Any, tuple[Any, Any]] = {}
    for actor, piece in zip(actors, queue, strict=False):
        running[actor.run.remote(piece)] = (actor, piece)
    while running:
        [ready], _ = ray.wait(list(running), num_returns=1)
        actor, piece = running.pop(ready)
        result = ray.get(ready)
        following = next(queue, None)
        if following is not None:
            running[actor.run.remote(following)] = (actor, following)
        yield piece, result


def executor_of(workers: int | Executor) -> Executor:
    """An executor from a number of local processes, or the executor itself."""
    if not isinstance(workers, int):
        return workers
    return InProcess() if workers == 1 else LocalProcesses(workers)
