"""What goes into an ONNX file and what comes out: names, shapes, types, and which output holds the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hardpoint.core.errors import ModelError

_FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64}
_INTEGERS = {2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64}


@dataclass(frozen=True)
class Signature:
    """One input, one output.

    Args:
        input: the input's name.
        dtype: the input's type.
        shape: the shape of one input, without the batch axis.
        batch: the number of rows the file fixes; None for any.
        batched: whether the input has a batch axis.
        output: the name of the output with the scores (or labels).
        labels: whether the file answers labels only.
        opset: the version of the operator set.
        stripped: the final operator that was left out (``Softmax``), or the empty string.
    """

    input: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    batch: int | None
    batched: bool
    output: str
    labels: bool
    opset: int
    stripped: str = ""


def read_signature(
    proto: Any,
    path: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    output: str | None = None,
    keep_probabilities: bool = False,
) -> Signature:
    """The signature of ``proto``; a final Softmax or Sigmoid is removed from it in place.

    The class scores before these functions have the same order and, unlike probabilities, do not saturate.

    Args:
        proto: a ``ModelProto``.
        path: its name, for errors.
        input_shape: the shape of one input, for files that leave it open.
        output: the output to read; by default the first with floating-point numbers.
        keep_probabilities: leave a final Softmax or Sigmoid in place.

    Raises:
        ModelError: for more than one input, an unknown shape, or no output that can be read.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {sparse.values.name for sparse in proto.graph.sparse_initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ModelError(
            f"{path} has {len(inputs)} inputs ({', '.join(v.name for v in inputs)})",
            "export a model with one input; constants belong into the file",
        )
    kind = inputs[0].type.tensor_type.elem_type
    dtype = _FLOATS.get(kind) or _INTEGERS.get(kind)
    if dtype is None:
        raise ModelError(f"{path}: input {inputs[0].name!r} holds no numbers", "export a model on tensors")
    shape, batch, batched = _input_shape(inputs[0], path, input_shape)
    chosen, labels = _output(proto, path, output)
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    stripped = ""
    if not labels and not keep_probabilities:
        chosen, stripped = _without_probabilities(proto, chosen, opset)
    return Signature(inputs[0].name, dtype, shape, batch, batched, chosen, labels, opset, stripped)


def _input_shape(
    value: Any, path: str, given: tuple[int, ...] | None
) -> tuple[tuple[int, ...], int | None, bool]:
    dims = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
    dims = [d if d is not None and d > 0 else None for d in dims]
    if given is not None:
        given = tuple(int(size) for size in given)
        if list(given) == dims:
            return given, 1, False
        if dims and (
            len(dims) != len(given) + 1
            or any(d not in (None, g) for d, g in zip(dims[1:], given, strict=True))
        ):
            raise ModelError(
                f"input_shape {given} does not fit input {value.name!r} of {path} with shape {dims}",
                "give the shape of one input, without the batch axis",
            )
        return given, dims[0] if dims else None, True
    if len(dims) == 1 and dims[0] is not None:
        return (dims[0],), 1, False  # a lone vector: no batch axis at all
    known = tuple(d for d in dims[1:] if d is not None)
    if len(dims) < 2 or len(known) < len(dims) - 1:
        raise ModelError(
            f"{path} leaves the shape of input {value.name!r} open ({dims})",
            "pass input_shape, the shape of one input without the batch axis, for example (3, 224, 224)",
        )
    return known, dims[0], True


def _output(proto: Any, path: str, wanted: str | None) -> tuple[str, bool]:
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.output}
    if wanted is not None and wanted not in kinds:
        raise ModelError(f"{path} has no output {wanted!r}", f"use one of: {', '.join(kinds)}")
    for name, kind in kinds.items():
        if kind in _FLOATS and wanted in (None, name):
            return name, False
    for name, kind in kinds.items():
        if kind in _INTEGERS and wanted in (None, name):
            return name, True
    raise ModelError(
        f"{path} has no output with numbers among {', '.join(kinds)}",
        "export class scores as a tensor (for scikit-learn models: options={'zipmap': False})",
    )


def _without_probabilities(proto: Any, output: str, opset: int) -> tuple[str, str]:
    """The output before a final Softmax or Sigmoid, which becomes the graph's only output."""
    import onnx

    makers = {name: node for node in proto.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    if node is None or node.op_type not in ("Softmax", "Sigmoid") or node.input[0] not in makers:
        return output, ""
    value = next(v for v in proto.graph.output if v.name == output)
    if node.op_type == "Softmax":
        axes = [a.i for a in node.attribute if a.name == "axis"]
        axis = axes[0] if axes else (-1 if opset >= 13 else 1)
        rank = len(value.type.tensor_type.shape.dim)
        if axis != 1 and not (axis == -1 and rank in (0, 2)):
            return output, ""  # not over the classes
    scores = onnx.helper.make_tensor_value_info(node.input[0], value.type.tensor_type.elem_type, None)
    del proto.graph.output[:]
    proto.graph.output.append(scores)
    return node.input[0], node.op_type
