"""Ranks that are threads of one process, so that tests need start none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from hardpoint.harden.ranks import Ranks

T = TypeVar("T")


def together(world: int, begun: Callable[[Ranks], Callable[[], T]]) -> list[T]:
    """What each rank returns; the first error of any is raised.

    ``begun`` makes each rank's work one after the other, as networks draw their weights from the global generator.
    """
    barrier = threading.Barrier(world, timeout=60)
    said: dict[int, Tensor] = {}
    done: dict[int, T] = {}
    raised: list[BaseException] = []

    def adding(rank: int) -> Callable[[Tensor], Tensor]:
        def add(tensor: Tensor) -> Tensor:
            said[rank] = tensor.clone()
            barrier.wait()
            total = said[0].clone()
            for other in range(1, world):
                assert said[other].shape == total.shape
                assert said[other].dtype == total.dtype
                total += said[other]
            barrier.wait()
            return total

        return add

    works = [begun(Ranks(rank, world, adding(rank))) for rank in range(world)]

    def run(rank: int) -> None:
        try:
            done[rank] = works[rank]()
        except threading.BrokenBarrierError as error:
            raised.append(error)
        except BaseException as error:
            raised.insert(0, error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    return [done[rank] for rank in range(world)]
