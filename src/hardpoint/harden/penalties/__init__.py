"""Penalties that can be added to the loss of any recipe."""

from hardpoint.harden.penalties.grad_align import GradAlign
from hardpoint.harden.penalties.input_gradient import InputGradient
from hardpoint.harden.penalties.jacobian import Jacobian
from hardpoint.harden.penalties.local_linearity import LocalLinearity
from hardpoint.harden.penalties.penalty import Penalty

__all__ = ["GradAlign", "InputGradient", "Jacobian", "LocalLinearity", "Penalty"]
