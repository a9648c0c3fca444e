"""Attacks that know the trees of a model: what matters is which thresholds a row crosses."""

from hardpoint.attacks.tabular.trees.coordinate import CoordinateAttack
from hardpoint.attacks.tabular.trees.exact import ExactDistances, exact_distances
from hardpoint.attacks.tabular.trees.leaf_tuple import LeafTupleAttack

__all__ = ["CoordinateAttack", "ExactDistances", "LeafTupleAttack", "exact_distances"]
