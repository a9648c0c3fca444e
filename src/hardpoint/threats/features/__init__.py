"""What an attacker may change in a row of a table: kinds, bounds, mutability, costs and relations."""

from hardpoint.threats.features.balls import Norm
from hardpoint.threats.features.edits import FeatureEdits
from hardpoint.threats.features.feature import DYNAMIC, Feature, Kind, Mutability
from hardpoint.threats.features.lint import LintIssue, LintKind, lint
from hardpoint.threats.features.region import FeatureEditsRegion
from hardpoint.threats.features.relations import Relation
from hardpoint.threats.features.schema import Schema

__all__ = [
    "DYNAMIC",
    "Feature",
    "FeatureEdits",
    "FeatureEditsRegion",
    "Kind",
    "LintIssue",
    "LintKind",
    "Mutability",
    "Norm",
    "Relation",
    "Schema",
    "lint",
]
