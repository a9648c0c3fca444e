"""What every form of a report reads out of the records: one reading, so that all forms agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from hardpoint.evidence import Assessment, CertificateRecord, Finding, Rate, Severity, Status, Verdict


@dataclass(frozen=True)
class Counts:
    """How many inputs ended in each status."""

    clean_error: int
    broken: int
    standing: int
    unfinished: int

    @property
    def right(self) -> int:
        """Inputs the model gets right before any attack."""
        return self.broken + self.standing + self.unfinished


def counts(assessment: Assessment) -> Counts:
    """The statuses of an assessment's inputs, counted."""
    status = assessment.outcomes.status
    return Counts(*(int((status == s).sum()) for s in Status))


def class_rates(assessment: Assessment) -> list[tuple[int, Rate]]:
    """Robust accuracy of every class that occurs, worst first; of two alike, the one with more inputs."""
    label, broken = assessment.outcomes.label, assessment.outcomes.broken
    rates = []
    for k in np.unique(label):
        own = label == k
        rates.append((int(k), Rate.of(int((own & ~broken).sum()), int(own.sum()))))
    return sorted(rates, key=lambda pair: (pair[1].value, -pair[1].n, pair[0]))


def class_name(assessment: Assessment, label: int) -> str:
    """The name of a class where the data give one, else ``class 3``; ``refused`` where the answer is none."""
    if label == refusal(assessment):
        return "refused"
    names = assessment.data.get("classes")
    if isinstance(names, list | tuple) and 0 <= label < len(names):
        return str(names[label])
    return f"class {label}"


def refusal(assessment: Assessment) -> int | None:
    """The answer with which the model refuses an input; None where it always answers."""
    value = assessment.model.get("refusal")
    return value if isinstance(value, int) else None


def refused(assessment: Assessment) -> Rate | None:
    """The share of inputs refused without an attack; None where the model always answers."""
    answer, answered = refusal(assessment), assessment.outcomes.clean_prediction
    return None if answer is None else Rate.of(int((answered == answer).sum()), len(answered))


def defences(assessment: Assessment) -> list[Mapping[str, Any]]:
    """What the model says of its defences, the stages first, then the detectors."""
    given = [assessment.model.get(key) or () for key in ("defences", "detectors")]
    return [d for each in given if isinstance(each, list | tuple) for d in each if isinstance(d, Mapping)]


def defence_name(told: Mapping[str, Any]) -> str:
    """What to call a stage or a detector."""
    return str(told.get("name") or told.get("kind") or "defence")


def network_name(assessment: Assessment) -> str:
    """What to call the model that stands behind the defences."""
    return str(assessment.model.get("name") or assessment.model.get("kind") or "model")


def model_name(assessment: Assessment) -> str:
    """What to call the model: behind other defences it is another one."""
    before = ", ".join(map(defence_name, defences(assessment)))
    return network_name(assessment) + (f" behind {before}" if before else "")


def data_name(record: Assessment | CertificateRecord) -> str:
    """What the data are called; empty for arrays from memory, which have no name."""
    name = str(record.data.get("name") or "")
    return "" if name == "memory" else name


def threat_name(assessment: Assessment) -> str:
    """The threat's short stable name."""
    return str(assessment.threat.get("name") or assessment.name)


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, the gravest first, then by id."""
    return sorted(findings, key=lambda f: (-f.severity, f.id))


def unfinished(
    assessments: Sequence[Assessment],
    header: Mapping[str, Any],
    certificates: Sequence[CertificateRecord] = (),
) -> list[str]:
    """The names of the assessments, and of the proofs, that the run planned and did not finish."""
    done, proven = {a.name for a in assessments}, {c.name for c in certificates}
    missing = [str(name) for name in header.get("assessments") or () if str(name) not in done]
    return missing + [str(name) for name in header.get("certificates") or () if str(name) not in proven]


def overall(
    assessments: Sequence[Assessment],
    header: Mapping[str, Any],
    certificates: Sequence[CertificateRecord] = (),
) -> Verdict:
    """The worst verdict of a run; what did not run is never a pass."""
    verdicts = {a.verdict for a in assessments} | {c.verdict for c in certificates}
    if not verdicts:
        return Verdict.NOT_RUN
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if verdicts != {Verdict.PASS} or unfinished(assessments, header, certificates):
        return Verdict.WARN
    return Verdict.PASS


def weaknesses(assessment: Assessment) -> list[str]:
    """Why the number may be worth less than it looks, one line each."""
    reasons = [] if assessment.complete else ["not every input was attacked in full"]
    return reasons + [
        f"{f.id}: {f.message}" for f in by_severity(assessment.findings) if f.severity is Severity.FAIL
    ]


def environment(header: Mapping[str, Any]) -> dict[str, str]:
    """What the run ran on, name to text: Hardpoint, Python, the platform, then the libraries."""
    recorded = header.get("environment")
    if not isinstance(recorded, Mapping):
        return {}
    versions = recorded.get("versions")
    flat = {k: v for k, v in recorded.items() if isinstance(v, str | int)}
    flat |= {"devices": ", ".join(map(str, recorded.get("devices") or ()))}
    flat |= versions if isinstance(versions, Mapping) else {}
    return {str(k): str(v) for k, v in flat.items() if v not in (None, "")}


def tool_version(header: Mapping[str, Any]) -> str:
    """The Hardpoint that made the run, or else this one."""
    recorded = environment(header).get("hardpoint")
    if recorded:
        return recorded
    try:
        return version("hardpoint")
    except PackageNotFoundError:
        return "unknown"
