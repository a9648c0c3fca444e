"""Certificates for ensembles of decision trees: margins over boxes of rows, and features that only help."""

from hardpoint.bounds.trees.margins import tree_margins
from hardpoint.bounds.trees.monotone import MonotoneProof, Proof, prove_monotone
from hardpoint.bounds.trees.rows import RowBox
from hardpoint.bounds.trees.verify import TreeCertificates, TreeStatus, verify_trees

__all__ = [
    "MonotoneProof",
    "Proof",
    "RowBox",
    "TreeCertificates",
    "TreeStatus",
    "prove_monotone",
    "tree_margins",
    "verify_trees",
]
