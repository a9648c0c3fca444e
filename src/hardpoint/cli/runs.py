"""Run folders: where a new run goes, which one is resumed, and what its header says."""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hardpoint.cli.config import Settings
from hardpoint.cli.layers import flat
from hardpoint.core.errors import RunError
from hardpoint.evidence.store import RunFolder
from hardpoint.models.http.client import public_url

_NUMBERED = re.compile(r"(\d+)-.*")


def slug(name: str) -> str:
    """``name`` as part of a folder's name.

    >>> slug("Digits CNN, plain"), slug("https://host/v1")
    ('digits-cnn-plain', 'https-host-v1')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "model"


@contextmanager
def claimed_folder(runs: Path, name: str) -> Iterator[Path]:
    """A new folder ``runs/NNN-name`` with the next number, gone again if nothing was written to it.

    Raises:
        RunError: when it cannot be made.
    """
    is_new = not runs.exists()
    try:
        runs.mkdir(parents=True, exist_ok=True)
        path = _claim(runs, slug(name))
    except OSError as error:
        raise RunError(
            f"cannot make a run folder in {runs}: {error.strerror or error}", "give another one with --out"
        ) from None
    try:
        yield path
    finally:
        with suppress(OSError):
            path.rmdir()  # refuses unless empty
            if is_new:
                runs.rmdir()


def _claim(runs: Path, name: str) -> Path:
    while True:
        taken = [int(match[1]) for p in runs.iterdir() if (match := _NUMBERED.fullmatch(p.name))]
        path = runs / f"{max(taken, default=0) + 1:03d}-{name}"
        try:
            path.mkdir()
        except FileExistsError:  # another process was faster
            continue
        return path


class Verb(Enum):
    """What a run was made by."""

    ASSESS = "assess"
    HARDEN = "harden"
    SEARCH = "search"
    CERTIFY = "certify"

    @classmethod
    def of(cls, run: RunFolder) -> Verb:
        """By what the folder holds."""
        if run.search_path.exists():
            return cls.SEARCH
        if run.certificates_path.exists() and not (run.path / "assessments").exists():
            return cls.CERTIFY
        return cls.HARDEN if run.training_path.exists() else cls.ASSESS


def unfinished_run(runs: Path, verb: Verb) -> Path:
    """The newest run in ``runs`` that has not finished, of those made by ``verb``.

    Raises:
        RunError: when there is none.
    """
    for file in sorted(runs.glob("*/run.json"), key=_order, reverse=True):
        run = RunFolder(file.parent)
        if run.header().get("status") != "finished" and Verb.of(run) is verb:
            return file.parent
    raise RunError(f"{runs} holds no unfinished run", "name the run with --out, or leave out --resume")


def _order(file: Path) -> tuple[int, str]:
    name = file.parent.name
    match = _NUMBERED.fullmatch(name)
    return (int(match[1]) if match else -1, name)


def command_line(words: Sequence[str]) -> str:
    """What was typed, without secrets in URLs."""
    return shlex.join(["hardpoint", *(_shown(word) for word in words)])


def _shown(word: str) -> str:
    head, equals, tail = word.partition("=") if word.startswith("--") else ("", "", word)
    return head + equals + (public_url(tail) if re.match(r"https?://", tail) else tail)


def resume_command(words: Sequence[str], run: Path) -> str:
    """The command that continues this run: the same one, with the folder and ``--resume``.

    >>> resume_command(["assess", "--model", "m.onnx"], Path("runs/001-m"))
    'hardpoint assess --model m.onnx --out runs/001-m --resume'
    """
    kept = [word for word in words if word != "--resume"]
    named = any(word == "--out" or word.startswith("--out=") for word in kept)
    return command_line([*kept, *([] if named else ["--out", str(run)]), "--resume"])


def header_of(settings: Settings, words: Sequence[str], names: Sequence[str] = ()) -> dict[str, Any]:
    """What ``run.json`` says of the run: when, how, with which settings, and the assessments planned."""
    said = flat(settings)
    if said["http.headers"] is not None:
        said["http.headers"] = dict.fromkeys(said["http.headers"], "(not recorded)")
    for key in ("model.load", "harden.teacher"):
        if said[key] is not None:
            said[key] = _shown(said[key])
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command_line(words),
        "seed": settings.run.seed,
        "versions": {name: version(name) for name in ("hardpoint", "torch", "numpy")},
        "settings": {key: value for key, value in said.items() if value is not None},
        "assessments": list(names),
    }
