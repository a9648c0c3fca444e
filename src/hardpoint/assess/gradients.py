"""Pre-flight check P6: does a usable gradient reach the input, and if not, which layer stops it?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.engine.bpda import masked_layers
from hardpoint.engine.crossing import Crossing
from hardpoint.evidence.finding import Finding, Severity, finding
from hardpoint.models.base import Differentiable
from hardpoint.threats.goals import margin_over

_ZERO_SHARE = 0.1


def gradient_findings(model: Differentiable, x: Tensor) -> list[Finding]:
    """HP107 where gradients are missing, not finite, or zero for more than a tenth of the inputs ``x``."""
    try:
        module = copy.deepcopy(model.module).requires_grad_(False)
    except Exception:  # what cannot be copied is checked as it is; nothing below writes to it
        module = model.module
    outputs: list[tuple[str, Tensor]] = []
    handles = [
        layer.register_forward_hook(_keep(name, outputs))
        for name, layer in module.named_modules()
        if name and not list(layer.children())
    ]
    try:
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), x.dtype)
            scores = model.module_scores(module(point.to(dtype)))
            value = margin_over(scores, scores.argmax(1)).sum()
            tracked = [(name, out) for name, out in outputs if out.requires_grad]
            gradients = (
                torch.autograd.grad(value, [point, *(out for _, out in tracked)], allow_unused=True)
                if value.requires_grad
                else [None] * (1 + len(tracked))
            )
    except RuntimeError as error:
        return [finding("HP107", f"the backward pass fails: {error}", severity=Severity.FAIL)]
    finally:
        for handle in handles:
            handle.remove()
    to_input = gradients[0]
    if to_input is None:
        zero_share = 1.0
    elif not bool(torch.isfinite(to_input).all()):
        return [finding("HP107", "the gradient at the input holds NaN or infinity", severity=Severity.FAIL)]
    else:
        zero_share = float((to_input == 0).flatten(1).all(1).double().mean())
    if zero_share <= _ZERO_SHARE:
        return []
    reached = {
        name: g is not None and bool((g != 0).any())
        for (name, _), g in zip(tracked, gradients[1:], strict=True)
    }
    culprit = _culprit([(name, out.requires_grad) for name, out in outputs], reached)
    message = f"the gradient is zero for {100 * zero_share:.0f} % of the pilot inputs" + (
        f"; it stops at layer {culprit!r}" if culprit else ""
    )
    return [finding("HP107", message, measured=zero_share, threshold=_ZERO_SHARE)]


def masking_findings(
    model: Differentiable, x: Tensor
) -> tuple[list[Finding], tuple[tuple[str, Crossing], ...]]:
    """HP113 for each layer that changes by jumps which its gradient does not show, and how to cross those that can
    be crossed."""
    try:
        masked = masked_layers(model.module, x)
    except Exception:  # a model asked layer by layer may fail in ways that it does not as a whole
        return [], ()
    found = [
        finding(
            "HP113",
            f"layer {layer.name or 'forward()'!r}: "
            f"its gradient leaves out {100 * layer.change_share:.0f} % of what it does"
            + ("; the search crosses it straight through" if layer.replaceable else ""),
            measured=layer.change_share,
            threshold=0.05,
        )
        for layer in masked
    ]
    return found, tuple((layer.name, layer.crossing) for layer in masked if layer.crossing is not None)


def _keep(name: str, outputs: list[tuple[str, Tensor]]) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            outputs.append((name, output))

    return hook


def _culprit(order: list[tuple[str, bool]], reached: dict[str, bool]) -> str | None:
    """The layer that stops the gradient, or lies just behind what does.

    Going back from the scores, that is the last layer whose output still gets a gradient; where none does, the
    first layer whose output no longer depends on the input as far as autograd can tell.
    """
    with_gradient = [name for name, _ in order if reached.get(name)]
    cut_off = [name for name, tracked in order if not tracked]
    return next(iter([*with_gradient, *cut_off, *(name for name, _ in order[-1:])]), None)
