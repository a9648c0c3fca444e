"""The same PGD attack by every library, behind one function each.

All use the cross-entropy loss, sign steps of the same absolute length, the same number of steps, the box
[0, 1] and the same batch size. Where a library offers to skip work, its default is kept.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hardpoint as hp

OURS = "Hardpoint"
PEERS = {
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "ART": "adversarial-robustness-toolbox",
}


@dataclass(frozen=True)
class Job:
    """What every library is asked to do. ``device`` is where model and inputs are."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    step: float
    random_start: bool
    batch: int
    steps: int = 40


def hardpoint_pgd(job: Job) -> Tensor:
    attack = hp.attacks.PGD(steps=job.steps, step_size=job.step, random_start=job.random_start)
    return attack(job.model, job.x, job.y, hp.Linf(job.eps), batch_size=job.batch).adversarial


def foolbox_pgd(job: Job) -> Tensor:
    import foolbox

    model = foolbox.PyTorchModel(job.model, bounds=(0, 1), device=job.x.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=job.step, steps=job.steps, random_start=job.random_start)
    parts = _batches(job)
    return torch.cat([attack(model, x, y, epsilons=job.eps)[1] for x, y in parts])


def torchattacks_pgd(job: Job) -> Tensor:
    import torchattacks

    attack = torchattacks.PGD(job.model, job.eps, job.step, job.steps, job.random_start)
    return torch.cat([attack(x, y) for x, y in _batches(job)])


def art_pgd(job: Job) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    attack = ProjectedGradientDescentPyTorch(
        art_classifier(job.model, job.x),
        eps=job.eps,
        eps_step=job.step,
        max_iter=job.steps,
        num_random_init=int(job.random_start),
        batch_size=job.batch,
        verbose=False,
    )
    found = attack.generate(job.x.cpu().numpy(), job.y.cpu().numpy())
    return torch.from_numpy(found).to(job.x.device)


def art_classifier(model: nn.Module, x: Tensor) -> object:
    """ART's wrapper around a PyTorch model."""
    from art.estimators.classification import PyTorchClassifier

    logging.getLogger("art").setLevel(logging.ERROR)
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )


PGD: dict[str, Callable[[Job], Tensor]] = {
    OURS: hardpoint_pgd,
    "foolbox": foolbox_pgd,
    "torchattacks": torchattacks_pgd,
    "ART": art_pgd,
}


def version(tool: str) -> str:
    """The installed version of a library named as in ``PGD``."""
    return importlib.metadata.version(PEERS.get(tool, "hardpoint"))


def _batches(job: Job) -> list[tuple[Tensor, Tensor]]:
    return list(zip(job.x.split(job.batch), job.y.split(job.batch), strict=True))
