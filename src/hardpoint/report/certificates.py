"""The page of what was proven, by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardpoint.evidence import CertificateRecord
from hardpoint.report.html import write_html


def write_certificates(path: Path, records: Sequence[CertificateRecord], header: Mapping[str, Any]) -> Path:
    """Write the page that shows both sides of robust accuracy for each record; returns where it is.

    Args:
        path: where it goes.
        records: one per threat.
        header: what was run, on what, as ``write_html`` shows it.

    Raises:
        RunError: when the file cannot be written.
    """
    return write_html(path, [], header, certificates=records)
