"""What a model answers, by the rules by which it is judged."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.engine.clean import answers_vary, clean_answers
from hardpoint.engine.guard import preserved_random_state
from hardpoint.models.base import Model


def answers(model: Model, x: Tensor, seed: int = 0) -> Tensor:
    """int64 ``[n]``: the answers to ``x`` ``[n, ...]``, refusals included; of a random model those it gives most often.

    Random states are left as they were.

    >>> from hardpoint.models import TorchModel
    >>> answers(TorchModel(torch.nn.Linear(2, 2).eval()), torch.rand(3, 2)).shape
    torch.Size([3])
    """
    seen = min(model.access, Access.SCORES)
    with preserved_random_state(seed=seed % 2**63):
        varies = answers_vary(model, seen, x[:64])
        return clean_answers(model, seen, x, torch.arange(len(x)), is_random=varies).labels
