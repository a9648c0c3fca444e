"""Several processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hardpoint.core.errors import RunError
from hardpoint.engine.executors.base import Pool, Work, checked_workers, lost_workers
from hardpoint.engine.heap import keep_memory


@dataclass(frozen=True)
class LocalProcesses:
    """Several processes on this machine; the cores are shared out among them.

    The session must be picklable: give the model as a module whose class can be imported, or as
    ``"pkg.mod:factory"``. A script that uses this needs ``if __name__ == "__main__":``.

    Raises:
        RunError: where the session cannot be sent to a process, or processes die without getting anything done.
    """

    workers: int = 2

    def __post_init__(self) -> None:
        checked_workers(self.workers)

    @contextmanager
    def open(self, work: Work, session: Any) -> Iterator[Pool]:
        pool = _Processes(self.workers, work, session)
        try:
            yield pool
        finally:
            pool.stop()


class _Processes:
    def __init__(self, workers: int, work: Work, session: Any) -> None:
        self._workers, self._work, self._session = workers, work, session
        self._processes: ProcessPoolExecutor | None = None

    def run(self, pieces: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        left = dict(enumerate(pieces))
        while left:
            before = len(left)
            try:
                for number, result in self._some(left):
                    yield left.pop(number), result
            except (
                BrokenProcessPool
            ):  # every process is gone with the one that died; what they were at is done again
                self.stop()
                if len(left) == before:
                    raise lost_workers() from None

    def _some(self, pieces: dict[int, Any]) -> Iterator[tuple[int, Any]]:
        try:
            running = {self._started().submit(_do, piece): number for number, piece in pieces.items()}
            for future in as_completed(running):
                yield running.pop(future), future.result()  # a finished future would keep its arrays
        except (AttributeError, TypeError, ImportError, pickle.PicklingError) as error:
            if "pickle" not in str(error).lower() and "can't get" not in str(error).lower():
                raise
            raise RunError(
                f"the model or the data cannot be sent to a worker process ({error})",
                'give the model as "pkg.mod:factory", or use one worker',
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._processes is None:
            self._processes = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context(
                    "spawn"
                ),  # forking a process that runs OpenMP threads can hang
                initializer=_begin_worker,
                initargs=(
                    self._work,
                    self._session,
                    max(1, torch.get_num_threads() // self._workers),
                    os.getpid(),
                ),
            )
        return self._processes

    def stop(self) -> None:
        """End the processes; the next piece would start others."""
        if self._processes is not None:
            self._processes.shutdown(wait=False, cancel_futures=True)
            self._processes = None


_WORKER: dict[str, Any] = {}


def _begin_worker(work: Work, session: Any, threads: int, parent: int) -> None:
    behave_as_worker(parent)
    torch.set_num_threads(threads)
    keep_memory()
    _WORKER.update(work=work, session=session)


def behave_as_worker(parent: int) -> None:
    """Leave Ctrl-C to the process ``parent``, which ends its workers, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(piece: Any) -> Any:
    return _WORKER["work"](_WORKER["session"], piece)
