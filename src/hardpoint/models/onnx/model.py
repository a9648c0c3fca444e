"""An ONNX file as a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import AccessDenied, ModelError
from hardpoint.core.rng import Rng
from hardpoint.models.onnx.files import parameter_count, read_onnx
from hardpoint.models.onnx.graph import Graph, GraphModule, Unsupported
from hardpoint.models.onnx.importer import import_graph, settle_shapes
from hardpoint.models.onnx.runtime import Runtime
from hardpoint.models.onnx.signature import Signature, read_signature
from hardpoint.models.torch import class_scores

_PROBES = 4
# How far torch and onnxruntime may differ, relative to the largest score: many roundings of each precision.
_TOLERANCE = {torch.float16: 2e-2, torch.float32: 1e-4, torch.float64: 1e-9}


@dataclass(frozen=True, eq=False, repr=False)
class OnnxModel:
    """An ONNX file as a model: differentiable where every operator is known, scores only where not.

    The file is turned into a torch module, which is kept only if it agrees with onnxruntime on random inputs in
    the box. Otherwise the model runs through onnxruntime, offers scores, and ``notes`` says why. A final
    Softmax or Sigmoid is left out: the scores before it have the same order and do not saturate.

    Args:
        path: an ``.onnx`` file; nothing outside its folder is read and nothing in it is executed.
        input_range: ``(low, high)`` of valid inputs.
        probabilities: whether the output holds probabilities; by default found out (False keeps the file as is).
        access: the highest rung to offer; less is offered where the file cannot be differentiated.
        output: the name of the output to read; by default the first with floating-point numbers.
        input_shape: the shape of one input, for files that leave it open.
        name: shown in reports; the file's name by default.

    Attributes:
        module: the torch module; absent from models without gradients.
        notes: what a person should know about how the file was read.

    Raises:
        UnreadableModelFile: when the file is damaged, points outside its folder or is no ONNX model.
        ModelError: when it has several inputs or open shapes.
        MissingExtra: without the ``onnx`` extra.
    """

    path: str | Path
    input_range: Box | tuple[float | Tensor, float | Tensor] = (0.0, 1.0)
    probabilities: bool | None = None
    access: Access = Access.GRADIENTS
    output: str | None = None
    input_shape: tuple[int, ...] | None = None
    name: str | None = None
    box: Box = field(init=False)
    notes: list[str] = field(init=False)
    module: nn.Module = field(init=False)
    _runtime: Runtime = field(init=False)
    _facts: dict[str, Any] = field(init=False)
    _take_logarithm: bool = field(init=False)

    def __post_init__(self) -> None:
        path = Path(self.path)
        wanted = Access.parse(self.access)
        proto, sha256 = read_onnx(path)
        signature = read_signature(
            proto,
            str(path),
            input_shape=self.input_shape,
            output=self.output,
            keep_probabilities=self.probabilities is False,
        )
        box, notes = Box.of(self.input_range), []
        runtime = Runtime(proto.SerializeToString(), signature, str(path))
        probes = _probes(box, signature)
        reference = _reference(runtime, probes)
        access = min(wanted, Access.LABELS if signature.labels else Access.SCORES)
        if signature.labels:
            notes.append(f"{path} answers labels only: output {signature.output!r} holds whole numbers")
        elif wanted == Access.GRADIENTS:
            try:
                object.__setattr__(self, "module", _differentiable(proto, signature, probes, reference))
                access = Access.GRADIENTS
            except Unsupported as reason:
                notes.append(f"{path} offers scores only, no gradients: {reason}")
        if signature.stripped:
            notes.append(f"the scores are taken before the final {signature.stripped}")
        facts = {"sha256": sha256, "parameters": parameter_count(proto), "opset": signature.opset}
        for key, value in {
            "path": path,
            "access": access,
            "box": box,
            "notes": notes,
            "_take_logarithm": bool(self.probabilities) and not signature.stripped,
            "_runtime": runtime,
            "_facts": facts,
        }.items():
            object.__setattr__(self, key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sessions of onnxruntime cannot be copied to another process; the file is read again there."""
        settings = (self.probabilities, self.access, self.output, self.input_shape, self.name)
        return OnnxModel, (self.path, self.box, *settings)

    def __repr__(self) -> str:
        return f"OnnxModel({str(self.path)!r}, access={self.access.word})"

    def module_scores(self, output: Any) -> Tensor:
        if isinstance(output, Tensor) and output.dim() > 2 and output.shape[2:].numel() == 1:
            output = output.flatten(1)
        return class_scores(output, self._take_logarithm)

    @property
    def left_out(self) -> str:
        """The final operator that scores are taken before, such as ``Softmax``, or the empty string."""
        return self._runtime.signature.stripped

    @property
    def input_dtype(self) -> torch.dtype:
        """The type that inputs are converted to before the file sees them."""
        return self._runtime.signature.dtype

    @property
    def reads_probabilities(self) -> bool:
        """Whether scores are the logarithms of what the file answers, as it holds none before them."""
        return self._take_logarithm

    def scores(self, x: Tensor) -> Tensor:
        if self.access < Access.SCORES:
            raise AccessDenied(f"{self.path} offers labels only", 'use a threat with access="labels"')
        return self.runtime_scores(x)

    def predict(self, x: Tensor) -> Tensor:
        if self._runtime.signature.labels:
            return self._runtime(x).reshape(len(x)).to(x.device, torch.int64)
        return self.runtime_scores(x).argmax(1)

    def runtime_scores(self, x: Tensor) -> Tensor:
        """Class scores ``[n, K]`` from onnxruntime on the file itself: what a server of it would answer.

        Raises:
            AccessDenied: when the model offers labels only.
        """
        if self._runtime.signature.labels:
            raise AccessDenied(f"{self.path} offers labels only", 'use a threat with access="labels"')
        return self.module_scores(self._runtime(x)).to(x.device)

    def answers(self, x: Tensor) -> Tensor:
        """The output of the file itself for ``x``, from onnxruntime, whatever it means."""
        return self._runtime(x)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "onnx",
            "name": self.name or Path(self.path).name,
            **self._facts,
            "access": self.access.word,
            "input_range": self.box.describe(),
            "notes": list(self.notes),
        }


def _probes(box: Box, signature: Signature) -> Tensor:
    """Random inputs inside the box; an open end is taken one unit away."""
    u = Rng(0).fork("onnx-check").uniform(torch.arange(_PROBES), signature.shape)
    try:
        low, high = (end.expand(signature.shape) for end in box.bounds_like(u))
    except RuntimeError:
        raise ModelError(
            f"the input range does not fit the model's input shape {signature.shape}",
            "give numbers, or tensors of one input's shape",
        ) from None
    low = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high - 1, -torch.ones(())))
    high = torch.where(high.isfinite(), high, low.clamp_min(0) + 1)
    return low + u * (high - low)


def _reference(runtime: Runtime, probes: Tensor) -> Tensor:
    """onnxruntime's output for each probe; where a batch gives something else, rows are run one by one."""
    if runtime.chunk is not None:
        return runtime(probes)
    runtime.chunk = 1
    alone = runtime(probes)
    runtime.chunk = None
    try:
        together = runtime(probes)
        if len(together) == len(probes) and _difference(together.reshape(alone.shape), alone) is None:
            return alone
    except (ModelError, RuntimeError):
        pass
    runtime.chunk = 1
    return alone


def _difference(ours: Tensor, truth: Tensor) -> str | None:
    """What differs between two batches of outputs; None if nothing does beyond rounding."""
    if ours.shape != truth.shape:
        return f"outputs of shape {tuple(ours.shape)}, not {tuple(truth.shape)}"
    kind = truth.dtype if truth.dtype in _TOLERANCE else torch.float32
    ours, truth = ours.double(), truth.double()
    scale = truth[truth.isfinite()].abs()
    allowed = _TOLERANCE[kind] * float(scale.max() if len(scale) else 0.0) + 1e-7
    if torch.allclose(ours, truth, rtol=0.0, atol=allowed, equal_nan=True):
        return None
    return f"outputs up to {float((ours - truth).abs().max()):.3g} away (allowed: {allowed:.3g})"


def _differentiable(proto: Any, signature: Signature, probes: Tensor, reference: Tensor) -> GraphModule:
    """A torch module that agrees with ``reference`` on ``probes``: for any batch, or else row by row.

    Raises:
        Unsupported: saying what stands in the way.
    """
    graph = import_graph(proto, signature)
    chunked = graph.replace(chunk=signature.batch or 1)
    candidates: list[Callable[[], Graph]] = [lambda: chunked]
    if signature.batched:
        candidates = [
            lambda: settle_shapes(graph, signature.batch),
            lambda: settle_shapes(graph, 1),
            lambda: chunked,
        ]
    reason = ""
    for candidate in candidates:
        try:
            module = GraphModule(candidate()).eval()
            with torch.no_grad():
                for rows in (probes, probes[:1], probes[:3]):
                    result = module(rows)
                    result = result.flatten(1) if result.dim() > 1 else result.unsqueeze(1)
                    wrong = _difference(result, reference[: len(rows)].reshape(len(rows), -1))
                    if wrong is not None:
                        raise Unsupported(f"torch and onnxruntime disagree: {wrong}")
            return module
        except Unsupported as error:
            reason = str(error)
        except Exception as error:
            where = ", ".join(getattr(error, "__notes__", ["the graph"]))
            reason = (
                f"{where} failed in torch: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
            )
    raise Unsupported(reason)
