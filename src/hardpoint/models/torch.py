"""A PyTorch module as a model."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import BadModelOutput, ModelError


def class_scores(output: Any, probabilities: bool) -> Tensor:
    """``[n, K]`` scores from what a module returned.

    One column (or none) is read as the logit of class 1 of two; probabilities become log-probabilities.

    Raises:
        BadModelOutput: for anything else.

    >>> class_scores(torch.tensor([0.5, -1.0]), probabilities=False)
    tensor([[-0.5000,  0.5000],
            [ 1.0000, -1.0000]])
    """
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        logits = getattr(output, "logits", None)  # the output object of common model libraries
        if not isinstance(logits, Tensor):
            raise BadModelOutput(
                f"the model returned {type(output).__name__}",
                "return one tensor of class scores [n, classes] from forward()",
            )
        output = logits
    scores: Tensor = output.unsqueeze(1) if output.dim() == 1 else output
    if scores.dim() != 2:
        raise BadModelOutput(
            f"the model returned a tensor of shape {tuple(scores.shape)}",
            "return class scores of shape [n, classes]",
        )
    if scores.shape[1] == 1:
        if probabilities:
            p = scores.clamp(torch.finfo(scores.dtype).tiny, 1.0)
            q = (1.0 - scores).clamp(torch.finfo(scores.dtype).tiny, 1.0)
            return torch.cat([q.log(), p.log()], dim=1)
        return torch.cat([-scores, scores], dim=1)
    if probabilities:
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return scores


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A ``torch.nn.Module`` in evaluation mode as a model.

    Args:
        module: maps a float batch ``[n, ...]`` to class scores ``[n, K]``, or to one logit ``[n]`` / ``[n, 1]``
            for two classes.
        input_range: ``(low, high)`` of valid inputs, numbers or tensors of one input's shape.
        probabilities: whether the module returns probabilities; their logarithm is used then.
        access: the highest rung to offer; lower it to assess the module as a black box.
        name: shown in reports; the class name by default.

    >>> model = TorchModel(nn.Linear(2, 3).eval(), input_range=(-1, 1))
    >>> model.predict(torch.zeros(4, 2)).shape
    torch.Size([4])
    """

    module: nn.Module
    input_range: Box | tuple[float | Tensor, float | Tensor] = (0.0, 1.0)
    probabilities: bool = False
    access: Access = Access.GRADIENTS
    name: str | None = None
    box: Box = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise ModelError(
                f"{type(self.module).__name__} is not a torch.nn.Module", "pass the module itself"
            )
        object.__setattr__(self, "access", Access.parse(self.access))
        object.__setattr__(self, "box", Box.of(self.input_range))

    @property
    def device(self) -> torch.device:
        """Where the module's parameters (or buffers) live; the CPU if it has none."""
        for tensor in itertools.chain(self.module.parameters(), self.module.buffers()):
            return tensor.device
        return torch.device("cpu")

    def module_scores(self, output: Any) -> Tensor:
        return class_scores(output, self.probabilities)

    def scores(self, x: Tensor) -> Tensor:
        if self.access < Access.SCORES:
            from hardpoint.core.errors import AccessDenied

            raise AccessDenied("this model offers labels only", 'use a threat with access="labels"')
        return self._scores(x)

    def predict(self, x: Tensor) -> Tensor:
        return self._scores(x).argmax(1)

    def _scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.module_scores(self.module(x.to(self.device))).to(x.device)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "torch",
            "name": self.name or type(self.module).__name__,
            "sha256": weights_sha256(self.module),
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "input_range": self.box.describe(),
        }


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a module's state, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict(keep_vars=True).items()):
        if not isinstance(tensor, Tensor):
            continue
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{flat.dtype}:{tuple(flat.shape)};".encode())
        digest.update(flat.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
