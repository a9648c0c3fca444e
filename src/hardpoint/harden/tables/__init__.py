"""Hardening classifiers of tables: examples under constraints, monotone models, and a gate that gives proofs."""

from hardpoint.harden.tables.estimator import harden_estimator
from hardpoint.harden.tables.gate import GatedClassifier, fixed_features
from hardpoint.harden.tables.measure import Measured, measure
from hardpoint.harden.tables.mixing import worst_rows
from hardpoint.harden.tables.monotone import (
    MonotoneCheck,
    MonotoneConstraints,
    check_monotone,
    monotone_constraints,
)
from hardpoint.harden.tables.result import Round, TableHardenResult

__all__ = [
    "GatedClassifier",
    "Measured",
    "MonotoneCheck",
    "MonotoneConstraints",
    "Round",
    "TableHardenResult",
    "check_monotone",
    "fixed_features",
    "harden_estimator",
    "measure",
    "monotone_constraints",
    "worst_rows",
]
