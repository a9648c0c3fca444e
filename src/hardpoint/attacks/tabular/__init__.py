"""Attacks on tables under constraints."""

from hardpoint.attacks.tabular.caa import caa
from hardpoint.attacks.tabular.capgd import CAPGD
from hardpoint.attacks.tabular.moeva import MOEVA
from hardpoint.attacks.tabular.search import TableSearch
from hardpoint.attacks.tabular.trees import (
    CoordinateAttack,
    ExactDistances,
    LeafTupleAttack,
    exact_distances,
)

__all__ = [
    "CAPGD",
    "MOEVA",
    "CoordinateAttack",
    "ExactDistances",
    "LeafTupleAttack",
    "TableSearch",
    "caa",
    "exact_distances",
]
