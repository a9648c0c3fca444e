"""From an ONNX model to a ``Graph``: one form for all opsets, constants folded, dead nodes gone."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hardpoint.models.onnx.graph import Graph, GraphModule, Node, Unsupported
from hardpoint.models.onnx.operators import OPERATORS
from hardpoint.models.onnx.shapes import MAX_ELEMENTS
from hardpoint.models.onnx.signature import Signature

# Inputs that later opsets carry as tensors and earlier ones as attributes: position to attribute name.
_ATTRIBUTE_INPUTS: Mapping[str, tuple[str, ...]] = {
    "Reshape": ("shape",),
    "Expand": ("shape",),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
    "ReduceMean": ("axes",),
    "ReduceSum": ("axes",),
    "ReduceMax": ("axes",),
    "ReduceMin": ("axes",),
    "ReduceL2": ("axes",),
    "Split": ("split",),
    "Clip": ("min", "max"),
    "Pad": ("pads", "constant_value", "axes"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Resize": ("roi", "scales", "sizes"),
}

_SCALARS = {"min", "max", "constant_value"}
_MAY_BE_EMPTY = {"roi", "scales", "sizes"}  # an empty tensor stands for an absent one here

# Attributes that say nothing about inference, with the only values for which that is true (None: any).
_IGNORED: Mapping[tuple[str, str], Any] = {
    ("BatchNormalization", "momentum"): None,
    ("BatchNormalization", "spatial"): 1,
    ("BatchNormalization", "training_mode"): 0,
    ("Reshape", "allowzero"): 0,
    ("Resize", "keep_aspect_ratio_policy"): "stretch",
}


def import_graph(proto: Any, signature: Signature) -> Graph:
    """The graph of a ``ModelProto``.

    Raises:
        Unsupported: naming the operator and node that cannot be run by torch.
    """
    if signature.opset < 7:
        raise Unsupported(f"opset {signature.opset} is older than 7")
    if not signature.dtype.is_floating_point:
        raise Unsupported(f"the input holds {str(signature.dtype).removeprefix('torch.')} numbers")
    if proto.graph.sparse_initializer:
        raise Unsupported("the file holds sparse tensors")
    constants = {tensor.name: _tensor(tensor) for tensor in proto.graph.initializer}
    same: dict[str, str] = {}  # values that are another value under a new name
    known = {*constants, signature.input}
    nodes: list[Node] = []
    for number, raw in enumerate(proto.graph.node):
        node = _node(raw, number, same, constants, signature.opset)
        for name in node.inputs:
            if name and name not in known:
                raise Unsupported(f"{node} uses {name!r}, which nothing before it makes")
        if node.op in ("Identity", "Dropout"):
            same[node.outputs[0]] = node.inputs[0]
            continue
        known.update(node.outputs)
        if node.op == "Constant":
            constants[node.outputs[0]] = _constant(node)
        elif all(not name or name in constants for name in node.inputs):
            constants.update(_fold(node, constants))
        else:
            nodes.append(node)
    output = same.get(signature.output, signature.output)
    if output in constants or output not in known:
        raise Unsupported("the output does not depend on the input")
    return prune(
        Graph(tuple(nodes), signature.input, output, signature.shape, constants, batched=signature.batched)
    )


def prune(graph: Graph) -> Graph:
    """``graph`` without the nodes and constants that its output does not need."""
    needed = {graph.output}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    constants = {name: tensor for name, tensor in graph.constants.items() if name in needed}
    return graph.replace(nodes=tuple(reversed(kept)), constants=constants)


def settle_shapes(graph: Graph, batch: int | None) -> Graph:
    """``graph`` with every Reshape in the form ``(-1, …)`` that works for any number of rows.

    Exporters write the batch size into a Reshape, as a number or as a computation on shapes. Running the graph
    shows which axis is the batch: the one that follows it (``batch`` None), or the leading one of the fixed size.

    Args:
        graph: any graph.
        batch: the number of rows that the file fixes, if any.
    """
    module = GraphModule(graph)
    sizes = [2, 3] if batch is None else [batch]
    runs = [module.values(torch.zeros(n, *graph.input_shape, dtype=_dtype(graph))) for n in sizes]
    settled: list[Node] = []
    for node in graph.nodes:
        values = [run[node.outputs[0]] for run in runs]
        shapes = [tuple(value.shape) for value in values]
        if node.op == "Reshape" and values[0].is_floating_point() and shapes[0]:
            free = [i for i, lengths in enumerate(zip(*shapes, strict=False)) if len(set(lengths)) > 1]
            if batch is not None and shapes[0][0] == batch:
                free = [0]
            if len({len(shape) for shape in shapes}) == 1 and len(free) <= 1:
                shape = tuple(-1 if i in free else size for i, size in enumerate(shapes[0]))
                node = Node(node.op, node.name, node.inputs[:1], node.outputs, {"shape": shape})
        settled.append(node)
    return prune(graph.replace(nodes=tuple(settled), constants=_constants(module)))


def _constants(module: GraphModule) -> dict[str, Tensor]:
    return {name: module.constant(name).detach() for name in module.attribute_of}


def _dtype(graph: Graph) -> torch.dtype:
    return next((t.dtype for t in graph.constants.values() if t.is_floating_point()), torch.float32)


def _node(
    raw: Any, number: int, same: Mapping[str, str], constants: Mapping[str, Tensor], opset: int
) -> Node:
    """One node in the common form."""
    op, domain = raw.op_type, raw.domain
    name = raw.name or f"{op}_{number}"
    inputs = tuple(same.get(value, value) for value in raw.input)
    outputs = tuple(value for value in raw.output)
    label = op if domain in ("", "ai.onnx") else f"{domain}.{op}"
    node = Node(label, name, inputs, outputs, {})
    if label == "Upsample":
        label = "Resize"
    if label not in OPERATORS and label not in ("Constant", "Dropout"):
        raise Unsupported(f"{node} has no differentiable form")
    attributes = {a.name: _attribute(a, node) for a in raw.attribute}
    if label == "Dropout":
        if len(inputs) > 2 and inputs[2] and bool(constants.get(inputs[2], torch.tensor(True))):
            raise Unsupported(f"{node} is in training mode")
        return Node(label, name, inputs[:1], outputs[:1], {})
    if label == "Constant":
        return Node(label, name, (), outputs, attributes)
    if label != "Split" and sum(1 for value in outputs if value) > 1:
        raise Unsupported(f"{node} has {len(outputs)} outputs")
    _translate(node.op, attributes, len(outputs), opset)
    slots = _ATTRIBUTE_INPUTS.get(label, ())
    if op in ("Upsample", "Resize") and opset < 11 and slots:
        slots = ("scales",)
    extra = inputs[1:]
    if slots and all(not value or value in constants for value in extra):
        for slot, value in zip(slots, extra, strict=False):
            if value and (constants[value].numel() or slot not in _MAY_BE_EMPTY):
                attributes[slot] = _plain(constants[value], scalar=slot in _SCALARS)
        inputs = inputs[:1]
    _check_attributes(Node(label, name, inputs, outputs, attributes))
    return Node(label, name, inputs, outputs, attributes)


def _translate(op: str, attributes: dict[str, Any], outputs: int, opset: int) -> None:
    """Rename and complete attributes whose meaning changed between opsets."""
    for (owner, name), harmless in _IGNORED.items():
        if owner == op and name in attributes and harmless in (None, attributes[name]):
            del attributes[name]
    if op == "Pad" and "value" in attributes:
        attributes["constant_value"] = attributes.pop("value")
    if op in ("Softmax", "LogSoftmax") and opset < 13:
        attributes.setdefault("axis", 1)
        attributes["flatten"] = True
    if op == "Split" and "split" not in attributes:
        attributes.setdefault("num_outputs", outputs)
    if op in ("Upsample", "Resize") and opset < 11:
        attributes.update(coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def _check_attributes(node: Node) -> None:
    try:
        accepted = set(inspect.signature(OPERATORS[node.op]).parameters)
    except ValueError:  # a builtin of torch: no attributes
        accepted = set()
    for name in node.attributes:
        if name not in accepted:
            raise Unsupported(f"{node} has the attribute {name}, whose meaning is not known")


def _attribute(raw: Any, node: Node) -> Any:
    import onnx

    value = onnx.helper.get_attribute_value(raw)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Iterable) and all(isinstance(v, int | float) for v in value):
        return tuple(value)
    raise Unsupported(f"{node} has the attribute {raw.name}, which is no number, text or tensor")


def _tensor(raw: Any) -> Tensor:
    import onnx

    try:
        array = onnx.numpy_helper.to_array(raw)
        return torch.from_numpy(array.copy())
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise Unsupported(f"tensor {raw.name!r} cannot be read ({error})") from None


def _plain(tensor: Tensor, *, scalar: bool) -> Any:
    if scalar:
        return tensor.item()
    return tuple(tensor.reshape(-1).tolist())


def _constant(node: Node) -> Tensor:
    for name, value in node.attributes.items():
        if name == "value" and isinstance(value, Tensor):
            return value
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
        if name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
    raise Unsupported(f"{node} holds no tensor")


def _fold(node: Node, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a node makes of constants."""
    arguments = [constants[name] if name else None for name in node.inputs]
    try:
        result = OPERATORS[node.op](*arguments, **node.attributes)
    except Exception as error:
        raise Unsupported(f"{node} failed: {_first_line(error)}") from None
    results = (result,) if isinstance(result, Tensor) else result
    if sum(r.numel() for r in results) > MAX_ELEMENTS:
        raise Unsupported(f"{node} makes a tensor of more than {MAX_ELEMENTS} elements")
    return dict(zip(node.outputs, results, strict=False))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
