"""A fast copy that follows a model in training: where the examples to learn from are searched for.

The weights change with every update, so what the twin of an assessment computes once (folding, rounding) is
computed again after each, into tensors that stay where they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from hardpoint.engine.guard import preserved_random_state
from hardpoint.engine.twin import (
    Twin,
    TwinPlan,
    build_twin,
    candidate_steps,
    folded_norms,
    times_of,
)
from hardpoint.models.base import Differentiable


class Shadow:
    """A copy of ``model`` in evaluation mode, built as ``plan`` says; ``follow`` takes over the model's weights.

    Args:
        model: the model in training.
        plan: how to copy it.
    """

    def __init__(self, model: Differentiable, plan: TwinPlan) -> None:
        self.plan, self._model = plan, model
        self._copy = copy.deepcopy(model.module).eval().requires_grad_(False)
        twin = build_twin(_Read(model, self._copy), plan)
        assert isinstance(twin, Twin)
        self._twin = twin
        self._norms = folded_norms(self._copy) if plan.folded else {}
        names = set(self._norms) | set(self._norms.values())
        held = dict(self._tensors(twin.module))
        own = dict(self._tensors(model.module))
        self._pairs = [
            (own[name], tensor)
            for name, tensor in held.items()
            if name in own and name.rpartition(".")[0] not in names
        ]

    @property
    def raw_scores(self) -> Callable[[Tensor], Tensor]:
        """Differentiable class scores ``[n, K]`` of ``[n, ...]`` inputs."""
        return self._twin.raw_scores

    @torch.no_grad()
    def follow(self) -> None:
        """Take over the weights that the model has now."""
        for source, target in self._pairs:
            target.copy_(source)
        for name, norm_name in self._norms.items():
            layer: Any = self._model.module.get_submodule(name)
            norm: Any = self._model.module.get_submodule(norm_name)
            fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
            weight, bias = fuse(
                layer.weight,
                layer.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            fused: Any = self._twin.module.get_submodule(name)
            fused.weight.copy_(weight)
            fused.bias.copy_(bias)

    @staticmethod
    def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        # under all their names: of weights that are tied, the copy may have folded one
        yield from module.named_parameters(remove_duplicate=False)
        yield from module.named_buffers(remove_duplicate=False)


class _Read:
    """``module`` read as ``model`` reads its own."""

    def __init__(self, model: Differentiable, module: nn.Module) -> None:
        self.module, self.module_scores = module, model.module_scores
        self.access, self.box, self.describe = model.access, model.box, model.describe

    def scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.module_scores(self.module(x))

    def predict(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)


def fastest_plan(model: Differentiable, x: Tensor) -> TwinPlan:
    """The plan whose copy gives gradients fastest on a batch like ``x`` ``[n, ...]``, by measurement.

    That a copy rounds differently does not matter here: training asks it where to look, and learns from the model.
    """
    best = TwinPlan()
    with preserved_random_state(seed=0):
        for step in (*candidate_steps(model, x), *_bfloat16_step(model, x)):
            plan = replace(best, **step)  # type: ignore[arg-type]
            try:
                shadows = [Shadow(model, best)._twin, Shadow(model, plan)._twin]
                before, after = times_of(list(shadows), x, turns=5)
            except (
                Exception
            ):  # copying, tracing, an operator without this dtype or layout: torch raises many kinds
                continue
            if after < 0.9 * before:
                best = plan
    return best


def _bfloat16_step(model: Differentiable, x: Tensor) -> list[dict[str, bool]]:
    """Fewer bits, for networks and inputs of float32."""
    kinds = {x.dtype, *(p.dtype for p in model.module.parameters())}
    return [{"bfloat16": True}] if kinds == {torch.float32} else []


@contextmanager
def resting_norms(module: nn.Module) -> Iterator[None]:
    """Norms in training mode normalise by the batch inside, or by the input, and learn nothing from it."""
    norms = [
        (m, m.running_mean, m.running_var)
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.training and m.track_running_stats
    ]
    try:
        for norm, _, _ in norms:  # instance norms learn whenever they have statistics
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
        yield
    finally:
        for norm, mean, variance in norms:
            norm.track_running_stats, norm.running_mean, norm.running_var = True, mean, variance
