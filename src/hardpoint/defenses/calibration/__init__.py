"""Thresholds of detectors with a proven false-positive rate, and what they are worth against attacks."""

from hardpoint.defenses.calibration.by_class import ClassThresholds, per_class
from hardpoint.defenses.calibration.combine import (
    Fisher,
    bonferroni,
    e_to_p,
    e_values,
    fisher_statistic,
    mean_e_value,
)
from hardpoint.defenses.calibration.conformal import p_values
from hardpoint.defenses.calibration.exact import exact_rate
from hardpoint.defenses.calibration.table import Auroc, auroc, flagged, threshold_table
from hardpoint.defenses.calibration.thresholds import (
    Threshold,
    Uncalibrated,
    marginal_threshold,
    pac_rank,
    pac_threshold,
    smallest_n,
)

__all__ = [
    "Auroc",
    "ClassThresholds",
    "Fisher",
    "Threshold",
    "Uncalibrated",
    "auroc",
    "bonferroni",
    "e_to_p",
    "e_values",
    "exact_rate",
    "fisher_statistic",
    "flagged",
    "marginal_threshold",
    "mean_e_value",
    "p_values",
    "pac_rank",
    "pac_threshold",
    "per_class",
    "smallest_n",
    "threshold_table",
]
