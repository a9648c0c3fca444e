"""What gradient attacks climb. Each loss is a function of the scores that is large where the attack wins.

All are safe for any number of classes, any shift of the scores, and confident models:

- ``ce`` is log Σ_{i≠y} exp z_i - z_y. Cross-entropy is log(1 + exp(ce)), a rising function of it, so both have
  the same maximisers and, up to a positive factor per input, the same gradient. But cross-entropy's
  gradient underflows to zero when the model is confident, and this one's does not. Steps that use the sign
  or the direction of the gradient are therefore those of cross-entropy wherever that has any.
- ``margin`` is max_{i≠y} z_i - z_y, positive exactly where the input is misclassified.
- ``dlr`` is margin / (z₍₁₎ - z₍₃₎), the difference of logits ratio (Croce and Hein, "Reliable evaluation of
  adversarial robustness", ICML 2020, equation 6), free of the scores' scale. Its targeted form divides
  z_t - z_y by z₍₁₎ - (z₍₃₎ + z₍₄₎)/2 (equation 7). With fewer classes the scores that exist are used; with
  two, the plain margin, whose sign is all that matters then.

Two more are for models that can refuse; for others they are the margin:

- ``bare`` is the margin of the classes alone, whatever a detector says: far beyond the boundary some accept again.
- ``selective`` first leads astray and then past the detector, so that no valley between the two ends the search: the
  bare margin while it is negative, and beyond it a rising function of the margin over the right class and the refusal,
  in (0, 1) while refused (selective descent, Bryniarski et al., ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError
from hardpoint.threats.goals import Goal, Targeted, margin_over, unrefused


class Loss(Enum):
    """A loss by its name; every place that takes a loss takes the name too."""

    CE = "ce"
    MARGIN = "margin"
    DLR = "dlr"
    BARE = "bare"
    SELECTIVE = "selective"

    @classmethod
    def parse(cls, value: Loss | str) -> Loss:
        """The loss called ``value``; raises ``ThreatError`` for an unknown name."""
        try:
            return cls(value)
        except ValueError:
            known = ", ".join(loss.value for loss in cls)
            raise ThreatError(f"loss {value!r} is unknown", f"use one of: {known}") from None


def untargeted(loss: Loss, scores: Tensor, y: Tensor) -> Tensor:
    """``[n]``: how close to, or how far beyond, any wrong answer.

    >>> scores = torch.tensor([[2.0, 1.0, 0.0]])
    >>> [round(float(untargeted(loss, scores, torch.tensor([0]))), 3) for loss in Loss]
    [-0.687, -1.0, -0.5, -1.0, -1.0]
    """
    return _UNTARGETED[loss](scores, y)


def targeted(loss: Loss, scores: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``[n]``: how close to, or how far beyond, the answer ``target`` (int64 ``[n]``)."""
    if loss is Loss.CE:
        return -_log_sum_others(scores, target)
    gain = _pick(scores, target) - _pick(scores, y)
    if loss is not Loss.DLR or scores.shape[1] < 3:
        return gain
    top = scores.topk(min(4, scores.shape[1]), dim=1).values
    low = top[:, 2:].mean(1)
    return gain / (top[:, 0] - low + 1e-12)


def goal_loss(loss: Loss, scores: Tensor, y: Tensor, goal: Goal) -> Tensor:
    """The loss for a goal; of a model that can refuse, the scores hold the refusal as their last column."""
    if isinstance(goal, Targeted):
        return targeted(loss, goal.judged(scores, y), y, torch.full_like(y, goal.label))
    if loss not in (Loss.BARE, Loss.SELECTIVE):
        return untargeted(loss, goal.judged(scores, y), y)
    bare = margin_over(unrefused(scores, goal), y)
    if loss is Loss.BARE:
        return bare
    accepted = goal.margin(scores, y)
    past = torch.where(accepted < 0, 1 / (1 - accepted.clamp(max=0)), 1 + accepted)
    return torch.where(bare < 0, bare, past)


def goal_loss_to(loss: Loss, scores: Tensor, y: Tensor, goal: Goal, label: Tensor) -> Tensor:
    """The loss of an untargeted goal with the answer ``label`` (int64 ``[n]``) in view."""
    return targeted(loss, goal.judged(scores, y), y, label)


def _pick(scores: Tensor, label: Tensor) -> Tensor:
    return scores.gather(1, label.unsqueeze(1)).squeeze(1)


def _log_sum_others(scores: Tensor, label: Tensor) -> Tensor:
    others = scores.scatter(1, label.unsqueeze(1), -torch.inf)
    return torch.logsumexp(others, dim=1) - _pick(scores, label)


def _dlr(scores: Tensor, y: Tensor) -> Tensor:
    if scores.shape[1] < 3:
        return margin_over(scores, y)
    top = scores.topk(3, dim=1).values
    return margin_over(scores, y) / (top[:, 0] - top[:, 2] + 1e-12)


_UNTARGETED: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    Loss.CE: _log_sum_others,
    Loss.MARGIN: margin_over,
    Loss.DLR: _dlr,
    Loss.BARE: margin_over,
    Loss.SELECTIVE: margin_over,
}
