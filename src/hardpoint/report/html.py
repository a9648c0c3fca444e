"""The report page: one HTML file that loads nothing, runs only its own script and prints well."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hardpoint.evidence import Assessment, CertificateRecord, DefenceRecord, SearchRecord, TrainingRecord
from hardpoint.evidence.store import finite, write_atomically
from hardpoint.report import words
from hardpoint.report.before_after import changes
from hardpoint.report.certificate_view import CertificateView, certificate_view
from hardpoint.report.certificate_words import certified_model
from hardpoint.report.curves import drawn
from hardpoint.report.defences import DefenceView, defence_view
from hardpoint.report.reading import (
    data_name,
    environment,
    model_name,
    network_name,
    overall,
    threat_name,
    tool_version,
    unfinished,
)
from hardpoint.report.tradeoff import drawn as tradeoff_drawn
from hardpoint.report.view import FIRST_CLASSES, Detail, Section, section

MAX_BYTES = 2_000_000
_LONGEST = 2000  # characters of one name or message on a page
_MAX_HEADER_LINES = 300
# Tried in order until the page is small enough.
_DETAILS = (Detail(12, 100), Detail(6, 100), Detail(3, 50), Detail(1, 20), Detail(0, 20), Detail(0, 0))


def _finalize(value: Any) -> Any:
    """What a template prints: markup as it is, anything else cut and made harmless (then escaped)."""
    if isinstance(value, Markup):
        return value
    text = words.printable("" if value is None else value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def templates() -> Environment:
    """The templates' environment: everything escaped, undefined names are errors."""
    env = Environment(
        loader=PackageLoader("hardpoint.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        percent=words.percent,
        interval=words.interval,
        number=words.number,
        points=words.points,
        duration=words.duration,
    )
    return env


@dataclass(frozen=True)
class Asset:
    """A style sheet or script that goes into the page, with the hash its policy allows."""

    text: Markup
    source: Markup

    @classmethod
    def of(cls, text: str) -> Asset:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        return cls(Markup(text), Markup(f"'sha256-{digest}'"))


def render(template: str, **values: Any) -> str:
    """A page from one of the templates, with the shared style sheet and script inside."""
    env = templates()
    style = Asset.of(env.get_template("style.css.j2").render())
    script = Asset.of(env.get_template("script.js").render())
    return env.get_template(template).render(style=style, script=script, **values)


def write_html(
    path: str | os.PathLike[str],
    assessments: Sequence[Assessment],
    header: Mapping[str, Any],
    defences: Sequence[DefenceRecord] = (),
    training: TrainingRecord | None = None,
    search: SearchRecord | None = None,
    certificates: Sequence[CertificateRecord] = (),
) -> Path:
    """Write the report page of a run; returns where it is.

    Of the header the page shows ``command`` and ``code`` (how to repeat the run, at a shell and in Python),
    ``created``, ``status``, ``environment`` (its strings, and its ``versions`` by name), ``assessments`` (the
    planned names), and the whole of it folded away. What was measured of ``defences`` comes first,
    then what was proven, and what happened in ``training`` or in ``search``.
    Examples are left out, and the page says so, where it would exceed 2 MB.

    Raises:
        RunError: when the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_html(Path(folder) / "report.html", [], {"created": "2025-01-01"}).name
    'report.html'
    """
    page = page_of(assessments, header, defences, training, search, certificates)
    target = Path(path)
    write_atomically(target, page.encode("utf-8"))
    return target


def page_of(
    assessments: Sequence[Assessment],
    header: Mapping[str, Any],
    defences: Sequence[DefenceRecord] = (),
    training: TrainingRecord | None = None,
    search: SearchRecord | None = None,
    certificates: Sequence[CertificateRecord] = (),
) -> str:
    """The report page as text, at most 2 MB where leaving out examples and class bars achieves that."""
    page = ""
    for detail in _DETAILS:
        sections = [section(a, i, detail) for i, a in enumerate(assessments, start=1)]
        anchors = {s.record.name: s.anchor for s in sections}
        views = [defence_view(d, i, anchors) for i, d in enumerate(defences, start=1)]
        curves = Markup(drawn(training.epochs)) if training is not None and training.epochs else None
        tradeoff = Markup(tradeoff_drawn(search)) if search is not None else None
        learned = {"training": training, "curves": curves, "search": search, "tradeoff": tradeoff}
        proofs = [certificate_view(c, i) for i, c in enumerate(certificates, start=1)]
        page = render("report.html.j2", **_values(sections, views, proofs, header, detail), **learned)
        if len(page.encode("utf-8")) <= MAX_BYTES:
            break
    return page


def _values(
    sections: Sequence[Section],
    defences: Sequence[DefenceView],
    proofs: Sequence[CertificateView],
    header: Mapping[str, Any],
    detail: Detail,
) -> dict[str, Any]:
    assessments = [s.record for s in sections]
    covered = {name for view in defences for name in view.covers}
    certificates = [p.record for p in proofs]
    told: list[Assessment | CertificateRecord] = [*assessments, *certificates]
    hashes = {(s.model, str(s.record.model.get("sha256") or "")) for s in sections}
    hashes |= {(certified_model(c), str(c.model.get("sha256") or "")) for c in certificates}
    data = {(data_name(r), str(r.data.get("sha256") or "")) for r in told}
    names = [network_name(a) for a in assessments] + [certified_model(c) for c in certificates]
    lines = json.dumps(finite(dict(header)), indent=1, ensure_ascii=False, default=str).splitlines()
    return {
        "sections": sections,
        "defences": defences,
        "cards": [s for s in sections if s.record.name not in covered],
        "proofs": proofs,
        "networks": list(dict.fromkeys(names)),
        "models": list(dict.fromkeys(model_name(a) for a in assessments)),
        "changes": changes(assessments),
        "threats": len({(threat_name(a), a.threat.get("access")) for a in assessments}) or len(proofs),
        "inputs": _inputs(told),
        "missing": unfinished(assessments, header, certificates),
        "verdict": overall(assessments, header, certificates),
        "version": tool_version(header),
        "created": words.moment(header.get("created") or ""),
        "is_running": header.get("status") == "running",
        "command": _command(header.get("command")),
        "code": str(header.get("code") or ""),
        "environment": environment(header),
        "model_hashes": sorted(hashes),
        "data_hashes": sorted(data),
        "seeds": sorted({a.seed for a in assessments}),
        "header_lines": lines[:_MAX_HEADER_LINES],
        "header_cut": len(lines) > _MAX_HEADER_LINES,
        "first_classes": FIRST_CLASSES,
        "is_trimmed": detail is not _DETAILS[0],
    }


def _command(value: Any) -> str:
    """A command line, given as text or as its words."""
    if isinstance(value, list | tuple):
        return " ".join(str(v) for v in value)
    return str(value or "")


def _inputs(records: Sequence[Assessment | CertificateRecord]) -> str:
    """How many inputs of which data, in words."""
    each = dict.fromkeys(
        (r.clean.n if isinstance(r, CertificateRecord) else r.robust_accuracy.n, data_name(r))
        for r in records
    )
    return "; ".join(
        f"{words.number(n)} input{'' if n == 1 else 's'}" + (f" of {name}" if name else "")
        for n, name in each
    )
