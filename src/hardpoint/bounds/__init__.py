"""How robustness is proven: bounds of what a network can answer."""

from hardpoint.bounds.certified import SLACK, interval_certified
from hardpoint.bounds.graph import Graph, Step
from hardpoint.bounds.interval import intervals, margin_bounds
from hardpoint.bounds.lipschitz import certified_radius, lipschitz_bound
from hardpoint.bounds.operators import KNOWN
from hardpoint.bounds.operators.operator import Interval, UnknownOperator
from hardpoint.bounds.smoothing import Smoothed, SmoothedCertificates
from hardpoint.bounds.tracing import traced

__all__ = [
    "KNOWN",
    "SLACK",
    "Graph",
    "Interval",
    "Smoothed",
    "SmoothedCertificates",
    "Step",
    "UnknownOperator",
    "certified_radius",
    "interval_certified",
    "intervals",
    "lipschitz_bound",
    "margin_bounds",
    "traced",
]
