"""Endpoints that tests talk to, over an injected transport."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hardpoint.models import HttpModel

httpx = pytest.importorskip("httpx")

Handler = Callable[[Any], Any]
X = torch.rand(7, 4, generator=torch.Generator().manual_seed(0))
SECRET = "Bearer tr0ub4dor"


def answer(request: Any) -> Any:
    """Scores of a fixed linear model: class k scores x[k]."""
    rows = json.loads(request.content)["inputs"]
    return httpx.Response(200, json={"scores": [row[:3] for row in rows]})


def model(handler: Handler = answer, **settings: Any) -> HttpModel:
    settings.setdefault("sleep", lambda seconds: None)
    settings.setdefault("url", "http://api.test/predict")
    return HttpModel(transport=httpx.MockTransport(handler), **settings)


def fixed(payload: Any, status: int = 200, **settings: Any) -> HttpModel:
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return model(lambda request: httpx.Response(status, content=content), **settings)
