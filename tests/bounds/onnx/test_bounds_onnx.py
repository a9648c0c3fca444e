"""ONNX nodes become operators that compute the same and whose intervals hold; others are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardpoint.bounds import Interval, UnknownOperator, intervals, margin_bounds, traced
from hardpoint.bounds.crown import crown_margins
from hardpoint.bounds.onnx import imported, read_network
from hardpoint.bounds.operators.operator import DOUBLE
from hardpoint.core.errors import DataError, ModelError
from hardpoint.models import OnnxModel
from hardpoint.models.onnx import GraphModule
from small_models import rand

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

_draw = np.random.default_rng(0)
IMAGE, ROW = (3, 6, 5), (4, 3)


def f32(*shape: int) -> np.ndarray:
    return _draw.normal(size=shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


Nodes = list[tuple[Any, ...]]
"""``(operator, inputs, attributes)``: the input is ``x``, outputs are ``y0``, ``y1``, ...; arrays are constants."""


def one(op: str, *constants: np.ndarray, **attributes: Any) -> Nodes:
    return [(op, ["x", *constants], attributes)]


def save(path: Path, nodes: Nodes, shape: tuple[int, ...], batch: Any = "n", opset: int = 17) -> Path:
    made, constants = [], []
    for i, (op, inputs, attributes) in enumerate(nodes):
        names = []
        for place, given in enumerate(inputs):
            if not isinstance(given, str):
                constants.append(numpy_helper.from_array(given, f"c{i}_{place}"))
            names.append(given if isinstance(given, str) else f"c{i}_{place}")
        attributes = dict(attributes)
        outputs = [f"y{i}"] + [f"y{i}_{k}" for k in range(1, attributes.pop("outputs", 1))]
        made.append(helper.make_node(op, names, outputs, name=f"{op}_{i}", **attributes))
    graph = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info(f"y{len(nodes) - 1}", TensorProto.FLOAT, None)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def both(path: Path) -> OnnxModel:
    model = OnnxModel(path, (-1.0, 2.0), probabilities=False)
    assert isinstance(model.module, GraphModule), model.notes
    return model


KNOWN: dict[str, tuple[tuple[int, ...], Nodes]] = {
    **{op: (ROW, one(op)) for op in ("Relu", "Sigmoid", "Tanh", "Neg", "Identity")},
    "leak": (ROW, one("LeakyRelu", alpha=0.2)),
    **{op: (ROW, one(op, f32(4, 1))) for op in ("Add", "Sub", "Mul", "Div", "Sum")},
    "constant first": (ROW, [("Sub", [f32(1, 4, 3), "x"], {})]),
    "residual": (ROW, [("Relu", ["x"], {}), ("Add", ["y0", "x"], {}), ("Sub", ["x", "y1"], {}), ("Sum", ["x", "y2", "y1"], {})]),
    "product from the right": (ROW, one("MatMul", f32(3, 5))),
    "stacked product from the right": (IMAGE, one("MatMul", f32(3, 5, 2))),
    "product from the left": (ROW, [("MatMul", [f32(2, 4), "x"], {})]),
    "stacked product from the left": (IMAGE, [("MatMul", [f32(3, 2, 6), "x"], {})]),
    "biased product": (ROW, [("MatMul", ["x", f32(3, 5)], {}), ("Add", ["y0", f32(5)], {}), ("Relu", ["y1"], {})]),
    "bias that is shared": (ROW, [("MatMul", ["x", f32(3, 5)], {}), ("Add", ["y0", f32(5)], {}), ("Add", ["y1", "y0"], {})]),
    "bias first": (ROW, [("MatMul", ["x", f32(3, 5)], {}), ("Add", [f32(1, 5), "y0"], {})]),
    "bias after padding by nothing": (ROW, [
        ("MatMul", ["x", f32(3, 5)], {}), ("Pad", ["y0", i64(0, 0, 0, 0, 0, 0)], {}), ("Add", ["y1", f32(5)], {}), ("Add", ["y2", "y0"], {})
    ]),
    "gemm": (ROW, [("Flatten", ["x"], {}), ("Gemm", ["y0", f32(12, 5), f32(5)], {"alpha": 0.5, "beta": 2.0})]),
    "turned gemm": (ROW, [("Flatten", ["x"], {}), ("Gemm", ["y0", f32(5, 12)], {"transB": 1})]),
    "gemm with one bias": (ROW, [("Flatten", ["x"], {}), ("Gemm", ["y0", f32(5, 12), f32(1, 1)], {"transB": 1})]),
    "convolution": (IMAGE, one("Conv", f32(4, 3, 2, 3), f32(4), strides=[2, 1], pads=[1, 0, 1, 0])),
    "unequal convolution": (IMAGE, one("Conv", f32(6, 1, 2, 2), group=3, pads=[0, 1, 1, 2], dilations=[2, 1])),
    "same convolution": (IMAGE, one("Conv", f32(2, 3, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2])),
    "strip convolution": (ROW, one("Conv", f32(2, 4, 2), pads=[1, 0])),
    "norm": (IMAGE, one("BatchNormalization", f32(3), f32(3), f32(3), np.abs(f32(3)), epsilon=0.01)),
    "largest": (IMAGE, one("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1])),
    "largest, rounded up": (IMAGE, one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)),
    "mean": (IMAGE, one("AveragePool", kernel_shape=[3, 2], strides=[1, 2], pads=[1, 1, 1, 1])),
    "mean with padding": (IMAGE, one("AveragePool", kernel_shape=[2, 2], pads=[1, 0, 0, 1], count_include_pad=1)),
    "mean of all": (IMAGE, one("GlobalAveragePool")),
    "largest of all": (IMAGE, one("GlobalMaxPool")),
    "mean over axes": (IMAGE, one("ReduceMean", axes=[-1, 2], keepdims=0)),
    "mean over channels": (IMAGE, one("ReduceMean", axes=[1])),
    "sum over axes": (IMAGE, one("ReduceSum", i64(2), keepdims=0)),
    "padding": (IMAGE, one("Pad", i64(0, 1, 0, 2, 0, 0, 3, -1), np.array(1.5, np.float32))),
    "padding by the edge": (IMAGE, one("Pad", i64(0, 0, 1, 2, 0, 0, 0, 1), mode="edge")),
    "mirrored padding": (IMAGE, one("Pad", i64(0, 0, 1, 2, 0, 0, 0, 1), mode="reflect")),
    "transpose": (IMAGE, one("Transpose", perm=[0, 2, 3, 1])),
    "slice": (IMAGE, one("Slice", i64(1, -1), i64(5, -9), i64(2, 3), i64(2, -2))),
    "gather": (IMAGE, one("Gather", i64(2, -1, 0, 0), axis=2)),
    "pick": (IMAGE, one("Gather", np.array(1, np.int64), axis=1)),
    "pieces": (IMAGE, [("Split", ["x", i64(1, 2)], {"axis": 1, "outputs": 2}), ("Relu", ["y0_1"], {}), ("Sub", ["y1", "y0"], {})]),
    "joined": (IMAGE, [("Relu", ["x"], {}), ("Concat", ["y0", "x", "y0"], {"axis": -2})]),
    "joined with a constant": (IMAGE, [("Relu", ["x"], {}), ("Concat", [f32(1, 2, 6, 5), "y0", f32(1, 1, 6, 5)], {"axis": 1})]),
    "limits": (ROW, [("Clip", ["x", np.array(-0.5, np.float32), np.array(0.5, np.float32)], {}), ("Max", ["y0", f32(4, 1)], {}), ("Min", ["y1", "x"], {})]),
    "shapes": (IMAGE, [
        ("Reshape", ["x", i64(0, 18, 5)], {}), ("Unsqueeze", ["y0", i64(1)], {}), ("Squeeze", ["y1", i64(1)], {}), ("Flatten", ["y2"], {})
    ]),
    "expanded": (ROW, [("Unsqueeze", ["x", i64(1)], {}), ("Expand", ["y0", i64(1, 2, 4, 3)], {})]),
    "twice as large": (IMAGE, one("Resize", np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32), mode="nearest")),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_a_node_computes_what_the_file_does_and_its_interval_holds(name, tmp_path):
    shape, nodes = KNOWN[name]
    net = read_network(
        save(tmp_path / "net.onnx", nodes, shape), -torch.ones(np.prod(shape)), 2 * torch.ones(np.prod(shape))
    )
    x = rand(300, net.inputs, seed=1, dtype=torch.float64) * 3 - 1
    served = net.model.answers(x.float()).flatten(1).double()
    torch.testing.assert_close(net.graph(x.float().double()), served, rtol=1e-4, atol=1e-5)
    box = Interval(torch.minimum(x[:1], x[1:2]), torch.maximum(x[:1], x[1:2]), outward=DOUBLE)
    points = box.low + rand(200, net.inputs, seed=2, dtype=torch.float64) * (box.high - box.low)
    for value, span in zip(net.graph.values(points), intervals(net.graph, box), strict=True):
        assert bool(((value >= span.low) & (value <= span.high)).all())


@pytest.mark.parametrize("name", ["biased product", "convolution", "mean with padding", "joined with a constant", "pieces",
                                  "stacked product from the left", "stacked product from the right", "mirrored padding"])  # fmt: skip
def test_linear_bounds_pass_through(name, tmp_path):
    shape, nodes = KNOWN[name]
    last = f"y{len(nodes) - 1}"
    nodes = [*nodes, ("Relu", [last], {}), ("Flatten", [f"y{len(nodes)}"], {})]
    module = both(save(tmp_path / "net.onnx", nodes, shape)).module.double()
    x, eps, y = rand(2, *shape, seed=1, dtype=torch.float64), 0.1, torch.tensor([0, 1])
    graph = traced(module, x)
    spans = intervals(graph, Interval(x - eps, x + eps))
    margins = crown_margins(graph, spans, y)
    assert bool((margins > margin_bounds(graph, spans, y)).any())
    for turn in range(50):
        scores = graph(x + eps * (2 * rand(*x.shape, seed=turn, dtype=torch.float64) - 1))
        assert bool((scores.gather(1, y.view(-1, 1)) - scores >= margins - 1e-9).all())


def test_a_bias_joins_the_product_before_it(tmp_path):
    shape, nodes = KNOWN["biased product"]
    graph = imported(both(save(tmp_path / "net.onnx", nodes, shape)).module, rand(1, *shape))
    assert len(graph.steps) == 2
    assert "MatMul_0" in graph.steps[0].name
    shape, nodes = KNOWN["bias that is shared"]
    assert len(imported(both(save(tmp_path / "net.onnx", nodes, shape)).module, rand(1, *shape)).steps) == 3


def test_weights_are_read_as_they_are(tmp_path):
    shape, nodes = KNOWN["gemm"]
    module = both(save(tmp_path / "net.onnx", nodes, shape)).module.double()
    x = rand(4, *shape, dtype=torch.float64)
    graph = traced(module, x)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.5)
    torch.testing.assert_close(graph(x), module(x))


@pytest.mark.parametrize("batch", ["n", 1])
def test_a_reshape_with_the_batch_written_in(batch, tmp_path):
    nodes = [("Reshape", ["x", i64(1, 12)], {}), ("MatMul", ["y0", f32(12, 3)], {})]
    path = save(tmp_path / "net.onnx", nodes, ROW, batch=1) if batch == 1 else None
    if path is None:
        path = save(tmp_path / "net.onnx", [("Reshape", ["x", i64(-1, 12)], {}), *nodes[1:]], ROW)
    net = read_network(path, torch.zeros(12), torch.ones(12))
    x = rand(5, 12)
    torch.testing.assert_close(
        net.graph(x.double()).float(), net.model.answers(x).view(5, 3), rtol=1e-4, atol=1e-5
    )


REFUSED: dict[str, tuple[tuple[int, ...], Nodes, str]] = {
    "softmax": (ROW, one("Softmax", axis=1), "Softmax_0"),
    "sine": (ROW, [("Relu", ["x"], {}), ("Sin", ["y0"], {})], "Sin_1"),
    "layer norm": (ROW, one("LayerNormalization", f32(3), axis=-1), "LayerNormalization_0"),
    "comparison": (ROW, [("Greater", ["x", f32(1)], {}), ("Where", ["y0", "x", f32(1)], {})], "Greater_0"),
    "unequal largest": (IMAGE, one("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]), "unequally"),
    "unequal mean": (IMAGE, one("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]), "unequally"),
    "slopes": (IMAGE, one("PRelu", np.abs(f32(3, 1, 1))), "PRelu_0"),
    "cube": (ROW, one("Pow", np.array(3.0, np.float32)), "Pow_0"),
    "largest over channels": (IMAGE, one("ReduceMax", axes=[1]), "ReduceMax_0"),
    "divided by the input": (ROW, [("Div", [f32(1), "x"], {})], "Div_0"),
    "steep leak": (ROW, one("LeakyRelu", alpha=1.5), "LeakyRelu_0"),
    "no torch form": (ROW, one("Hardmax"), "Hardmax"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_bound_is_known_for_is_refused_by_name(what, tmp_path):
    shape, nodes, why = REFUSED[what]
    low = torch.full((int(np.prod(shape)),), 0.5)
    with pytest.raises(UnknownOperator, match=why):
        read_network(save(tmp_path / "net.onnx", nodes, shape), low, low + 1)


@pytest.mark.parametrize(
    ("nodes", "batch"),
    [
        ([("ReduceMean", ["x"], {"axes": [0]})], "n"),
        ([("Transpose", ["x"], {"perm": [1, 0, 2]})], 1),
        ([("Concat", ["x", "x"], {"axis": 0})], "n"),
        ([("MatMul", [f32(1, 1, 2, 4), "x"], {})], "n"),
        ([("Sub", ["x", f32(2, 4, 3)], {})], 2),
    ],
)
def test_inputs_that_are_mixed_are_refused(nodes, batch, tmp_path):
    with pytest.raises(ModelError):
        read_network(save(tmp_path / "net.onnx", nodes, ROW, batch), torch.zeros(12), torch.ones(12))


def test_boxes_that_do_not_fit_are_refused(tmp_path):
    path = save(tmp_path / "net.onnx", one("Relu"), ROW)
    for low, high in [(torch.zeros(11), torch.ones(11)), (torch.zeros(12), torch.ones(12) * torch.nan)]:
        with pytest.raises(DataError):
            read_network(path, low, high)
    with pytest.raises(DataError):
        read_network(path, torch.ones(12), torch.zeros(12))


def test_a_point_is_a_box(tmp_path):
    net = read_network(save(tmp_path / "net.onnx", one("Relu"), ROW), torch.ones(12), torch.ones(12))
    assert (net.inputs, net.outputs) == (12, 12)


def test_a_final_softmax_is_not_left_out(tmp_path):
    nodes = [("Flatten", ["x"], {}), ("Gemm", ["y0", f32(12, 3)], {}), ("Sigmoid", ["y1"], {})]
    net = read_network(save(tmp_path / "net.onnx", nodes, ROW), torch.zeros(12), torch.ones(12))
    assert float(net.graph(rand(9, 12, dtype=torch.float64) * 99).abs().max()) <= 1
