"""Ensembles of decision trees as flat arrays, whichever library grew them."""

from hardpoint.models.trees.ensemble import Link, TreeEnsemble
from hardpoint.models.trees.leaves import LeafTable
from hardpoint.models.trees.reading import read_trees

__all__ = ["LeafTable", "Link", "TreeEnsemble", "read_trees"]
