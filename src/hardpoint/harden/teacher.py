"""A network that teaches another."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.core.errors import ModelError
from hardpoint.core.rows import all_finite
from hardpoint.models.base import Model
from hardpoint.models.loading import load_model
from hardpoint.models.torch import TorchModel


class Teacher:
    """A model whose scores are learned: a copy that no training changes.

    Two teachers are equal where they are the same network with the same weights; a run knows its teacher by ``digest``
    and keeps nothing else of it.

    Args:
        model: a torch module, or anything else that ``load_model`` takes, with scores.

    Raises:
        ModelError: for a model that cannot be used.
    """

    def __init__(self, model: Any) -> None:
        found = TorchModel(model) if isinstance(model, nn.Module) else load_model(model)
        structure = ""
        if isinstance(found, TorchModel):
            module = copy.deepcopy(found.module).eval().requires_grad_(False)
            found, structure = replace(found, module=module), f"{module}{found.probabilities}"
        if found.access < Access.SCORES:
            raise ModelError("the teacher offers labels only", "give one with scores")
        self._model: Model = found
        told = json.dumps(found.describe(), sort_keys=True, default=str)
        self.digest = hashlib.sha256((told + structure).encode()).hexdigest()[:16]
        self._last: tuple[Tensor, Tensor] | None = None

    def scores(self, x: Tensor) -> Tensor:
        """``[b, K]``; the last batch's are kept, as one update asks twice. Raises ``ModelError`` where not finite."""
        if self._last is None or self._last[0] is not x:
            if isinstance(self._model, TorchModel):
                self._model.module.to(x.device)
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                found = self._model.scores(x.detach()).to(x.dtype)
            if not all_finite(found):
                raise ModelError("the teacher's scores are not finite", "give another teacher")
            self._last = x, found
        return self._last[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Teacher) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Teacher({self.digest})"
