"""What was found: rates with intervals, findings, the record of an assessment, the run folder."""

from hardpoint.evidence.assessment import (
    Assessment,
    Check,
    CurvePoint,
    Examples,
    Outcomes,
    StageRecord,
    Status,
    Verdict,
)
from hardpoint.evidence.certificate import Certificate, CertificateRecord, Level, Standing
from hardpoint.evidence.defence import DefenceRecord, PartKind, PartRecord, StackPart, ThresholdRecord, Worth
from hardpoint.evidence.finding import Finding, Severity, finding
from hardpoint.evidence.rate import Rate
from hardpoint.evidence.search import SearchRecord, Trial
from hardpoint.evidence.store import AssessmentFolder, RunFolder
from hardpoint.evidence.training import Epoch, TrainingRecord

__all__ = [
    "Assessment",
    "AssessmentFolder",
    "Certificate",
    "CertificateRecord",
    "Check",
    "CurvePoint",
    "DefenceRecord",
    "Epoch",
    "Examples",
    "Finding",
    "Level",
    "Outcomes",
    "PartKind",
    "PartRecord",
    "Rate",
    "RunFolder",
    "SearchRecord",
    "Severity",
    "StackPart",
    "StageRecord",
    "Standing",
    "Status",
    "ThresholdRecord",
    "TrainingRecord",
    "Trial",
    "Verdict",
    "Worth",
    "finding",
]
