"""Every operator against onnxruntime, for any batch size, with gradients checked by finite differences."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardpoint.core.access import Access
from hardpoint.models import OnnxModel

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

_draw = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    return _draw.normal(size=shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@dataclass
class Case:
    """Nodes ``(op, inputs, attributes)`` in a chain: the input is ``x``, each output ``y0``, ``y1``, …"""

    name: str
    nodes: list[tuple[Any, ...]]
    shape: tuple[int, ...] = (6,)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 17
    low: float = -2.0
    smooth: bool = True


def one(
    op: str,
    *constants: np.ndarray,
    shape: tuple[int, ...] = (6,),
    opset: int = 17,
    low: float = -2.0,
    smooth: bool = True,
    name: str = "",
    **attributes: Any,
) -> Case:
    """One operator on ``x`` and constants."""
    named = {f"c{i}": c for i, c in enumerate(constants)}
    node = (op, ["x", *named], attributes)
    return Case(name or op, [node], shape, named, opset, low, smooth)


IMAGE = (3, 7, 6)
CASES = [
    *[one(op) for op in ("Neg", "Abs", "Exp", "Erf", "Relu", "Sigmoid", "Tanh", "Identity", "Softplus")],
    *[one(op) for op in ("Softsign", "Sin", "Cos", "Selu", "HardSwish", "HardSigmoid", "Elu", "LeakyRelu")],
    *[one(op, low=0.5) for op in ("Sqrt", "Log", "Reciprocal")],
    *[one(op, smooth=False) for op in ("Floor", "Ceil", "Sign")],
    *[one(op, f32(6)) for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum")],
    one("Div", np.abs(f32(6)) + 1),
    one("Pow", np.array(3.0, np.float32)),
    one("Pow", np.array(2, np.int64), name="Pow-integer-exponent"),
    one("LeakyRelu", alpha=0.3, name="LeakyRelu-alpha"),
    one("Elu", alpha=0.7, name="Elu-alpha"),
    one("HardSigmoid", alpha=0.4, beta=0.3, name="HardSigmoid-alpha"),
    one("PRelu", np.abs(f32(3, 1, 1)), shape=IMAGE),
    one("Gelu", opset=20),
    one("Gelu", opset=20, approximate="tanh", name="Gelu-tanh"),
    one("Clip", np.array(-0.5, np.float32), np.array(0.7, np.float32)),
    one("Clip", opset=10, min=-0.5, max=0.7, name="Clip-6"),
    Case("Clip-max-only", [("Clip", ["x", "", "c"], {})], constants={"c": np.array(0.5, np.float32)}),
    one("Softmax", axis=1, shape=(4, 3), opset=11, name="Softmax-flattening"),
    one("Softmax", axis=-1, shape=(4, 3), name="Softmax-last"),
    one("LogSoftmax", axis=1, shape=(4, 3)),
    one("LogSoftmax", axis=1, shape=(4, 3), opset=11, name="LogSoftmax-flattening"),
    one("MatMul", f32(6, 4)),
    one("Gemm", f32(6, 4), f32(4)),
    one("Gemm", f32(4, 6), f32(1, 4), transB=1, alpha=0.5, beta=2.0, name="Gemm-scaled"),
    one("Gemm", f32(4, 6), transB=1, name="Gemm-no-bias"),
    one("BatchNormalization", f32(3), f32(3), f32(3), np.abs(f32(3)) + 0.5, shape=IMAGE, epsilon=1e-3),
    one(
        "BatchNormalization", f32(3), f32(3), f32(3), np.abs(f32(3)) + 0.5, shape=IMAGE, opset=8, name="BN-7"
    ),
    one("InstanceNormalization", f32(3), f32(3), shape=IMAGE),
    one("LayerNormalization", f32(4), f32(4), shape=(3, 4)),
    one("LayerNormalization", f32(3, 4), shape=(3, 4), axis=1, name="LayerNorm-two-axes"),
    # windows
    one("Conv", f32(4, 3, 3, 2), f32(4), shape=IMAGE),
    one("Conv", f32(4, 3, 3, 3), shape=IMAGE, pads=[0, 1, 2, 1], strides=[2, 1], name="Conv-asymmetric"),
    one("Conv", f32(4, 3, 3, 3), shape=IMAGE, auto_pad="SAME_UPPER", strides=[2, 2], name="Conv-same-upper"),
    one("Conv", f32(4, 3, 4, 4), shape=IMAGE, auto_pad="SAME_LOWER", name="Conv-same-lower"),
    one("Conv", f32(4, 3, 3, 3), shape=IMAGE, auto_pad="VALID", name="Conv-valid"),
    one("Conv", f32(6, 2, 2, 2), shape=(4, 6, 6), group=2, dilations=[2, 1], name="Conv-groups-dilations"),
    one("Conv", f32(2, 3, 3), shape=(3, 9), pads=[1, 1], name="Conv-1d"),
    one("Conv", f32(2, 1, 2, 2, 2), f32(2), shape=(1, 4, 3, 4), name="Conv-3d"),
    one("MaxPool", shape=IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    one("MaxPool", shape=IMAGE, kernel_shape=[3, 2], pads=[1, 0, 0, 1], strides=[2, 2], name="MaxPool-asym"),
    one("MaxPool", shape=IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, name="MaxPool-ceil"),
    one("MaxPool", shape=IMAGE, kernel_shape=[2, 2], dilations=[2, 2], name="MaxPool-dilated"),
    one(
        "MaxPool",
        shape=IMAGE,
        kernel_shape=[3, 3],
        strides=[2, 2],
        auto_pad="SAME_UPPER",
        name="MaxPool-same",
    ),
    one("MaxPool", shape=(2, 9), kernel_shape=[3], strides=[2], name="MaxPool-1d"),
    one("AveragePool", shape=IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    *[
        one(
            "AveragePool",
            shape=IMAGE,
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=pads,
            ceil_mode=ceil,
            count_include_pad=include,
            opset=19,
            name=f"AveragePool-{pads}-{ceil}-{include}",
        )
        for pads in ([0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1])
        for ceil in (0, 1)
        for include in (0, 1)
    ],
    one("AveragePool", shape=(2, 9), kernel_shape=[3], strides=[2], pads=[1, 1], name="AveragePool-1d"),
    one("GlobalAveragePool", shape=IMAGE),
    one("GlobalMaxPool", shape=IMAGE),
    one("Pad", i64(0, 0, 1, 2, 0, 0, 0, 3), shape=IMAGE),
    one("Pad", i64(0, 0, 1, 2, 0, 0, 0, 3), np.array(1.5, np.float32), shape=IMAGE, name="Pad-value"),
    one("Pad", i64(0, 0, -1, 2, 0, 0, 0, -2), shape=IMAGE, name="Pad-negative"),
    one("Pad", i64(0, 0, 1, 2, 0, 0, 0, 3), shape=IMAGE, mode="reflect", name="Pad-reflect"),
    one("Pad", i64(0, 1, 1, 2, 0, 0, 0, 3), shape=IMAGE, mode="edge", name="Pad-edge"),
    one("Pad", shape=IMAGE, opset=10, pads=[0, 0, 1, 2, 0, 0, 0, 3], value=0.5, name="Pad-2"),
    Case(
        "Pad-axes",
        [("Pad", ["x", "p", "", "a"], {})],
        IMAGE,
        {"p": i64(1, 2, 0, 1), "a": i64(-1, 2)},
        opset=18,
    ),
    Case(
        "Resize-half-pixel",
        [("Resize", ["x", "", "s"], {"mode": "nearest"})],
        IMAGE,
        {"s": np.array([1, 1, 2, 1.5], np.float32)},
    ),
    Case(
        "Resize-asymmetric",
        [
            (
                "Resize",
                ["x", "", "s"],
                {
                    "mode": "nearest",
                    "coordinate_transformation_mode": "asymmetric",
                    "nearest_mode": "floor",
                },
            )
        ],
        IMAGE,
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    one(
        "Resize", np.array([1, 1, 2, 2], np.float32), shape=IMAGE, opset=10, mode="nearest", name="Resize-10"
    ),
    one("Upsample", np.array([1, 1, 2, 3], np.float32), shape=IMAGE, opset=9, mode="nearest"),
    # shapes
    one("Flatten", shape=IMAGE),
    one("Flatten", shape=IMAGE, axis=-3, name="Flatten-negative"),
    one("Reshape", i64(0, 3, -1), shape=IMAGE),
    one("Squeeze", i64(2), shape=(3, 1, 4)),
    one("Squeeze", shape=(3, 1, 4), opset=11, axes=[2], name="Squeeze-11"),
    one("Unsqueeze", i64(1, -1), shape=(3, 4)),
    one("Unsqueeze", shape=(3, 4), opset=11, axes=[1], name="Unsqueeze-11"),
    one("Transpose", shape=IMAGE, perm=[0, 2, 3, 1]),
    Case("Concat", [("Relu", ["x"], {}), ("Concat", ["x", "y0", "x"], {"axis": -1})], (3, 4)),
    one("Slice", i64(1, -1), i64(5, -(2**62)), i64(2, 3), i64(2, -1), shape=IMAGE),
    one("Slice", shape=IMAGE, opset=9, starts=[1, 0], ends=[3, 100], axes=[1, 3], name="Slice-1"),
    one("Gather", i64(2, -1), shape=(3, 4), axis=1),
    one("Gather", np.array(1, np.int64), shape=(3, 4), axis=1, name="Gather-scalar"),
    one("Gather", np.array([[0, 1], [2, 2]]), shape=(3, 4), axis=1, name="Gather-matrix"),
    Case("Split", [("Split", ["x", "s"], {"axis": 1}, 2), ("Mul", ["y0", "y0"], {})], (5,), {"s": i64(2, 3)}),
    Case("Split-2", [("Split", ["x"], {"axis": 1}, 2), ("Mul", ["y0", "y0_1"], {})], (6,), opset=12),
    Case(
        "Split-18",
        [
            ("Split", ["x"], {"axis": 1, "num_outputs": 2}, 2),
            ("Concat", ["y0_1", "y0"], {"axis": 1}),
        ],
        (5,),
        opset=18,
    ),
    one("Expand", i64(1, 3, 4), shape=(1, 4)),
    Case("Cast", [("Cast", ["x"], {"to": TensorProto.DOUBLE}), ("Cast", ["y0"], {"to": 1})]),
    Case("Dropout", [("Dropout", ["x"], {}), ("Relu", ["y0"], {})]),
    one("Dropout", opset=10, ratio=0.4, name="Dropout-10"),
    *[
        one(op, shape=IMAGE, axes=[2, 3], keepdims=0)
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")
    ],
    one("ReduceMean", i64(-1), shape=IMAGE, opset=18, name="ReduceMean-18"),
    one("ReduceSum", i64(1), shape=IMAGE, keepdims=1),
    one("ReduceSum", shape=IMAGE, opset=11, axes=[1], name="ReduceSum-11"),
    Case(
        "Where-Equal",
        [
            ("Floor", ["x"], {}),
            ("Equal", ["y0", "zero"], {}),
            ("Not", ["y1"], {}),
            ("Where", ["y2", "x", "zero"], {}),
        ],
        constants={"zero": np.zeros((), np.float32)},
        smooth=False,
    ),
    Case(
        "Where-Less",
        [("Less", ["x", "zero"], {}), ("Mul", ["x", "x"], {}), ("Where", ["y0", "y1", "x"], {})],
        constants={"zero": np.zeros((), np.float32)},
    ),
    Case(
        "Comparisons",
        [
            ("Greater", ["x", "zero"], {}),
            ("LessOrEqual", ["x", "one"], {}),
            ("And", ["y0", "y1"], {}),
            ("GreaterOrEqual", ["x", "one"], {}),
            ("Or", ["y2", "y3"], {}),
            ("Where", ["y4", "x", "zero"], {}),
        ],
        constants={"zero": np.zeros((), np.float32), "one": np.ones((), np.float32)},
    ),
    Case(
        "Shape-Gather-Concat-Reshape",
        [
            ("Shape", ["x"], {}),
            ("Gather", ["y0", "zero"], {"axis": 0}),
            ("Unsqueeze", ["y1", "first"], {}),
            ("Concat", ["y2", "rest"], {"axis": 0}),
            ("Reshape", ["x", "y3"], {}),
        ],
        IMAGE,
        {"zero": np.array(0, np.int64), "first": i64(0), "rest": i64(-1)},
    ),
    Case(
        "ConstantOfShape",
        [
            ("Shape", ["x"], {}),
            ("ConstantOfShape", ["y0"], {"value": helper.make_tensor("v", TensorProto.FLOAT, [1], [2.5])}),
            ("Mul", ["x", "y1"], {}),
        ],
    ),
    Case(
        "Constant",
        [
            ("Constant", [], {"value_floats": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}),
            ("Constant", [], {"value": numpy_helper.from_array(f32(6))}),
            ("Mul", ["x", "y0"], {}),
            ("Add", ["y2", "y1"], {}),
        ],
    ),
    Case(
        "Expand-token",
        [
            ("Shape", ["x"], {}),
            ("Gather", ["y0", "zero"], {}),
            ("Concat", ["y1", "tail"], {"axis": 0}),
            ("Expand", ["token", "y2"], {}),
            ("Concat", ["y3", "x"], {"axis": 1}),
        ],
        (3, 4),
        {"zero": i64(0), "tail": i64(1, 4), "token": f32(1, 1, 4)},
    ),
]


def write(case: Case, folder: Path, batch: int | str) -> Path:
    """``case`` followed by Flatten, as a file whose batch axis is ``batch``."""
    nodes = []
    for number, (op, inputs, attributes, *outputs) in enumerate(case.nodes):
        names = [f"y{number}", *(f"y{number}_{i}" for i in range(1, outputs[0] if outputs else 1))]
        nodes.append(helper.make_node(op, inputs, names, name=f"{op}-{number}", **attributes))
    nodes.append(helper.make_node("Flatten", [nodes[-1].output[0]], ["out"], axis=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *case.shape])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in case.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=8)
    path = folder / "net.onnx"
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("batch", ["N", 1], ids=["any-batch", "batch-1"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operator_agrees_with_onnxruntime(case: Case, batch: int | str, tmp_path: Path) -> None:
    model = OnnxModel(write(case, tmp_path, batch), input_range=(case.low, 2.0))
    assert model.notes == []
    assert model.access == Access.GRADIENTS
    draw = torch.Generator().manual_seed(1)
    x = case.low + (2.0 - case.low) * torch.rand(7, *case.shape, generator=draw)
    assert model.module.graph.chunk is None  # whole batches, whatever the file fixes
    for rows in (x, x[:1]):
        theirs = model.runtime_scores(rows)
        torch.testing.assert_close(model.scores(rows), theirs, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model.module_scores(model.module(rows)), theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=lambda case: case.name)
def test_gradient_by_finite_differences(case: Case, tmp_path: Path) -> None:
    module = copy.deepcopy(OnnxModel(write(case, tmp_path, "N"), input_range=(case.low, 2.0)).module).double()
    draw = torch.Generator().manual_seed(2)
    x = (case.low + (2.0 - case.low) * torch.rand(2, *case.shape, generator=draw)).double()
    direction = torch.randn(x.shape, generator=draw, dtype=torch.float64)
    x.requires_grad_(True)
    weights = torch.randn(module(x).shape, generator=draw, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((module(x) * weights).sum(), x)
    with torch.no_grad():
        step = 1e-6
        ahead, behind = module(x + step * direction), module(x - step * direction)
        slope = ((ahead - behind) * weights).sum() / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-5)
