"""Small ONNX files and properties of them, for tests of what decides them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def linear_net(folder: Path, weight: np.ndarray | None = None) -> Path:
    """``y0 = x0 + 2 x1``, ``y1 = x0 - x1``."""
    known = np.array([[1.0, 1.0], [2.0, -1.0]], dtype=np.float32) if weight is None else weight
    return _saved(folder / "linear.onnx", [known])


def relu_net(folder: Path, inputs: int = 2, hidden: int = 8, seed: int = 0) -> Path:
    """Two layers of units, two answers."""
    draw = np.random.default_rng(seed)
    sizes = ((inputs, hidden), (hidden, hidden), (hidden, 2))
    return _saved(folder / f"relu{seed}.onnx", [draw.normal(size=s).astype(np.float32) * 0.7 for s in sizes])


def _saved(path: Path, weights: list[np.ndarray]) -> Path:
    helper, nodes, value = onnx.helper, [], "x"
    for number, _ in enumerate(weights):
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"m{number}"]))
        value = f"m{number}"
        if number < len(weights) - 1:
            nodes.append(helper.make_node("Relu", [value], [f"r{number}"]))
            value = f"r{number}"
    nodes.append(helper.make_node("Identity", [value], ["y"]))
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, ["n", weights[0].shape[0]])],
        [helper.make_tensor_value_info("y", kind, ["n", weights[-1].shape[1]])],
        [onnx.numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def written(folder: Path, inputs: int, outputs: int, said: str) -> Path:
    """A property file with declarations for so many variables."""
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    path = folder / "property.vnnlib"
    path.write_text("\n".join(f"(declare-const {name} Real)" for name in names) + "\n" + said + "\n")
    return path
