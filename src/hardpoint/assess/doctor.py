"""Pre-flight checks: is the model in a state in which a robustness number means anything?

The checks P1 to P9 cost a few passes over a few dozen inputs. Each gives a finding with what was measured, or
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.assess.gradients import gradient_findings, masking_findings
from hardpoint.core.access import Access
from hardpoint.core.errors import (
    BadModelOutput,
    DataError,
    HardpointError,
    ModelInTrainingMode,
    NonFiniteOutput,
)
from hardpoint.data.checks import looks_normalised
from hardpoint.defenses.defended import DefendedModel, defended_network
from hardpoint.engine.clean import first_answer
from hardpoint.engine.crossing import Crossing
from hardpoint.engine.guard import preserved_random_state, training_layers
from hardpoint.evidence.finding import Finding, Severity, finding
from hardpoint.models.base import Differentiable, Model, refusal_of
from hardpoint.models.torch import TorchModel

_CONFIDENT_GAP = 17.0  # exp(-17) is the float32 rounding of 1: softmax of the other classes underflows beyond
_BATCH_TOLERANCE = 1e-3
_ENOUGH = 16  # inputs from which on single outputs that all lie in [0, 1] are taken for probabilities


@dataclass(frozen=True)
class Diagnosis:
    """What the checks found, and the model to go on with.

    Attributes:
        model: the model, declared as returning probabilities where it turned out to.
        findings: in order of the checks.
        classes: how many scores the model returns; None for labels-only models.
        is_random: whether two passes differ.
        crossings: the layers that mask gradients, and how a search may cross them.
    """

    model: Model
    findings: tuple[Finding, ...]
    classes: int | None
    is_random: bool = False
    crossings: tuple[tuple[str, Crossing], ...] = ()

    @property
    def misleading(self) -> tuple[str, ...]:
        """Ids of findings that say gradients cannot be trusted, not even where they cross masking layers."""
        return tuple(f.id for f in self.findings if f.id in _MISLEADING and not self.crossings)

    def raise_if_unusable(self) -> None:
        """Raise the error for the first finding that makes every number meaningless."""
        for found in self.findings:
            if found.severity is Severity.FAIL and found.id in _FATAL:
                raise _FATAL[found.id](found.message, found.cure)


_MISLEADING = {"HP107", "HP108", "HP110", "HP113"}
_FATAL: dict[str, type[HardpointError]] = {
    "HP101": ModelInTrainingMode,
    "HP102": NonFiniteOutput,
    "HP103": BadModelOutput,
    "HP201": DataError,
}


def diagnose(model: Model, x: Tensor, access: Access, *, allow_training: tuple[str, ...] = ()) -> Diagnosis:
    """Run the pre-flight checks.

    Args:
        model: the model.
        x: some inputs ``[n, ...]``, on the model's device; the first 64 are used.
        access: what the attacker will see; checks that need more are skipped.
        allow_training: names of layers that may be in training mode.
    """
    x = x[:64]
    with preserved_random_state(seed=0):
        return _diagnose(model, x, min(access, model.access), allow_training)


def _diagnose(model: Model, x: Tensor, access: Access, allow_training: tuple[str, ...]) -> Diagnosis:
    found = [*_training(model, allow_training), *_input_range(model, x)]
    if any(f.severity is Severity.FAIL for f in found):
        return Diagnosis(model, tuple(found), None)
    if access < Access.SCORES:
        return _diagnose_labels(model, x, found)
    try:
        with _watched_gradients() as used_gradients:
            scores = first_answer(model.scores, x)
    except BadModelOutput as error:
        return Diagnosis(model, (*found, finding("HP103", error.what, cure=error.cure)), None)
    if scores.dim() != 2 or len(scores) != len(x) or scores.shape[1] < 2:
        return Diagnosis(
            model,
            (*found, finding("HP103", f"the scores have shape {tuple(scores.shape)} for {len(x)} inputs")),
            None,
        )
    if not bool(torch.isfinite(scores).all()):
        where = first_bad_layer(model, x)
        message = "the model returns NaN or infinity" + (
            f"; the first layer to do so is {where!r}" if where else ""
        )
        return Diagnosis(model, (*found, finding("HP102", message)), None)
    model, scores, told = _probabilities(model, x, scores)
    found += told
    again = model.scores(x)
    is_random = not torch.equal(scores, again)
    if is_random:
        changed = float((scores.argmax(1) != again.argmax(1)).double().mean())
        gap = float((scores - again).abs().max())
        found.append(
            finding(
                "HP105",
                f"scores change by up to {gap:.3g} between two passes over the same inputs; "
                f"{100 * changed:.0f} % of the answers change",
                measured=gap,
                threshold=0.0,
            )
        )
    else:
        found += _batch_dependence(model, x, scores)
    if used_gradients():
        found.append(finding("HP108", "the model called torch.autograd while predicting"))
    found += _scores_shape(model, x, scores, is_random)
    crossings: tuple[tuple[str, Crossing], ...] = ()
    if access is Access.GRADIENTS and isinstance(model, Differentiable):
        found += gradient_findings(model, x)
        told, crossings = masking_findings(model, x)
        found += told
    classes = refusal_of(model) or scores.shape[1]
    return Diagnosis(model, tuple(found), classes, is_random, crossings)


def _diagnose_labels(model: Model, x: Tensor, found: list[Finding]) -> Diagnosis:
    first, again = first_answer(model.predict, x), model.predict(x)
    is_random = not torch.equal(first, again)
    if is_random:
        share = float((first != again).double().mean())
        found.append(
            finding("HP105", f"{100 * share:.0f} % of the answers change between two passes", measured=share)
        )
    if len(x) > 1 and bool((first == first[0]).all()):
        found.append(finding("HP112", f"all {len(x)} pilot inputs get the label {int(first[0])}"))
    return Diagnosis(model, tuple(found), refusal_of(model), is_random)


def _training(model: Model, allowed: tuple[str, ...]) -> list[Finding]:
    """P1."""
    if not isinstance(model, Differentiable):
        return []
    return [
        finding(
            "HP101",
            f"layer {name!r} is in training mode",
            cure=f'call model.eval(), or pass allow_training=("{name}",)',
        )
        for name in training_layers(model.module, allowed)
    ]


def _input_range(model: Model, x: Tensor) -> list[Finding]:
    """P4."""
    inside = model.box.contains(x)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        low, high = float(x[row].min()), float(x[row].max())
        return [
            finding(
                "HP201",
                f"input {row} spans [{low:.4g}, {high:.4g}], the model's input range is {model.box.describe()}",
            )
        ]
    if x.dim() >= 4 and looks_normalised(x):
        return [finding("HP202", f"pixels span [{float(x.min()):.3g}, {float(x.max()):.3g}] around zero")]
    return []


def _probabilities(model: Model, x: Tensor, scores: Tensor) -> tuple[Model, Tensor, list[Finding]]:
    """P3: a torch model that returns probabilities is taken at its logarithm from here on."""
    inner = model.undefended if isinstance(model, DefendedModel) else model
    if not isinstance(inner, TorchModel) or inner.probabilities:
        return model, scores, []
    whole, scores = scores, scores[:, : refusal_of(model)]
    sums_to_one = bool(((scores.sum(1) - 1).abs() < 1e-3).all()) and float(scores.min()) >= 0
    # A single output p is read as the scores (-p, p). Logits would be below 0 for the inputs of one class.
    single = scores.shape[1] == 2 and bool((scores[:, 0] == -scores[:, 1]).all()) and len(x) >= _ENOUGH
    in_unit = single and float(scores[:, 1].min()) >= 0 and float(scores[:, 1].max()) <= 1
    if not sums_to_one and not in_unit:
        return model, whole, []
    read = replace(inner, probabilities=True)
    model = defended_network(read, model.stages, model.alarms) if isinstance(model, DefendedModel) else read
    message = (
        f"all {len(x)} rows are non-negative and sum to 1" if sums_to_one else "all outputs lie in [0, 1]"
    )
    return model, model.scores(x), [finding("HP104", message)]


def _batch_dependence(model: Model, x: Tensor, together: Tensor) -> list[Finding]:
    """P5, second half: the same inputs alone."""
    few = min(8, len(x))
    alone = torch.cat([model.scores(x[i : i + 1]) for i in range(few)])
    spread = float((together - together.mean(1, keepdim=True)).abs().max()) or 1.0
    gap = float((alone - together[:few]).abs().max()) / spread
    if gap <= _BATCH_TOLERANCE:
        return []
    message = f"scores of an input alone and within a batch differ by {100 * gap:.2g} % of their range"
    return [finding("HP106", message, measured=gap, threshold=_BATCH_TOLERANCE)]


def _scores_shape(model: Model, x: Tensor, scores: Tensor, is_random: bool) -> Iterator[Finding]:
    """P8 and P9."""
    top = scores.topk(2, dim=1).values
    gap = float((top[:, 0] - top[:, 1]).max())
    if gap > _CONFIDENT_GAP:
        yield finding(
            "HP109", f"the best score leads by up to {gap:.0f}", measured=gap, threshold=_CONFIDENT_GAP
        )
    if len(x) > 1 and bool((scores.argmax(1) == scores[0].argmax()).all()):
        yield finding("HP112", f"all {len(x)} pilot inputs get the label {int(scores[0].argmax())}")
    if is_random:
        return
    low, high = model.box.bounds_like(x)
    width = torch.where(torch.isfinite(high - low), high - low, x.std().clamp_min(1e-6))
    noise = torch.linspace(-1, 1, x[0].numel(), device=x.device, dtype=x.dtype).view_as(x[0]) * 1e-4 * width
    moved = model.box.clamp(x + noise)
    unmoved = (model.scores(moved) == scores).all(1) & (moved != x).flatten(1).any(1)
    share = float(unmoved.double().mean())
    if share > 0.5:
        yield finding(
            "HP110",
            f"{100 * share:.0f} % of the pilot inputs get identical scores after noise of 1e-4 of the range",
            measured=share,
            threshold=0.5,
        )


@contextmanager
def _watched_gradients() -> Iterator[Any]:
    """P7: notices calls of autograd, which a plain forward pass never makes."""
    calls: list[str] = []
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def watched_grad(*args: Any, **kwargs: Any) -> Any:
        calls.append("grad")
        return grad(*args, **kwargs)

    def watched_backward(*args: Any, **kwargs: Any) -> Any:
        calls.append("backward")
        return backward(*args, **kwargs)

    torch.autograd.grad, torch.autograd.backward = watched_grad, watched_backward
    try:
        yield lambda: bool(calls)
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward


def first_bad_layer(model: Model, x: Tensor) -> str | None:
    """The first layer of a module, in order of execution, whose output holds NaN or infinity."""
    if not isinstance(model, Differentiable):
        return None
    bad: list[str] = []

    def watch(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                bad.append(name)

        return hook

    handles = [
        layer.register_forward_hook(watch(name))
        for name, layer in model.module.named_modules()
        if name and not list(layer.children())
    ]
    try:
        model.scores(x)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None
