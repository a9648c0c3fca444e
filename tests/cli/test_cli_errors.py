"""What goes wrong: the exit code, one line that names thing and cure, nothing half-written."""

from __future__ import annotations

import errno
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardpoint.evidence.store import RunFolder

from command_folder import BASIC, Run, write_data  # isort: skip

pytest_plugins = ["command_folder"]


def replaced(*changes: str) -> list[str]:
    """``BASIC`` with other values for some of its options."""
    words = list(BASIC)
    for option, value in zip(changes[::2], changes[1::2], strict=True):
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return words


def save(x: Any, y: Any, name: str = "bad.npz") -> str:
    np.savez(name, x=np.asarray(x, dtype=np.float32), y=np.asarray(y))
    return name


def with_value(value: float) -> Any:
    x = np.full((20, 4), 0.5)
    x[7, 2] = value
    return x


CASES: dict[str, tuple[Callable[[], list[str]], int, str]] = {
    "model that is not there": (lambda: replaced("--model", "gone.onnx"), 2, "gone.onnx"),
    "model without a factory": (lambda: replaced("--model", "zoo:nte"), 2, "'zoo' has no 'nte'"),
    "module that is not there": (lambda: replaced("--model", "zo:net"), 2, "no module named 'zo'"),
    "data that are not there": (lambda: replaced("--data", "daat.npz"), 2, "did you mean 'data.npz'"),
    "weights that are not there": (lambda: replaced("--weights", "w.safetensors"), 2, "w.safetensors"),
    "negative eps": (lambda: replaced("--threat", "linf:-0.1"), 2, "--threat: threats[0]: Linf eps is -0.1"),
    "eps that is no number": (
        lambda: replaced("--threat", "linf:abc"),
        2,
        "--threat: threats[0].eps = 'abc'",
    ),
    "eps that is NaN": (lambda: replaced("--threat", "linf:nan"), 2, "eps is nan"),
    "the same threat twice": (lambda: [*BASIC, "--threat", BASIC[-1]], 2, "is given twice"),
    "a label that is no class": (lambda: replaced("--threat", "l2:1@to=3"), 2, "the model has 3 classes"),
    "unknown mode": (lambda: replaced("--mode", "fats"), 2, "--mode: run.mode = 'fats'"),
    "gate in percent": (lambda: replaced("--gate", "45"), 2, "--gate: gate.robust_accuracy = '45'"),
    "workers that are none": (lambda: replaced("--workers", "0"), 2, "--workers: run.workers = '0'"),
    "limit of none": (lambda: replaced("--limit", "0"), 2, "--limit: data.limit = '0'"),
    "sample of too many": (lambda: replaced("--sample", "999"), 2, "which has 240; ask for at most 240"),
    "no seconds": (lambda: replaced("--seconds", "0"), 2, "--seconds: run.seconds = '0'"),
    "more access than offered": (
        lambda: replaced("--model", "zoo:labels_only"),
        2,
        "the threat shows scores, the model offers labels only",
    ),
    "empty data": (lambda: replaced("--data", save(np.zeros((0, 4)), [])), 3, "no"),
    "NaN in the data": (
        lambda: replaced("--data", save(with_value(np.nan), [0] * 20)),
        2,
        "row 7 of bad.npz has nan",
    ),
    "data outside the range": (
        lambda: replaced("--data", save(with_value(2.0), [0] * 20)),
        2,
        "row 7 of bad.npz has 2 at feature [2], outside the input range [0.0, 1.0]",
    ),
    "label out of range": (lambda: replaced("--data", save(np.zeros((20, 4)), [0] * 19 + [3])), 2, "3"),
    "negative label": (lambda: replaced("--data", save(np.zeros((20, 4)), [0] * 19 + [-1])), 2, "-1"),
    "fractional label": (lambda: replaced("--data", save(np.zeros((20, 4)), [0.0] * 19 + [0.5])), 2, "0.5"),
    "lengths that differ": (lambda: replaced("--data", save(np.zeros((20, 4)), [0] * 19)), 2, "19"),
    "wrong shape": (
        lambda: replaced("--data", save(np.zeros((20, 5)), [0] * 20)),
        2,
        "the model fails on inputs of shape (5,)",
    ),
    "training mode": (lambda: replaced("--model", "zoo:training"), 2, "layer '0' is in training mode"),
    "scores that overflow": (lambda: replaced("--model", "zoo:overflows"), 2, "NaN or infinity"),
    "a model that ends the process": (lambda: replaced("--model", "zoo:leaves"), 4, "exit(0)"),
    "a model that is interrupted": (lambda: replaced("--model", "zoo:interrupts"), 130, "interrupted"),
    "no model": (lambda: ["assess", "--data", "data.npz"], 2, "no model is named; give --model"),
    "no data": (lambda: ["assess", "--model", "zoo:net", "--threat", "linf:1"], 2, "no data is named"),
    "no threat": (lambda: ["assess", "--model", "zoo:net", "--data", "data.npz"], 2, "no threat is given"),
    "a file that is not there": (lambda: [*BASIC, "--config", "x.toml"], 2, "x.toml does not exist"),
    "unknown option": (lambda: [*BASIC, "--thret", "linf:1"], 2, "--thret"),
    "unknown command": (lambda: ["asess"], 2, "asess"),
    "nothing to resume": (lambda: [*BASIC, "--resume"], 2, "holds no unfinished run"),
    "report of nothing": (lambda: ["report", "nowhere"], 2, "nowhere"),
    "unknown kind of data": (
        lambda: replaced("--data", "zoo.py"),
        2,
        "zoo.py is of a kind that is not known",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_is_one_line_and_leaves_nothing(hardpoint: Run, folder: Path, case: str) -> None:
    make, code, message = CASES[case]
    words = make()
    before = sorted(folder.rglob("*"))
    said = hardpoint(*words)
    assert said.code == code, said.err
    assert message in said.err
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("error: ") or code == 130
    assert said.out == ""
    after = [p for p in sorted(folder.rglob("*")) if "__pycache__" not in p.parts]
    assert after == before


def test_with_json_an_error_is_one_object(hardpoint: Run) -> None:
    said = hardpoint(*replaced("--threat", "linf:-1"), "--json")
    assert said.code == said.json["exit_code"] == 2
    assert said.json["error"]["cure"].startswith("give a radius")
    assert "Linf eps is -1" in said.err


def test_debug_shows_where_an_error_came_from(hardpoint: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" in hardpoint(*replaced("--mode", "x"), "--debug").err
    monkeypatch.setenv("HARDPOINT_DEBUG", "1")
    assert "Traceback" in hardpoint(*replaced("--mode", "x")).err


def test_an_internal_error_is_one_line_too(hardpoint: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("surprise\nin two lines")

    monkeypatch.setattr("hardpoint.cli.assess_command.check_together", broken)
    said = hardpoint(*BASIC)
    assert said.code == 4
    assert said.err.startswith("error: internal: KeyError")
    assert said.err.count("\n") == 1


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_under_a_file_cannot_be_made(hardpoint: Run, folder: Path) -> None:
    said = hardpoint(*BASIC, "--out", "data.npz/run")
    assert said.code == 2
    assert "data.npz" in said.err
    said = hardpoint(*BASIC, "--resume", "--out", "data.npz/run")
    assert said.code == 2
    (folder / "runs").write_text("a file")
    said = hardpoint(*BASIC)
    assert said.code == 2
    assert "cannot make a run folder in runs" in said.err


def test_a_folder_that_is_taken_stays_untouched(hardpoint: Run, folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    said = hardpoint(*BASIC, "--out", "mine")
    assert (said.code, sorted(p.name for p in (folder / "mine").iterdir())) == (2, ["notes.txt"])
    assert "is not empty and holds no run" in said.err
    assert hardpoint(*BASIC, "--out", "run").code == 0
    header = (folder / "run" / "run.json").read_bytes()
    said = hardpoint(*BASIC, "--out", "run")
    assert said.code == 2
    assert "already holds a run; pass --resume" in said.err
    assert (folder / "run" / "run.json").read_bytes() == header


def test_a_full_disk_is_named_and_the_run_goes_on_later(
    hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    left = 4

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = hardpoint(*BASIC, "--out", "run")
    assert said.code == 2
    assert "No space left on device; free space" in said.err
    assert "continue with: hardpoint assess" in said.err
    assert not list((folder / "run").rglob(".part-*"))
    assert hardpoint(*BASIC, "--out", "run", "--resume").code == 0


def test_a_disk_full_from_the_start_leaves_no_run(
    hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    said = hardpoint(*BASIC)
    assert said.code == 2
    assert not (folder / "runs").exists()


def test_other_settings_do_not_resume_a_run(hardpoint: Run, folder: Path) -> None:
    assert hardpoint(*BASIC, "--out", "run").code == 0
    header = (folder / "run" / "run.json").read_bytes()
    write_data(folder / "data.npz", n=239)
    said = hardpoint(*BASIC, "--out", "run", "--resume")
    assert said.code == 2
    assert "another data.n (240, now 239)" in said.err
    write_data(folder / "data.npz")
    said = hardpoint(*BASIC, "--out", "run", "--resume", "--seed", "1")
    assert (said.code, "another seed (0, now 1)" in said.err) == (2, True)
    assert (folder / "run" / "run.json").read_bytes() == header


# --- an endpoint -------------------------------------------------------------------------------------------------


class Endpoint(http.server.ThreadingHTTPServer):
    """Scores of a fixed linear model, until ``left`` requests are answered."""

    left = 10**9

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/predict"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        self.server.left -= 1
        body = json.dumps({"scores": [row[:3] for row in rows]}).encode()
        self.send_response(200 if self.server.left >= 0 else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    pytest.importorskip("httpx")
    server = Endpoint(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint_that_goes_down_half_way(hardpoint: Run, folder: Path, endpoint: Endpoint) -> None:
    (folder / "hardpoint.toml").write_text(
        f'[model]\nload = "{endpoint.url}?key=secret"\n[http]\nretries = 0\nconcurrency = 1\n'
        'headers = { Authorization = "env:TOKEN" }\n[data]\nload = "data.npz"\nlimit = 40\n'
        '[[threats]]\nkind = "linf"\neps = 0.1\nqueries = 30\n'
    )
    said = hardpoint("assess", "--out", "run")
    assert (said.code, "TOKEN, which is not set" in said.err) == (2, True)
    os.environ["TOKEN"] = "hush"
    try:
        endpoint.left = 60
        said = hardpoint("assess", "--out", "run")
        assert said.code == 2
        assert "503" in said.err
        assert "continue with: hardpoint assess --out run --resume" in said.err
        assert RunFolder("run").header()["status"] == "failed"
        endpoint.left = 10**9
        said = hardpoint("assess", "--out", "run", "--resume")
        assert said.code == 0, said.err
    finally:
        del os.environ["TOKEN"]
    written = b"".join(p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file())
    assert b"secret" not in written
    assert b"hush" not in written
    endpoint.left = 0
    os.environ["TOKEN"] = "hush"
    said = hardpoint("assess", "--out", "other")
    del os.environ["TOKEN"]
    assert (said.code, (folder / "other").exists()) == (2, False)
