"""The run folder: evidence on disk, append-only while running, whole after a crash.

Layout::

    RUN/run.json                          what was run, on what, whether it finished
    RUN/assessments/NAME/plan.json        what identifies the work; a resume must match it
    RUN/assessments/NAME/units/*.npz      finished pieces of work, never rewritten
    RUN/assessments/NAME/inputs.npy       the originals, where they came from memory
    RUN/assessments/NAME/assessment.json  the record, outcomes.npz and examples.npz beside it
    RUN/defences/NAME.json                what the parts of a defended model are worth
    RUN/training/record.json              what happened in a robust training (hardpoint.harden keeps more beside it)
    RUN/search/record.json                what a search for an architecture has tried
    RUN/certificates/NAME.json            what was proven, input by input; NAME.npz holds the points that break some
    RUN/certificates/NAME/                while it is made: plan.json and units/*.npz, as for assessments

Every file is written beside its place and renamed into it, so a file that exists is complete.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hardpoint.core.errors import RunError
from hardpoint.evidence.assessment import SCHEMA_VERSION, Assessment, Examples, Outcomes
from hardpoint.evidence.certificate import CERTIFICATES_SCHEMA_VERSION, CertificateRecord
from hardpoint.evidence.defence import DEFENCE_SCHEMA_VERSION, DefenceRecord
from hardpoint.evidence.search import SEARCH_SCHEMA_VERSION, SearchRecord
from hardpoint.evidence.training import TRAINING_SCHEMA_VERSION, TrainingRecord

T = TypeVar("T")

_FILE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_PART = ".part-"


def write_atomically(path: Path, content: bytes) -> None:
    """``content`` at ``path``, all of it or nothing, on disk before the name appears.

    Raises:
        RunError: when the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PART)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}", "free space or give another folder"
        ) from None


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"cannot read {path}: {error}", "delete the file and resume the run") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; raises ``RunError`` where there is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist", "give the folder of a Hardpoint run") from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot read {path}: {error}", "the file is damaged; run the assessment again"
        ) from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds no JSON object", "the file is damaged; run the assessment again")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """``value`` as readable JSON at ``path``, atomically; infinities and NaN become null."""
    write_atomically(path, (json.dumps(finite(dict(value)), indent=1, allow_nan=False) + "\n").encode())


def _check_schema(path: Path, value: Mapping[str, Any], wanted: int) -> None:
    if value.get("schema") != wanted:
        raise RunError(
            f"{path} has schema {value.get('schema')}, this version reads {wanted}",
            "use the version of Hardpoint that wrote it",
        )


def _plain_name(name: str) -> str:
    if not _FILE.match(name):
        raise RunError(f"assessment name {name!r} is not a plain file name", "use letters, digits, - and _")
    return name


def _first_difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any]:
    """Where two plans differ, as ``model.sha256``, and what each says there."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return name, old, new
    key = next(k for k in sorted({*old, *new}) if old.get(k) != new.get(k))
    return _first_difference(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))


def begin_plan(file: Path, plan: Mapping[str, Any]) -> None:
    """Write what identifies a piece of work to ``file``, or see that it is the same work.

    Raises:
        RunError: when the file holds another plan; the first difference is named.
    """
    if not file.exists():
        write_json(file, plan)
        return
    old, new = read_json(file), json.loads(json.dumps(finite(dict(plan))))
    if old != new:
        key, before, now = _first_difference(old, new)
        raise RunError(
            f"{file.parent} holds a run with another {key} ({before!r}, now {now!r})",
            "resume with the same settings, or give a new folder",
        )


class AssessmentFolder:
    """The folder of one assessment inside a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_finished(self) -> bool:
        return (self.path / "assessment.json").exists()

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Start, or continue a run with the same ``plan``; raises ``RunError`` for another, as ``begin_plan`` does."""
        begin_plan(self.path / "plan.json", plan)

    def shards(self, wanted: int) -> int:
        """Into how many parts each stage of the work is cut: ``wanted`` when it begins, and ever after the same, so
        that other workers can continue it."""
        file = self.path / "shards.json"
        if not file.exists():
            write_json(file, {"shards": wanted})
        return int(read_json(file)["shards"])

    def plan(self) -> dict[str, Any]:
        """What the folder's work is."""
        return read_json(self.path / "plan.json")

    def has_unit(self, name: str) -> bool:
        """Whether the piece of work ``name`` is finished."""
        return (self.path / "units" / f"{name}.npz").exists()

    def write_unit(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Record a finished piece of work."""
        write_atomically(self.path / "units" / f"{name}.npz", _npz(arrays))

    def read_unit(self, name: str) -> dict[str, NDArray[Any]]:
        """A finished piece of work."""
        return _read_npz(self.path / "units" / f"{name}.npz")

    def units(self) -> list[str]:
        """The names of the finished pieces, sorted."""
        return sorted(p.stem for p in (self.path / "units").glob("*.npz") if not p.name.startswith("."))

    def write_inputs(self, x: NDArray[Any]) -> None:
        """Keep the originals, for data that exists nowhere else."""
        buffer = io.BytesIO()
        np.save(buffer, x, allow_pickle=False)
        write_atomically(self.path / "inputs.npy", buffer.getvalue())

    def inputs(self) -> NDArray[Any] | None:
        """The originals, memory-mapped, where they were kept."""
        file = self.path / "inputs.npy"
        if not file.exists():
            return None
        try:
            held: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"cannot read {file}: {error}", "delete the file and resume the run") from None
        return held

    def finish(self, assessment: Assessment) -> None:
        """Write the record; the JSON comes last, so a folder with it is whole."""
        write_atomically(self.path / "outcomes.npz", _npz(assessment.outcomes.arrays()))
        if assessment.examples is not None:
            shown = {f.name: getattr(assessment.examples, f.name) for f in fields(Examples)}
            write_atomically(self.path / "examples.npz", _npz(shown))
        write_json(self.path / "assessment.json", assessment.to_json())

    def read(self) -> Assessment:
        """The finished record.

        Raises:
            RunError: when the assessment is unfinished, damaged or from a newer version.
        """
        if not self.is_finished:
            raise RunError(f"{self.path} is not finished", "finish it with hardpoint assess --resume")
        value = read_json(self.path / "assessment.json")
        _check_schema(self.path, value, SCHEMA_VERSION)
        examples = self.path / "examples.npz"
        try:
            return Assessment.from_json(
                value,
                Outcomes(**_read_npz(self.path / "outcomes.npz")),
                Examples(**_read_npz(examples)) if examples.exists() else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{self.path} is damaged ({error})", "run the assessment again") from None


class RunFolder:
    """A folder of evidence: one run, one or more assessments."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").exists()

    def begin(self, header: Mapping[str, Any], *, resume: bool) -> None:
        """Start a run, or continue one, whose header stays; ``header["assessments"]`` and ``header["certificates"]``
        name what is planned.

        Raises:
            RunError: when the folder already holds a run and ``resume`` is off, or cannot be written.
        """
        planned = [str(name) for name in header.get("assessments", [])]
        if self.exists and not resume:
            raise RunError(
                f"{self.path} already holds a run", "pass --resume to continue it, or a new folder"
            )
        if not self.exists and self._holds_something():
            raise RunError(f"{self.path} is not empty and holds no run", "give an empty or new folder")
        if self.exists:
            proofs = [str(name) for name in header.get("certificates", [])]
            names = {
                key: list(dict.fromkeys([*self.header().get(key, []), *more]))
                for key, more in (("assessments", planned), ("certificates", proofs))
                if more or key == "assessments"
            }
            self.update(status="running", **names)
            return
        write_json(
            self.path / "run.json",
            {"schema": SCHEMA_VERSION, **header, "status": "running", "assessments": planned},
        )

    def _holds_something(self) -> bool:
        """Whether anything is there but what a killed write leaves."""
        try:
            return self.path.exists() and any(not p.name.startswith(_PART) for p in self.path.iterdir())
        except OSError as error:
            raise RunError(
                f"cannot read {self.path}: {error.strerror or error}", "give an empty or new folder"
            ) from None

    def header(self) -> dict[str, Any]:
        """What was run, on what, and whether it finished."""
        return read_json(self.path / "run.json")

    def update(self, **changes: Any) -> None:
        """Change entries of the header."""
        write_json(self.path / "run.json", {**self.header(), **changes})

    def close(self, name: str, *, complete: bool) -> None:
        """Enter that the assessment ``name`` has ended; the run is finished when all it planned are."""
        self.update(assessments=list(dict.fromkeys([*self.header()["assessments"], name])))
        self.update(status="out of budget" if not complete else self._status())

    def _status(self) -> str:
        header = self.header()
        done = all(self.assessment(str(n)).is_finished for n in header.get("assessments", []))
        proven = all(self._certificate(str(n)).exists() for n in header.get("certificates", []))
        return "finished" if done and proven else "running"

    def assessment(self, name: str) -> AssessmentFolder:
        """The folder of the assessment ``name``; raises ``RunError`` for a name that is no plain file name."""
        return AssessmentFolder(self.path / "assessments" / _plain_name(name))

    def names(self) -> list[str]:
        """The assessments in the order they were run."""
        listed = [str(n) for n in self.header().get("assessments", [])]
        return listed or sorted(p.name for p in (self.path / "assessments").glob("*") if p.is_dir())

    def read(self) -> list[Assessment]:
        """Every finished assessment, in order."""
        return [folder.read() for name in self.names() if (folder := self.assessment(name)).is_finished]

    def write_defence(self, name: str, record: DefenceRecord) -> None:
        """Write what was measured of a defended model; raises ``RunError`` as ``assessment`` does."""
        write_json(self.path / "defences" / f"{_plain_name(name)}.json", record.to_json())

    def defence(self, name: str) -> DefenceRecord | None:
        """What was measured of a defended model under ``name``; None where nothing was.

        Raises:
            RunError: when the record is damaged or from another version.
        """
        file = self.path / "defences" / f"{_plain_name(name)}.json"
        return _record(
            file, DEFENCE_SCHEMA_VERSION, DefenceRecord.from_json, "delete it and resume the ablation"
        )

    def defences(self) -> list[DefenceRecord]:
        """Every record of a defended model, by name."""
        names = sorted(p.stem for p in (self.path / "defences").glob("*.json") if _FILE.match(p.name))
        return [record for name in names if (record := self.defence(name)) is not None]

    @property
    def training_path(self) -> Path:
        """Where a robust training keeps what it needs."""
        return self.path / "training"

    def write_training(self, record: TrainingRecord) -> None:
        """Write what happened so far in a robust training."""
        write_json(self.training_path / "record.json", record.to_json())

    def training(self) -> TrainingRecord | None:
        """What happened in the robust training of this run; None where there was none.

        Raises:
            RunError: when the record is damaged or from another version.
        """
        file = self.training_path / "record.json"
        return _record(
            file, TRAINING_SCHEMA_VERSION, TrainingRecord.from_json, "delete it and resume the training"
        )

    @property
    def search_path(self) -> Path:
        """Where a search for an architecture keeps what it needs."""
        return self.path / "search"

    def write_search(self, record: SearchRecord) -> None:
        """Write what a search has tried so far."""
        write_json(self.search_path / "record.json", record.to_json())

    @property
    def certificates_path(self) -> Path:
        """Where proofs are kept."""
        return self.path / "certificates"

    def _certificate(self, name: str) -> Path:
        return self.certificates_path / f"{_plain_name(name)}.json"

    def certificate_parts(self, name: str) -> AssessmentFolder:
        """Where the finished parts of the proofs ``name`` are, before they are whole."""
        return AssessmentFolder(self.certificates_path / _plain_name(name))

    def write_certificates(self, record: CertificateRecord, witnesses: Mapping[str, NDArray[Any]]) -> None:
        """Write what was proven, and the points that break inputs: ``index`` ``[k]`` and ``point`` ``[k, ...]``."""
        file = self._certificate(record.name)
        write_atomically(file.with_name(f"{record.name}.npz"), _npz(witnesses))
        write_json(file, record.as_json())
        self.update(status=self._status())

    def certificates(self) -> list[CertificateRecord]:
        """Every finished record of proofs, in the order they were planned, then by name.

        Raises:
            RunError: when one is damaged or from another version.
        """
        planned = [str(name) for name in self.header().get("certificates", [])] if self.exists else []
        held = sorted(p.stem for p in self.certificates_path.glob("*.json") if _FILE.match(p.name))
        read = (self.certificate(name) for name in dict.fromkeys([*planned, *held]))
        return [record for record in read if record is not None]

    def certificate(self, name: str) -> CertificateRecord | None:
        """What was proven under ``name``; None where nothing is finished. Raises ``RunError`` as ``certificates``."""
        cure = "delete it and certify again with --resume"
        return _record(
            self._certificate(name), CERTIFICATES_SCHEMA_VERSION, CertificateRecord.from_json, cure
        )

    def witnesses(self, name: str) -> dict[str, NDArray[Any]]:
        """``index`` ``[k]`` and ``point`` ``[k, ...]``: allowed points that break the model."""
        return _read_npz(self._certificate(name).with_name(f"{name}.npz"))

    def search(self) -> SearchRecord | None:
        """What the search of this run has tried; None where there was none.

        Raises:
            RunError: when the record is damaged or from another version.
        """
        file = self.search_path / "record.json"
        return _record(file, SEARCH_SCHEMA_VERSION, SearchRecord.from_json, "search anew in an empty folder")


def _record(file: Path, schema: int, made: Callable[[dict[str, Any]], T], cure: str) -> T | None:
    """What ``made`` makes of a JSON file; None where there is none."""
    if not file.exists():
        return None
    value = read_json(file)
    _check_schema(file, value, schema)
    try:
        return made(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error})", cure) from None


def finite(value: Any) -> Any:
    """``value`` with NaN and infinities, which JSON cannot hold, as null."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
