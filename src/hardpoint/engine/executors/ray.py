"""A Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hardpoint.core.errors import MissingExtra
from hardpoint.engine.executors.base import Pool, Work, checked_workers, lost_workers
from hardpoint.engine.heap import keep_memory


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster: the one at ``address``, or a local one that is started and stopped.

    Raises:
        MissingExtra: when Ray is not installed.
        RunError: where workers die without getting anything done.
    """

    workers: int = 2
    address: str | None = None

    def __post_init__(self) -> None:
        checked_workers(self.workers)

    @contextmanager
    def open(self, work: Work, session: Any) -> Iterator[Pool]:
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "running on a Ray cluster") from None
        started = not ray.is_initialized()
        if started:
            where: dict[str, Any] = (
                {"address": self.address}
                if self.address
                else {"num_cpus": self.workers, "include_dashboard": False}
            )
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **where)
        try:
            yield _Actors(ray, self.workers, work, session)
        finally:
            if started:
                ray.shutdown()


class _Worker:
    def __init__(self, work: Work, session: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_memory()
        self._work, self._session = work, session

    def do(self, piece: Any) -> Any:
        return self._work(self._session, piece)


class _Actors:
    def __init__(self, ray: Any, workers: int, work: Work, session: Any) -> None:
        self._ray, self._workers = ray, workers
        self._make = ray.remote(num_cpus=1)(_Worker)
        # the model and the data travel once, not once per actor
        self._given = (work, ray.put(session), max(1, torch.get_num_threads() // workers))
        self._idle: list[Any] = []
        self._alive = 0

    def run(self, pieces: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        waiting = list(pieces)[::-1]
        running: dict[Any, tuple[Any, Any]] = {}
        lost = 0
        while waiting or running:
            while waiting and (actor := self._free()) is not None:
                piece = waiting.pop()
                running[actor.do.remote(piece)] = (actor, piece)
            [ready], _ = self._ray.wait(list(running), num_returns=1)
            actor, piece = running.pop(ready)
            try:
                result = self._ray.get(ready)
            except self._ray.exceptions.RayActorError:  # the actor died; its piece is done again by another
                self._alive -= 1
                lost += 1
                if lost > 2 * self._workers:
                    raise lost_workers() from None
                waiting.append(piece)
                continue
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None  # what the work itself raised
            lost = 0
            self._idle.append(actor)
            yield piece, result

    def _free(self) -> Any | None:
        if self._idle:
            return self._idle.pop()
        if self._alive >= self._workers:
            return None
        self._alive += 1
        return self._make.remote(*self._given)
