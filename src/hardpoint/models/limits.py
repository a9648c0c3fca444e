"""A model that shows less than it could."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import AccessDenied
from hardpoint.models.base import Model, refusal_of


class LimitedModel:
    """``model`` behind a door that opens no further than ``access``; made by ``limit_access``."""

    def __init__(self, model: Model, access: Access) -> None:
        self._model = model
        self._access = access

    @property
    def access(self) -> Access:
        return self._access

    @property
    def box(self) -> Box:
        return self._model.box

    @property
    def refusal(self) -> int | None:
        """As the model's."""
        return refusal_of(self._model)

    @property
    def device(self) -> torch.device:
        """Where the model computes; the CPU where it does not say."""
        device = getattr(self._model, "device", None)
        return device if isinstance(device, torch.device) else torch.device("cpu")

    def scores(self, x: Tensor) -> Tensor:
        if self._access < Access.SCORES:
            raise AccessDenied("this model offers labels only", 'use a threat with access="labels"')
        return self._model.scores(x.detach()).detach()

    def predict(self, x: Tensor) -> Tensor:
        return self._model.predict(x.detach())

    def describe(self) -> dict[str, Any]:
        return {**self._model.describe(), "access": self._access.word}


def limit_access(model: Model, access: Access | str) -> Model:
    """``model`` as an attacker with no more than ``access`` meets it.

    Below gradients the result has no ``module``; at labels its ``scores`` raises ``AccessDenied``.

    Raises:
        AccessDenied: when the model offers less than ``access``.

    >>> from hardpoint.models import TorchModel
    >>> from torch import nn
    >>> hasattr(limit_access(TorchModel(nn.Linear(2, 3)), "scores"), "module")
    False
    """
    access = Access.parse(access)
    if access > model.access:
        raise AccessDenied(
            f"the model offers {model.access.word}, not {access.word}",
            f'use a threat with access="{model.access.word}"',
        )
    if access == Access.GRADIENTS or (isinstance(model, LimitedModel) and access == model.access):
        return model
    return LimitedModel(model, access)
