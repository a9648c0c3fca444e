"""Leaving things as they were: random state, gradients' bookkeeping, train/eval flags."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from hardpoint.core.errors import ModelInTrainingMode


@contextmanager
def preserved_random_state(seed: int | None = None) -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch on exit; seed them inside if asked.

    Hardpoint draws nothing from them, but models may (dropout left on, random resizing).

    >>> before = torch.get_rng_state()
    >>> with preserved_random_state(seed=1):
    ...     _ = torch.rand(3)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast and no TF32 inside: on recent GPUs float32 convolutions otherwise round to 10 bits."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.backends.cuda.matmul.allow_tf32 = matmul


@contextmanager
def frozen_parameters(module: nn.Module) -> Iterator[None]:
    """Parameters without ``requires_grad`` inside, as before outside; gradients of weights cost a third of a
    backward pass and nobody here wants them."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in wanted:
            p.requires_grad_(False)
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


def training_layers(module: nn.Module, allowed: tuple[str, ...] = ()) -> list[str]:
    """Names of layers in training mode whose answers depend on it, the ``allowed`` ones left out.

    Containers in training mode are harmless and not named, unless nothing below them tells the mode.

    >>> training_layers(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    ['1']
    """
    mode_dependent = (
        nn.modules.batchnorm._NormBase,
        nn.modules.dropout._DropoutNd,
        nn.RReLU,
        nn.MultiheadAttention,
        nn.RNNBase,
    )
    named = [
        name or type(module).__name__
        for name, layer in module.named_modules()
        if layer.training and (isinstance(layer, mode_dependent) or _reads_mode(layer))
    ]
    return [name for name in named if name not in allowed]


def refuse_training_layers(module: nn.Module, allowed: tuple[str, ...] = ()) -> None:
    """Raise ``ModelInTrainingMode`` for the first layer whose answers depend on the mode it is in.

    >>> refuse_training_layers(nn.Dropout(0.5).eval())
    """
    for name in training_layers(module, allowed):
        raise ModelInTrainingMode(f"layer {name!r} is in training mode", "call model.eval() first")


def _reads_mode(layer: nn.Module) -> bool:
    """Whether a user-written forward looks at ``self.training``."""
    if type(layer).__module__.startswith("torch."):
        return False
    code = getattr(type(layer).forward, "__code__", None)
    return code is not None and "training" in code.co_names
