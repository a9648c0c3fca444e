"""One forward pass that feeds all detectors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.errors import ModelError, NonFiniteOutput, NothingToTest
from hardpoint.core.rows import all_finite, chunks
from hardpoint.core.suggest import did_you_mean
from hardpoint.defenses.seen import Seen, join
from hardpoint.engine.clean import checked_scores
from hardpoint.engine.guard import refuse_training_layers
from hardpoint.engine.layer_calls import tensor_of
from hardpoint.models.torch import class_scores

_LAST_AXIS = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)
_SECOND_AXIS_1D = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d)


def _logits(output: Any) -> Tensor:
    return class_scores(output, probabilities=False)


def look(
    module: nn.Module,
    x: Tensor,
    layers: Sequence[str] = (),
    chunk: int = 256,
    *,
    read: Callable[[Any], Tensor] = _logits,
    allow_training: tuple[str, ...] | None = (),
) -> Seen:
    """``x`` after one forward pass, with the outputs of the named layers.

    Outputs are averaged over positions: all axes but the row and the channel, which is the second of images and, in
    networks with one-dimensional convolutions, of sequences, and the last of tokens and of layers that act on the last.
    A layer that is called more than once shows its last call. Gradients are kept where ``x`` requires them.

    Args:
        module: maps ``[n, ...]`` to class scores, as ``TorchModel`` does.
        x: ``[n, ...]``.
        layers: names as in ``module.named_modules()``.
        chunk: the largest batch.
        read: the class scores in the module's output, as an adapter's ``module_scores`` does.
        allow_training: layers that may be in training mode, such as dropout for ``PredictiveUncertainty``; None where
            someone else has looked.

    Raises:
        ModelError: for an unknown layer, naming close ones; a layer that is not called; one with no row per input.
        NonFiniteOutput: for scores that are NaN or infinite, naming the row.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10)).eval()
    >>> look(net, torch.zeros(2, 3, 8, 8), ["0"]).features["0"].shape
    torch.Size([2, 8])
    """
    if len(x) == 0:
        raise NothingToTest("there is no input to look at", "give at least one")
    if allow_training is not None:
        refuse_training_layers(module, allow_training)
    return look_through(module, x, taps_of(module, layers), read, chunk)


@dataclass(frozen=True, eq=False)
class Tap:
    """A layer whose output is looked at."""

    name: str
    layer: nn.Module
    in_tokens: bool

    def averaged(self, output: Tensor | None, n: int) -> Tensor:
        """``[n, d]``, over positions."""
        if output is None:
            raise ModelError(
                f"layer {self.name!r} was not called, or returned no floating-point tensor",
                "name a layer that the forward pass uses and that returns one",
            )
        axes = output.dim()
        if axes < 2 or len(output) != n:
            raise ModelError(
                f"layer {self.name!r} returned shape {tuple(output.shape)} for {n} inputs",
                "name a layer that keeps a row per input",
            )
        if axes == 2:
            return output
        last = isinstance(self.layer, _LAST_AXIS) or (axes == 3 and self.in_tokens)
        channel = axes - 1 if last else 1
        return output.mean([d for d in range(1, axes) if d != channel])


def taps_of(module: nn.Module, layers: Sequence[str]) -> tuple[Tap, ...]:
    """The named layers; raises ``ModelError`` for an unknown one."""
    in_tokens = bool(layers) and _counts_tokens(module)
    return tuple(Tap(name, _layer(module, name), in_tokens) for name in layers)


def look_through(
    module: nn.Module, x: Tensor, taps: Sequence[Tap], read: Callable[[Any], Tensor], chunk: int = 256
) -> Seen:
    """``look`` where the layers have been found, which takes as long as the rest where there is one input."""

    def scores_of(z: Tensor) -> Tensor:
        with _tracking(z):
            return torch.cat([_pass(module, part, (), read)[0] for part in chunks(z, chunk)])

    with _tracking(x):
        parts = [Seen(part, *_pass(module, part, taps, read), scores_of) for part in chunks(x, chunk)]
        seen = parts[0] if len(parts) == 1 else replace(join(parts), x=x)
    if not all_finite(seen.logits):
        row = int((~torch.isfinite(seen.logits).all(1)).nonzero()[0])
        raise NonFiniteOutput(
            f"the scores of row {row} are not finite", "look at that input, then at the model"
        )
    return seen


def _layer(module: nn.Module, name: str) -> nn.Module:
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        layer = module
    if layer is module:
        known = [other for other, _ in module.named_modules() if other]
        raise ModelError(f"the model has no layer {name!r}", did_you_mean(name, known))
    return layer


def _tracking(x: Tensor) -> Any:
    """No graph where nobody asks for a gradient: it would hold every activation."""
    return nullcontext() if x.requires_grad or not torch.is_grad_enabled() else torch.no_grad()


def _pass(
    module: nn.Module, x: Tensor, taps: Sequence[Tap], read: Callable[[Any], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scores and the layers' last outputs in this thread; hooks are shared by all threads that use the module."""
    taken: dict[str, Tensor | None] = {}
    thread = threading.get_ident()

    def hook(name: str) -> Callable[..., None]:
        def take(_layer: nn.Module, _args: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                tensor = tensor_of(output)
                taken[name] = None if tensor is None else tensor.clone()  # the next layer may write in place

        return take

    handles = []
    try:
        handles += [tap.layer.register_forward_hook(hook(tap.name)) for tap in taps]
        scores = checked_scores(read(module(x)), len(x))
    finally:
        for handle in handles:
            handle.remove()
    return scores, {tap.name: tap.averaged(taken.get(tap.name), len(x)) for tap in taps}


def _counts_tokens(module: nn.Module) -> bool:
    """Whether three axes are those of tokens, and not those of sequences that a convolution slides over."""
    layers = list(module.modules())
    mixes_tokens = any(isinstance(m, nn.LayerNorm | nn.Embedding) for m in layers)
    return mixes_tokens or not any(isinstance(m, _SECOND_AXIS_1D) for m in layers)
