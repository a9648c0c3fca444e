"""How robustness is proven: bounds of what a network can answer."""

from hardpoint.bounds.certified import SLACK, interval_certified
from hardpoint.bounds.graph import Graph, Step
from hardpoint.bounds.interval import intervals, margin_bounds
from hardpoint.bounds.lipschitz import certified_radius, lipschitz_bound
from hardpoint.bounds.operators import KNOWN
from hardpoint.bounds.operators.operator import Interval, UnknownOperator
from hardpoint.bounds.patches import Ablation, Blocks, Columns, DoubleMasking, Rows
from hardpoint.bounds.poisoning import DeepPartition, FiniteAggregation, OfEstimator
from hardpoint.bounds.smoothing import Smoothed, SmoothedCertificates
from hardpoint.bounds.tracing import traced
from hardpoint.bounds.trees import RowBox, TreeStatus, prove_monotone, tree_margins, verify_trees

__all__ = [
    "KNOWN",
    "SLACK",
    "Ablation",
    "Blocks",
    "Columns",
    "DeepPartition",
    "DoubleMasking",
    "FiniteAggregation",
    "Graph",
    "Interval",
    "OfEstimator",
    "RowBox",
    "Rows",
    "Smoothed",
    "SmoothedCertificates",
    "Step",
    "TreeStatus",
    "UnknownOperator",
    "certified_radius",
    "interval_certified",
    "intervals",
    "lipschitz_bound",
    "margin_bounds",
    "prove_monotone",
    "traced",
    "tree_margins",
    "verify_trees",
]
