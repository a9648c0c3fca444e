"""Memory that one step frees, kept for the next step.

glibc asks the system for large blocks one by one and gives freed memory back at once, so each pass of a network
meets fresh pages, which the system must clear first: a third to a half of a small network's time on a processor.
Other C libraries have no such settings, and are left alone.

glibc does not tell how it was set before. What is set afterwards is what it comes to by itself in a process that has
freed tensors of 32 MiB. A program with settings of its own (``MALLOC_*``, ``GLIBC_TUNABLES``) keeps them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# mallopt's parameters (malloc.h)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 2**20
# no block is asked for by itself, and nothing at the end of the heap is given back
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
# DEFAULT_MMAP_THRESHOLD_MAX of malloc.c, twice that, and the default
_USUAL = {_MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB, _MMAP_MAX: 65536}

_OWN_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")
_LOCK = threading.Lock()
_inside = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep what is freed inside; blocks may be nested, and entered by several threads.

    >>> with kept_memory():
    ...     pass
    """
    global _inside
    with _LOCK:
        _inside += 1
        if _inside == 1:
            keep_memory()
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                _set(_USUAL)
                _give_back()


def keep_memory() -> None:
    """Keep what is freed for as long as this process lives: for workers."""
    _set(_KEPT)


def _set(values: dict[int, int]) -> None:
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        for parameter, value in values.items():
            mallopt(parameter, value)


def _give_back() -> None:
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux") or any(n.startswith(_OWN_SETTINGS) for n in os.environ):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
