"""The geometry that minimal-norm attacks share: lengths, dual lengths, projections, proximal operators."""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task
from hardpoint.threats.l0 import L0Region
from hardpoint.threats.l1 import L1Region, project_l1
from hardpoint.threats.l2 import L2Region, project_l2
from hardpoint.threats.linf import LinfRegion

FAR = 1e6  # lengths are kept below this many box widths


class Norm(Enum):
    """How the size of a change is measured."""

    L0 = "L0"
    L1 = "L1"
    L2 = "L2"
    LINF = "Linf"

    def length(self, change: Tensor) -> Tensor:
        """``[n]``: the size of each change ``[n, ...]``.

        >>> [float(norm.length(torch.tensor([[3.0, -4.0, 0.0]]))) for norm in Norm]
        [2.0, 7.0, 5.0, 4.0]
        """
        flat = change.flatten(1)
        if self is Norm.L0:
            return (flat != 0).sum(1).to(change.dtype)
        if self is Norm.LINF:
            return flat.abs().amax(1)
        length: Tensor = torch.linalg.vector_norm(flat, ord=1 if self is Norm.L1 else 2, dim=1)
        return length

    def dual_length(self, gradient: Tensor) -> Tensor:
        """``[n]``: how much a linear function with this gradient can change per unit of this norm; for L0, per
        coordinate and unit of value, as for L1."""
        dual = {Norm.L0: Norm.LINF, Norm.L1: Norm.LINF, Norm.L2: Norm.L2, Norm.LINF: Norm.L1}[self]
        return dual.length(gradient)


_REGIONS: dict[type, Norm] = {LinfRegion: Norm.LINF, L2Region: Norm.L2, L1Region: Norm.L1, L0Region: Norm.L0}


def norm_of(task: Task, attack: str, *supported: Norm) -> Norm:
    """The norm in which the task measures distance; raises ``ThreatError`` where ``attack`` does not minimise it."""
    norm = _REGIONS.get(type(task.region))
    if norm is None or norm not in supported:
        kind = type(task.region).__name__.removesuffix("Region") if norm is None else norm.value
        raise ThreatError(
            f"{attack} does not minimise the {kind} size of a change",
            f"use it with {' or '.join(n.value for n in supported)}, or another attack",
        )
    return norm


def room(task: Task, point: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """float64 ``[n, d]`` twice: how far each coordinate of ``point`` (the originals by default) may go down
    (negative) and up inside the input box."""
    low, high = task.box.bounds_like(task.x)
    at = (task.x if point is None else point).double()
    return (low.double() - at).flatten(1), (high.double() - at).flatten(1)


def span(task: Task) -> Tensor:
    """``[n]``: the mean width of the input box, the unit of step lengths; 1 where the box has no ends."""
    low, high = task.box.bounds_like(task.x)
    width = (high - low).expand_as(task.x).flatten(1).mean(1)
    return torch.where(torch.isfinite(width), width, 1.0)


def first_order(norm: Norm, value: Tensor, gradient: Tensor, otherwise: Tensor) -> Tensor:
    """float64 ``[n]``: the distance at which a linear function with this value and gradient is zero; ``otherwise``
    where the gradient is zero."""
    slope = norm.dual_length(gradient.double())
    return torch.where(slope > 0, value.double().abs() / slope.clamp_min(1e-300), otherwise)


def first_radius(norm: Norm, change: Tensor, value: Tensor, gradient: Tensor, task: Task) -> Tensor:
    """float64 ``[n]``: the size of the first change, or the first-order distance where there is none."""
    size = norm.length(change)
    return torch.where(size > 0, size, first_order(norm, value, gradient, otherwise=span(task).double()))


def step_unit(norm: Norm, radius: Tensor, task: Task) -> Tensor:
    """``[n]``: the largest Euclidean length of a change of size ``radius``, the unit of gradient steps.

    In units of the ball steps fit inputs of any scale; where the first radius was wrong they grow along with it.
    """
    count, width = task.x[0].numel(), span(task).double()
    if norm is Norm.L2:
        return radius
    if norm is Norm.LINF:
        return radius * math.sqrt(count)
    if norm is Norm.L1:
        return torch.minimum(
            radius, (radius * width).sqrt()
        )  # many coordinates share what is wider than the box
    return width * radius.clamp_min(1.0).sqrt()


def moved(task: Task, change: Tensor) -> Tensor:
    """The originals changed by ``change`` (``[n, ...]`` or ``[n, d]``), kept inside the box."""
    return task.box.clamp((task.x.double() + change.view_as(task.x)).to(task.x.dtype))


def unit(gradient: Tensor, task: Task) -> Tensor:
    """``gradient`` ``[n, d]`` at Euclidean length 1; a random direction where it is zero, so that no input stands
    still."""
    largest = gradient.abs().amax(1, keepdim=True)
    if bool((largest == 0).any()):
        noise = task.rng.fork("no gradient").normal(
            task.index, (gradient.shape[1],), task.turn, gradient.dtype
        )
        gradient = torch.where(largest == 0, noise, gradient)
        largest = gradient.abs().amax(1, keepdim=True)
    scaled = gradient / largest  # so that tiny gradients do not underflow when squared
    return scaled / Norm.L2.length(scaled).unsqueeze(1)


def cosine(first: float, last: float, taken: Tensor, steps: int) -> Tensor:
    """float64 ``[n]``: from ``first`` to ``last`` along half a cosine, after ``taken`` of ``steps`` steps.

    >>> cosine(1.0, 0.0, torch.tensor([0, 5, 10]), 10)
    tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    return last + (first - last) * 0.5 * (1 + torch.cos(math.pi * taken.double() / steps))


def into_ball(norm: Norm, change: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """The changes of size at most ``radius`` ``[n]`` within ``low`` and ``high`` nearest to ``change`` ``[n, d]``."""
    if norm is Norm.L0:
        inside = torch.minimum(torch.maximum(change, low), high)
        saved = inside * (2 * change - inside)  # squared distance that changing the coordinate saves
        rank = saved.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return torch.where(rank < radius.unsqueeze(1), inside, 0.0)
    ball = radius.to(change.dtype).unsqueeze(1).clamp_min(1e-30)
    if norm is Norm.LINF:
        return torch.minimum(torch.maximum(change, torch.maximum(low, -ball)), torch.minimum(high, ball))
    project = project_l1 if norm is Norm.L1 else project_l2
    return project(change / ball, low / ball, high / ball, 1.0) * ball


def proximal(norm: Norm, change: Tensor, weight: Tensor, metric: Tensor) -> Tensor:
    """argmin over u of ``weight`` |u| + ½ Σ ``metric`` (u - change)², rows of ``[n, d]``, ``weight`` ``[n]``.

    Separable for L0 and L1. In L2, u is the change times m r / (m r + weight) where r = |u|₂, found by bisection. In
    Linf, u is the change clipped where Σ m (|change| - clip)₊ = weight, found by sorting (Parikh and Boyd, "Proximal
    algorithms", 2014, section 6; the metric as in Becker and Fadili, NeurIPS 2012).
    """
    pull, size = weight.unsqueeze(1), change.abs()
    metric = metric.clamp_min(1e-30)
    if norm is Norm.L0:
        return torch.where(metric * change.square() > 2 * pull, change, 0.0)
    if norm is Norm.L1:
        return torch.copysign((size - pull / metric).clamp_min(0.0), change)
    if norm is Norm.L2:
        low, high = torch.zeros_like(pull), Norm.L2.length(change).unsqueeze(1)
        for _ in range(40):
            middle = (low + high) / 2
            share = metric / (metric * middle + pull).clamp_min(1e-300)
            grows = (change * share).square().sum(1, keepdim=True) > 1
            low, high = torch.where(grows, middle, low), torch.where(grows, high, middle)
        return change * metric * low / (metric * low + pull).clamp_min(1e-300)
    ordered, order = torch.sort(size, dim=1, descending=True)
    heavy = metric.gather(1, order)
    clip = ((heavy * ordered).cumsum(1) - pull) / heavy.cumsum(1)
    return torch.copysign(torch.minimum(size, clip.amax(1, keepdim=True).clamp_min(0.0)), change)
