"""``hardpoint report``: a run's pages again, and two runs side by side."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hardpoint.cli.console import say, say_json
from hardpoint.cli.exits import Exit
from hardpoint.cli.runs import Verb
from hardpoint.core.errors import NothingToTest
from hardpoint.evidence import (
    Assessment,
    CertificateRecord,
    DefenceRecord,
    RunFolder,
    SearchRecord,
    TrainingRecord,
)
from hardpoint.evidence.store import write_atomically
from hardpoint.report import compare, junit, sarif, summary_json, write_comparison_html
from hardpoint.report.html import page_of

FORMS = ("html", "json", "sarif", "junit")
_NAMES = {"html": "report.html", "json": "report.json", "sarif": "report.sarif", "junit": "junit.xml"}
_SUFFIXES = {".html": "html", ".htm": "html", ".json": "json", ".sarif": "sarif", ".xml": "junit"}


def _json_text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


_Held = tuple[
    list[Assessment],
    dict[str, Any],
    list[DefenceRecord],
    TrainingRecord | None,
    SearchRecord | None,
    list[CertificateRecord],
]
_WRITERS: dict[str, Callable[[_Held], str]] = {
    "html": lambda held: page_of(*held),
    "json": lambda held: _json_text(summary_json(*held[:3], held[5])),
    "sarif": lambda held: _json_text(sarif(*held[:2], held[5])),
    "junit": lambda held: junit(*held[:2], held[5]),
}


def _held(run: RunFolder) -> _Held:
    """What a run folder holds: finished assessments, header, and what is known of defences, a training, a search,
    and what was proven."""
    return run.read(), run.header(), run.defences(), run.training(), run.search(), run.certificates()


def write_formats(run: RunFolder, formats: Sequence[str] = FORMS) -> dict[str, Path]:
    """Write these forms of a run's report beside it; form to file.

    Raises:
        RunError: when the folder holds no run, is damaged, or cannot be written.
    """
    held = _held(run)
    files = {form: run.path / _NAMES[form] for form in FORMS if form in formats}
    for form, path in files.items():
        write_atomically(path, _WRITERS[form](held).encode("utf-8"))
    return files


def run(
    path: Path, *, out: Path | None, other: Path | None, open_page: bool, json_out: bool, quiet: bool
) -> int:
    """Rebuild the report of the run in ``path``, or compare it with ``other``."""
    first = RunFolder(path)
    held = _held(first)
    if not held[0] and not held[5]:
        verb = Verb.of(first)
        missing = "certificate" if verb is Verb.CERTIFY else "assessment"
        raise NothingToTest(
            f"{path} holds no finished {missing}", f"finish it with: hardpoint {verb.value} --resume"
        )
    if other is not None:
        page, written = _compare(first, RunFolder(other), out)
    elif out is not None:
        form = _SUFFIXES.get(out.suffix.lower(), "html")
        write_atomically(out, _WRITERS[form](held).encode("utf-8"))
        page, written = out, {form: out}
    else:
        written = write_formats(first)
        page = written["html"]
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    if json_out:
        say_json({"exit_code": 0, "run": str(path), "files": {form: str(p) for form, p in written.items()}})
    else:
        say(f"report:   {page}")
        if not quiet:
            said = (
                f"hardpoint report {path} --compare RUN"
                if other is None
                else f"hardpoint report {other} --open"
            )
            say(f"next:     {said}")
    return Exit.PASS


def _compare(before: RunFolder, after: RunFolder, out: Path | None) -> tuple[Path, dict[str, Path]]:
    comparison = compare(before.read(), after.read())
    if not comparison.threats:
        raise NothingToTest(
            f"{before.path} and {after.path} share no finished threat", "compare runs of the same threats"
        )
    page = out or after.path / f"compare-{before.path.resolve().name}.html"
    names = (before.path.resolve().name, after.path.resolve().name)
    return page, {"html": write_comparison_html(page, comparison, names)}
