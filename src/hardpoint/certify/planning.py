"""From what ``certify`` is given to what its stages need; what cannot be certified is refused here."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from hardpoint.bounds.ball import allowed
from hardpoint.bounds.certified import in_double, provable
from hardpoint.bounds.execution import refuse_coarse
from hardpoint.bounds.graph import Network
from hardpoint.bounds.inputs import refuse_inputs, refuse_labels
from hardpoint.bounds.onnx import graphs_of
from hardpoint.bounds.tracing import traced
from hardpoint.certify.cascade import Certifiable, Method, Plan
from hardpoint.core.box import Box
from hardpoint.core.errors import (
    BadModelOutput,
    ConfigError,
    DataError,
    ModelError,
    NothingToTest,
    ThreatError,
)
from hardpoint.data import Dataset
from hardpoint.engine.guard import full_precision
from hardpoint.evidence.certificate import Level
from hardpoint.models.base import Model
from hardpoint.models.loading import load_model
from hardpoint.models.onnx import OnnxModel
from hardpoint.models.onnx.graph import GraphModule
from hardpoint.models.torch import TorchModel
from hardpoint.threats.goals import Untargeted
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

E = TypeVar("E", Level, Method)


def planned(
    model: nn.Module | Certifiable | str,
    x: Tensor,
    y: Tensor,
    threat: Threat | Perturbation,
    method: Method | str,
    soundness: Level | str,
    seconds: float,
    seed: int,
) -> Plan:
    """What ``certify`` is to do, checked; raises as it does."""
    known = as_network(load_model(model))
    if isinstance(known, TorchModel):
        provable(known, x, y)
    else:
        refuse_inputs(x, known.box)
        refuse_labels(y, len(x))
    level = parsed(Level, soundness, "soundness")
    if level is Level.DEPLOYED:
        own = [known.input_dtype] if isinstance(known, OnnxModel) else []
        refuse_coarse(known.module, x.dtype, *own)
    perturbation = certifiable(threat, x[:1], known.box)
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds_per_input is {seconds}", "give a finite number above 0")
    with full_precision():
        network = _network(known, x[:1])
        answer = network.exact(x[:1].double())
    if answer.dim() != 2:
        raise _not_scores(answer)
    classes = answer.shape[1]
    if int(y.max()) >= max(2, classes):
        raise DataError(
            f"there is a label {int(y.max())}, the model has {classes} classes", "give labels it has"
        )
    return Plan(
        known,
        network,
        perturbation,
        classes,
        level,
        parsed(Method, method, "method"),
        float(seconds),
        seed,
    )


def _not_scores(answer: Tensor) -> BadModelOutput:
    return BadModelOutput(f"each input has scores of shape {tuple(answer.shape[1:])}", "return [n, classes]")


def _network(model: Certifiable, x: Tensor) -> Network:
    """Both graphs of a model, checked at ``x``."""
    if isinstance(model, TorchModel):
        exact = traced(in_double(model.module), x.double())
        return Network(exact, traced(in_double(model.module).float(), x.float()))
    assert isinstance(model.module, GraphModule)
    answer = model.module(x.to(model.input_dtype))
    if answer.dim() > 2 and answer.shape[2:].numel() != 1:
        raise _not_scores(answer)
    return graphs_of(model.module, x)


def as_network(model: Model) -> Certifiable:
    """The model, where it is a torch network or an ONNX file that torch can follow.

    Raises:
        ModelError: for any other.
    """
    if isinstance(model, TorchModel):
        return model
    if not isinstance(model, OnnxModel):
        raise ModelError(
            f"{type(model).__name__} is no network, which is what bounds are known for",
            "give a torch module or an ONNX file; trees have hardpoint.bounds.trees",
        )
    if model.reads_probabilities:
        raise ModelError(f"{model.path} answers probabilities", "export the scores before them")
    if not model.input_dtype.is_floating_point:
        raise ModelError(f"{model.path} takes {model.input_dtype}", "certify a network of real numbers")
    if not isinstance(getattr(model, "module", None), GraphModule):
        why = "; ".join(model.notes) or f"it was opened with access={model.access.word!r}"
        raise ModelError(
            f"no bound is known for {model.path}: {why}",
            "open it with gradients, exported with operators that hardpoint.models.onnx differentiates",
        )
    return model


def certifiable(threat: Threat | Perturbation, x: Tensor, box: Box) -> Perturbation:
    """What the attacker may change, where proofs can speak about it.

    Args:
        threat: what is to be certified against.
        x: ``[1, ...]``, one input.
        box: the model's input range.

    Raises:
        ThreatError: for a targeted threat, and a change that no bound is known for.
        ConfigError: for a size that is not finite.
    """
    wanted = Threat.of(threat)
    if not isinstance(wanted.goal, Untargeted):
        raise ThreatError(
            "a targeted threat cannot be certified", "certify against the untargeted one: it holds more"
        )
    if not math.isfinite(wanted.perturbation.eps):
        raise ConfigError(
            f"eps is {wanted.perturbation.eps}",
            "give a finite number of 0 or more; features in linf reach all with 1",
        )
    allowed(x, box, wanted.perturbation)  # refuses what has no bounds
    return wanted.perturbation


def gathered(data: Dataset) -> tuple[Tensor, Tensor]:
    """All inputs and labels of a data set, on the processor."""
    if not len(data):
        raise NothingToTest("there are no inputs", "give at least one")
    x, y = data.rows(torch.arange(len(data)))
    return x.cpu(), y.cpu().long()


def parsed(kind: type[E], value: E | str, what: str) -> E:
    """The member of ``kind`` that ``value`` names; an error that says which there are, where it names none."""
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(repr(each.value) for each in kind)
        raise ConfigError(f"{what} is {value!r}", f"give one of {names}") from None
