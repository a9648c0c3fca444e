"""The attacker's own models, which give the gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import HardpointError, ModelError, ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Task
from hardpoint.engine.guard import frozen_parameters, refuse_training_layers
from hardpoint.engine.twin import Twin, TwinPlan
from hardpoint.models.base import Differentiable
from hardpoint.models.loading import load_model


def load_surrogates(given: Any) -> tuple[Differentiable, ...]:
    """The models that ``given``, one or several of what ``load_model`` takes, stands for.

    A module, an ONNX file, or what a factory makes of one, is taken to share the target's input range.

    Raises:
        ThreatError: where there is none, or one has no gradients.
        ModelInTrainingMode: naming the layer.
    """
    several = given if isinstance(given, tuple | list) else (given,)
    if not several:
        raise ThreatError("there is no surrogate", "give at least one model of your own")
    models = []
    for spec in several:
        try:
            model = load_model(spec, usual_range=UNBOUNDED)
        except ModelError as error:
            raise ModelError(f"a surrogate cannot be loaded: {error.what}", error.cure) from error
        if not isinstance(model, Differentiable):
            raise ThreatError(
                f"the surrogate {type(model).__name__} has no gradients", "use a torch or ONNX model"
            )
        refuse_training_layers(model.module)
        models.append(model)
    return tuple(models)


def check_surrogates(models: tuple[Differentiable, ...], box: Box) -> None:
    """Raise ``ThreatError`` for a surrogate that takes inputs in another range than the target's ``box``,
    ``ModelInTrainingMode`` for one that was put into training mode since it was loaded."""
    for model in models:
        refuse_training_layers(model.module)
        if model.box.is_bounded and model.box.describe() != box.describe():
            raise ThreatError(
                f"a surrogate takes inputs in {model.box.describe()}, the target in {box.describe()}",
                "wrap the surrogate so that it takes what the target takes",
            )


def check_against(models: tuple[Differentiable, ...], x: Tensor, box: Box, classes: int | None) -> None:
    """As ``check_surrogates``, and raise ``ThreatError`` for a surrogate that cannot take the target's inputs ``x``, or
    has other classes than its ``classes``, where these are known."""
    check_surrogates(models, box)
    for model in models:
        try:
            found = model.scores(x[:1].to(getattr(model, "device", x.device))).shape[1]
        except (HardpointError, RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ThreatError(
                f"a surrogate cannot take inputs of shape {tuple(x.shape[1:])} ({str(error).splitlines()[0]})",
                "use surrogates for the target's inputs",
            ) from error
        if classes is not None and found != classes:
            raise ThreatError(
                f"a surrogate has {found} classes, the target {classes}",
                "use surrogates for the target's classes",
            )


@contextmanager
def frozen(models: tuple[Differentiable, ...]) -> Iterator[None]:
    """The models' parameters without ``requires_grad`` inside."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(frozen_parameters(model.module))
        yield


def mean_scores(models: tuple[Differentiable, ...], x: Tensor) -> Tensor:
    """``[n, K]``: the models' scores averaged, differentiably (Dong et al., CVPR 2018, section 3.3: an ensemble in
    logits transfers better than one in probabilities or in losses).

    Raises:
        ThreatError: where the models disagree on the number of classes.
    """
    total: Tensor | None = None
    for model in models:
        home = getattr(model, "device", x.device)
        scores = Twin(model, model.module, TwinPlan(copied=False)).raw_scores(x.to(home)).to(x.device)
        if total is not None and scores.shape != total.shape:
            raise ThreatError(
                f"the surrogates have {total.shape[1]} and {scores.shape[1]} classes",
                "use surrogates for the same classes",
            )
        total = scores if total is None else total + scores
    assert total is not None
    return total / len(models)


def check_classes(scores: Tensor, task: Task) -> None:
    """Raise ``ThreatError`` where a label is not among the surrogates' classes."""
    wanted = max(int(task.y.max()), int(getattr(task.goal, "label", 0)))
    if wanted >= scores.shape[1]:
        raise ThreatError(
            f"label {wanted} is not among the surrogates' {scores.shape[1]} classes",
            "use surrogates for the target's classes",
        )


def gradient_of(value: Tensor, point: Tensor) -> Tensor:
    """The gradient of ``value.sum()`` at ``point``; 0 for rows where it is not finite."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    gradient = torch.autograd.grad(value.sum(), point, materialize_grads=True)[0]
    finite = torch.isfinite(gradient).flatten(1).all(1)
    return torch.where(per_row(finite, point), gradient, 0.0)
