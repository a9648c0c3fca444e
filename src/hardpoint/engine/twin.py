"""The fast twin: a copy of the model made for searching. Verdicts always come from the model itself.

The copy has its parameters frozen (a third of a backward pass saved), batch norms folded into the layers
before them, and, where a measurement on this machine says it pays, channels-last memory and cheaper gradients.
Each step is kept only if the copy still agrees with the model on the pilot inputs. Attacks never search in
bfloat16, however fast a processor is at it: on rugged models they would miss examples (docs/cascade.md).

The choice is remembered per machine, so that the same run searches on the same copy every time and gives
the same bits; delete the file to measure again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from hardpoint.core.errors import RunError
from hardpoint.engine.bpda import crossed
from hardpoint.engine.crossing import Crossing, CrossingKind
from hardpoint.engine.guard import preserved_random_state
from hardpoint.engine.lean import can_be_lean, graph_of, has_hooks, lean
from hardpoint.evidence.store import read_json, write_json
from hardpoint.models.base import Differentiable, Model

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class TwinPlan:
    """How the copy differs from the model.

    ``copied`` False searches on the model itself, frozen meanwhile; ``bfloat16`` is for training alone.
    """

    copied: bool = True
    folded: bool = False
    channels_last: bool = False
    lean: bool = False
    bfloat16: bool = False
    speedup: float | None = None
    crossed: tuple[tuple[str, Crossing], ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TwinPlan:
        """The plan that ``describe`` told; raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else."""
        crossings = tuple(
            (str(name), Crossing(CrossingKind(told["kind"]), float(told["width"])))
            for name, told in value.get("crossed", ())
        )
        plain = {key: entry for key, entry in value.items() if key not in ("crossed", "text")}
        return cls(**plain, crossed=crossings)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        crossings = [[name, {"kind": c.kind.value, "width": c.width}] for name, c in self.crossed]
        return {**asdict(self), "crossed": crossings}

    def describe(self) -> dict[str, Any]:
        """JSON-ready form, with a sentence."""
        words = ["parameters frozen"] if self.copied else ["the model itself, parameters frozen meanwhile"]
        words += [
            word
            for on, word in [
                (self.folded, "batch norms folded"),
                (self.channels_last, "channels last"),
                (self.lean, "cheaper gradients"),
                (bool(self.crossed), f"gradients straight through {', '.join(n for n, _ in self.crossed)}"),
            ]
            if on
        ]
        return {**self.to_json(), "text": ", ".join(words)}


class Twin:
    """What the oracle asks during a search: a ``Searchable`` around the copied module."""

    def __init__(self, model: Differentiable, module: nn.Module, plan: TwinPlan) -> None:
        self.plan, self.module = plan, module
        self._read = model.module_scores
        self._dtype = next((t.dtype for t in module.parameters() if t.dtype in _FLOATS), None)

    @property
    def raw_scores(self) -> Callable[[Tensor], Tensor]:
        return self._scores

    def _scores(self, x: Tensor) -> Tensor:
        wanted = x.to(self._dtype) if self._dtype is not None and x.dtype != self._dtype else x
        if self.plan.channels_last and wanted.dim() == 4:
            wanted = wanted.contiguous(memory_format=torch.channels_last)
        scores = self._read(self.module(wanted))
        return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()

    def scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._scores(x)

    def predict(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)


class Itself:
    """A model without a module, asked as it is: scores or labels, no gradients."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.plan = TwinPlan(copied=False)

    raw_scores = None

    def scores(self, x: Tensor) -> Tensor:
        return self._model.scores(x)

    def predict(self, x: Tensor) -> Tensor:
        return self._model.predict(x)


def build_twin(model: Model, plan: TwinPlan) -> Twin | Itself:
    """The searchable copy of ``model`` that ``plan`` describes."""
    if not isinstance(model, Differentiable):
        return Itself(model)
    if not plan.copied:
        return Twin(model, model.module, plan)
    module = crossed(model.module, dict(plan.crossed)).requires_grad_(False)
    if plan.folded:
        module = fold_batch_norms(module)
    if plan.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if plan.lean:
        module = lean(module)
    if plan.bfloat16:
        module = module.to(torch.bfloat16)
    return Twin(model, module, plan)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """``module`` with each evaluation-mode batch norm folded into the convolution or linear layer before it.

    Returns the module unchanged where its graph cannot be traced or holds nothing to fold.
    """
    return _folded(module)[0]


def folded_norms(module: nn.Module) -> dict[str, str]:
    """By layer, the name of the batch norm that ``fold_batch_norms`` folds into it."""
    return _folded(module)[1]


def _folded(module: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    pairs: dict[str, str] = {}
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()):
        return module, pairs
    try:
        traced = graph_of(module)
    except Exception:  # data-dependent control flow and the like: torch raises many kinds
        return module, pairs
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(
            layers.get(node.target), nn.modules.batchnorm._BatchNorm
        ):
            continue
        norm, source = layers[node.target], (*node.args, *node.kwargs.values())[0]
        if norm.training or norm.running_mean is None or source.op != "call_module" or len(source.users) > 1:
            continue
        before = layers[source.target]
        shared = sum(n.op == "call_module" and n.target == source.target for n in traced.graph.nodes) > 1
        if shared or not isinstance(before, (*_CONVOLUTIONS, nn.Linear)):
            continue
        if has_hooks(before) or has_hooks(norm) or (isinstance(before, nn.Linear) and norm.weight is None):
            continue
        if isinstance(before, nn.Linear):
            fused: nn.Module = fuse_linear_bn_eval(before, norm)
        else:
            fused = fuse_conv_bn_eval(before, norm)
        _replace_layer(traced, source.target, fused.requires_grad_(False))
        layers[source.target] = fused
        pairs[source.target] = str(node.target)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
    traced.recompile()
    return traced, pairs


def _replace_layer(root: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, name, new)


def choose_twin(model: Model, x: Tensor, crossings: tuple[tuple[str, Crossing], ...] = ()) -> TwinPlan:
    """The fastest copy that agrees with the model on the pilot inputs ``x`` ``[n, ...]``, by measurement.

    A candidate must be 10 % faster than the one before it to be preferred. The answer is remembered in the
    user's cache folder (``XDG_CACHE_HOME``) for this model structure, input shape, machine and torch version.
    ``crossings`` are the layers that mask gradients, and how gradients are to cross them.
    """
    if not isinstance(model, Differentiable):
        return TwinPlan(copied=False)
    x, plain = x[:64], TwinPlan(crossed=crossings)
    if _usable(model, plain, x) is None:  # it holds locks, handles, non-leaf tensors … or state of its own
        return TwinPlan(copied=False)
    if len(x) < 16:
        return plain  # too little work to measure for
    file = _cache_file(model, x, plain)
    remembered = _remembered(file)
    if remembered is not None and _usable(model, remembered, x) is not None:
        return remembered
    best, speedup = plain, 1.0
    with preserved_random_state(seed=0):
        current = build_twin(model, plain)
        for step in candidate_steps(model, x):
            candidate = replace(best, **step)  # type: ignore[arg-type]
            twin = _usable(model, candidate, x)
            if twin is None:
                continue
            before, after = times_of([current, twin], x)
            if after < 0.9 * before:
                best, current, speedup = candidate, twin, speedup * before / after
    best = replace(best, speedup=round(speedup, 2))
    _remember(file, best)
    return best


def _usable(model: Differentiable, plan: TwinPlan, x: Tensor) -> Twin | Itself | None:
    """The copy that ``plan`` describes, if it can be made, gives gradients where the model does, and agrees."""
    try:
        twin = build_twin(model, plan)
        _time_of(twin, x[:1])
        return twin if _agrees(model, twin, x) else None
    except Exception:  # copying, tracing, an operator without this dtype or layout: torch raises many kinds
        return None


def candidate_steps(model: Differentiable, x: Tensor) -> list[dict[str, bool]]:
    """Ways to make a copy faster that may apply to inputs like ``x``, in the order in which they are tried."""
    layers = list(model.module.modules())
    steps: list[dict[str, bool]] = []
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in layers):
        steps.append({"folded": True})
    if x.dim() == 4 and any(isinstance(m, nn.Conv2d) for m in layers):
        steps.append({"channels_last": True})
    if can_be_lean(model.module):
        steps.append({"lean": True})
    return steps


def _agrees(model: Model, twin: Twin | Itself, x: Tensor) -> bool:
    """Same labels on the pilot inputs, and the same scores but for rounding; random models draw the same."""
    with preserved_random_state(seed=0):
        theirs = model.scores(x)
    with preserved_random_state(seed=0):
        ours = twin.scores(x)
    apart = theirs - theirs.mean(1, keepdim=True)
    gap = (apart - (ours - ours.mean(1, keepdim=True))).abs().amax()
    close = float(gap) <= 1e-3 * float(apart.abs().amax().clamp_min(1e-12))
    return close and torch.equal(theirs.argmax(1), ours.argmax(1))


def times_of(twins: list[Twin | Itself], x: Tensor, turns: int = 7) -> list[float]:
    """Least seconds of a forward and a backward pass to the input by each copy, taken in turn: other work on the
    machine only adds, and adds to all alike. A copy three times as slow as the first is not asked again."""
    for _ in range(2):  # the first pass also prepares kernels
        best = [_time_of(twin, x) for twin in twins]
    for _ in range(turns - 1):
        if best[-1] > 3 * best[0]:
            break
        best = [min(seconds, _time_of(twin, x)) for twin, seconds in zip(twins, best, strict=True)]
    return best


def _time_of(twin: Twin | Itself, x: Tensor) -> float:
    """Seconds of a forward and a backward pass to the input."""
    began = time.perf_counter()
    with torch.enable_grad():
        point = x.detach().requires_grad_(True)
        scores = twin.raw_scores(point)  # type: ignore[misc]
        if scores.requires_grad:
            torch.autograd.grad(scores.sum(), point, allow_unused=True)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - began


def _cache_root() -> Path:
    """The user's cache folder, or a temporary one for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return Path(tempfile.gettempdir())


def _cache_file(model: Differentiable, x: Tensor, plan: TwinPlan) -> Path:
    structure = [
        f"{type(m).__name__}{tuple(p.shape for p in m.parameters(recurse=False))}"
        for m in model.module.modules()
    ]
    device = torch.cuda.get_device_name(x.device) if x.is_cuda else _processor()
    choices = [field.name for field in fields(TwinPlan)]  # a new choice is worth a new measurement
    key = json.dumps(
        [
            choices,
            plan.to_json(),
            structure,
            list(x.shape[1:]),
            str(x.dtype),
            device,
            torch.get_num_threads(),
            torch.__version__,
        ]
    )
    return _cache_root() / "hardpoint" / "twins" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _processor() -> str:
    return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def _remembered(file: Path) -> TwinPlan | None:
    try:
        plan = TwinPlan.from_json(read_json(file))
    except (RunError, TypeError, KeyError, ValueError):
        return None
    choices = (plan.copied, plan.folded, plan.channels_last, plan.lean, plan.bfloat16)
    sound = plan.copied and not plan.bfloat16 and all(isinstance(choice, bool) for choice in choices)
    return plan if sound else None


def _remember(file: Path, plan: TwinPlan) -> None:
    with contextlib.suppress(RunError):  # a read-only home only means measuring again next time
        write_json(file, plan.to_json())
