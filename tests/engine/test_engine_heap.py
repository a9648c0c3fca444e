"""Memory that is kept while an engine works."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread

import pytest

from hardpoint.engine import heap

FAULTS = """
import resource, torch
from hardpoint.engine.heap import kept_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

def faults():
    for _ in range(10):  # some blocks are met on the way
        x.exp()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        x.exp()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
x = torch.rand(4_000_000)
with kept_memory():
    inside = faults()
    blocks = [torch.ones(250_000) for _ in range(400)]  # 400 MB
    del blocks
    held = resident()
print(inside, held - resident())
"""


@pytest.fixture
def calls(monkeypatch):
    """What mallopt is asked for."""
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(heap, "_of_glibc", lambda name: lambda *call: made.append(call) or 1)
    return made


@pytest.mark.skipif(not heap._of_glibc("mallopt"), reason="not glibc")
def test_pages_are_met_once_and_given_back_in_the_end():
    told = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    faults, given_back = map(float, told.stdout.split())
    assert faults < 1000  # 20 times 16 MB are 81,920 pages
    assert given_back > 200


def test_only_the_outermost_block_changes_anything(calls):
    with heap.kept_memory():
        kept = list(calls)
        with heap.kept_memory():
            pass
        assert calls == kept == list(heap._KEPT.items())
    assert calls == [*heap._KEPT.items(), *heap._USUAL.items(), (0,)]


def test_an_error_inside_ends_it(calls):
    with pytest.raises(ZeroDivisionError), heap.kept_memory():
        1 / 0  # noqa: B018
    assert calls == [*heap._KEPT.items(), *heap._USUAL.items(), (0,)]


def test_threads_end_it_together(calls):
    def work():
        with heap.kept_memory():
            pass

    with heap.kept_memory():
        threads = [Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(calls) == len(heap._KEPT)
    assert len(calls) == len(heap._KEPT) + len(heap._USUAL) + 1


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap, "_of_glibc", lambda name: None)
    with heap.kept_memory():
        heap.keep_memory()


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_the_users_own_are_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert heap._of_glibc("mallopt") is None
