"""The layer whose features are read where none is named."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.errors import ModelError
from hardpoint.engine.guard import preserved_random_state
from hardpoint.engine.layer_calls import tensor_of

_PASSED_OVER = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


def last_hidden_layer(module: nn.Module, x: Tensor) -> str:
    """The name of the layer in front of the last one with weights: what the class scores are made of.

    Layers that only reshape or drop are passed over, so that the features of images keep their channels and are
    averaged over positions. One pass over ``x`` ``[n, ...]`` shows it; what functions compute between layers does not
    count.

    Raises:
        ModelError: where there is no such layer.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)).eval()
    >>> last_hidden_layer(net, torch.rand(2, 4))
    '1'
    """
    called: list[str] = []
    handles = []

    def hook(name: str) -> Any:
        def note(_layer: nn.Module, _args: Any, output: Any) -> None:
            tensor = tensor_of(output)
            if tensor is not None and tensor.dim() >= 2 and len(tensor) == len(x):
                called.append(name)

        return note

    leaves = {name: m for name, m in module.named_modules() if name and not any(m.children())}
    try:
        handles += [leaf.register_forward_hook(hook(name)) for name, leaf in leaves.items()]
        with torch.no_grad(), preserved_random_state():
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    weighted = [place for place, name in enumerate(called) if any(True for _ in leaves[name].parameters())]
    before = called[: weighted[-1]] if weighted else []
    for name in reversed(before):
        if not isinstance(leaves[name], _PASSED_OVER):
            return name
    raise ModelError("the network has no hidden layer to read features from", "name the layer to read")
