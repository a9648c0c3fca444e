"""All forms of a run's report, written beside the run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hardpoint.evidence import RunFolder
from hardpoint.evidence.store import write_atomically, write_json
from hardpoint.report.html import write_html
from hardpoint.report.junit import junit
from hardpoint.report.sarif import sarif
from hardpoint.report.summary import summary_json


@dataclass(frozen=True)
class ReportFiles:
    """Where each form of the report is."""

    html: Path
    json: Path
    sarif: Path
    junit: Path


def write_report(run: RunFolder | str | os.PathLike[str], out: Path | None = None) -> ReportFiles:
    """Write ``report.html``, ``report.json``, ``report.sarif`` and ``junit.xml`` of a run.

    Args:
        run: the run folder.
        out: the folder to write to; the run's own by default.

    Each file appears whole or not at all. Unfinished assessments are named as such in every form.

    Raises:
        RunError: when the folder holds no run, is damaged, or cannot be written.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    header, assessments = folder.header(), folder.read()
    target = Path(out) if out is not None else folder.path
    files = ReportFiles(
        target / "report.html", target / "report.json", target / "report.sarif", target / "junit.xml"
    )
    defences = folder.defences()
    proofs = folder.certificates()
    write_json(files.json, summary_json(assessments, header, defences, proofs))
    write_json(files.sarif, sarif(assessments, header, proofs))
    write_atomically(files.junit, junit(assessments, header, proofs).encode("utf-8"))
    write_html(files.html, assessments, header, defences, certificates=proofs)
    return files
