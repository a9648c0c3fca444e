"""Property files: what is unsafe is shown by a point that onnxruntime confirms, what is safe is proven, and an error is
an error."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.bounds.vnnlib import holds, read_vnnlib
from hardpoint.certify import property as deciding
from hardpoint.certify.property import Decision, decide
from hardpoint.core.errors import ConfigError, DataError, HardpointError
from hardpoint.models import OnnxModel

from onnx_nets import linear_net, relu_net, written  # isort: skip

LEVELS = ("real", "rigorous", "deployed")


def box(*ends: tuple[str, str]) -> str:
    return "".join(
        f"(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i, (low, high) in enumerate(ends)
    )


UNIT = box(("-1", "1"), ("-1", "1"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("said", "answer"),
    [  # y0 = x0 + 2 x1, y1 = x0 - x1: y0 reaches from -3 to 3
        ("(assert (>= Y_0 3.001))", Decision.UNSAT),
        ("(assert (>= Y_0 2.999))", Decision.SAT),
        ("(assert (<= Y_0 -2.99))", Decision.SAT),
        ("(assert (or (>= Y_0 3.001) (<= Y_1 -2.001)))", Decision.UNSAT),
        ("(assert (or (>= Y_0 3.001) (<= Y_1 -1.999)))", Decision.SAT),
        ("(assert (and (>= Y_0 2.9) (>= Y_1 1.9)))", Decision.UNSAT),  # each can be, both cannot
        ("(assert (and (>= Y_0 0.5) (>= Y_1 0.5)))", Decision.SAT),
        ("", Decision.SAT),  # every answer is unsafe
    ],
)
def test_a_linear_network_is_decided(tmp_path: Path, level: str, said: str, answer: Decision) -> None:
    onnx, vnnlib = linear_net(tmp_path), written(tmp_path, 2, 2, UNIT + said)
    found = decide(onnx, vnnlib, seconds=20, soundness=level)
    assert found.answer is answer
    if answer is Decision.SAT:
        assert found.x is not None
        assert found.y is not None
        assert torch.equal(found.x, found.x.float().double())
        served = OnnxModel(onnx, (-1.0, 1.0), probabilities=False).answers(found.x.float()[None]).flatten()
        assert torch.equal(served, found.y)
        assert holds(read_vnnlib(vnnlib), found.x, found.y)
    else:
        assert found.x is None
        assert found.bound > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("level", LEVELS)
def test_a_grid_agrees(tmp_path: Path, seed: int, level: str) -> None:
    onnx = relu_net(tmp_path, seed=seed)
    model = OnnxModel(onnx, (-1.0, 1.0), probabilities=False)
    steps = torch.linspace(-1, 1, 81)
    grid = torch.cartesian_prod(steps, steps)
    most = float(model.answers(grid)[:, 0].max())
    for limit, expected in ((most + 0.05, Decision.UNSAT), (most - 0.01, Decision.SAT)):
        vnnlib = written(tmp_path, 2, 2, UNIT + f"(assert (>= Y_0 {limit:.6f}))")
        assert decide(onnx, vnnlib, seconds=20, soundness=level).answer is expected


def test_boxes_of_their_own(tmp_path: Path) -> None:
    parts = [
        "(and (>= X_0 0) (<= X_0 1) (>= X_1 0) (<= X_1 1) (>= Y_0 {}))",
        "(and (>= X_0 -1) (<= X_0 0) (>= X_1 -1) (<= X_1 0) (>= Y_0 {}))",
    ]
    onnx = linear_net(tmp_path)
    for first, second, answer in (("3.1", "0.1", "unsat"), ("3.1", "-0.1", "sat"), ("2.9", "0.1", "sat")):
        said = f"(assert (or {parts[0].format(first)} {parts[1].format(second)}))"
        assert decide(onnx, written(tmp_path, 2, 2, said), seconds=10).answer == answer


def test_an_input_that_is_no_float32_is_said(tmp_path: Path) -> None:
    said = box(("0.1", "0.1"), ("-1", "1"))  # no float32 is 0.1
    found = decide(linear_net(tmp_path), written(tmp_path, 2, 2, said + "(assert (>= Y_0 2))"), seconds=10)
    assert found.answer is Decision.SAT
    assert found.x is not None
    assert found.x[0] == 0.1
    assert "no float32" in found.reason
    for level in LEVELS:
        wanted = written(tmp_path, 2, 2, said + "(assert (>= Y_0 2.101))")
        assert decide(linear_net(tmp_path), wanted, seconds=10, soundness=level).answer is Decision.UNSAT


def test_the_edge_is_not_claimed(tmp_path: Path) -> None:
    """y0 reaches 3 exactly, and `>= 3` is met there alone; `> 3` never."""
    onnx = linear_net(tmp_path)
    assert (
        decide(onnx, written(tmp_path, 2, 2, UNIT + "(assert (>= Y_0 3))"), seconds=2).answer is Decision.SAT
    )
    for level in LEVELS:
        found = decide(onnx, written(tmp_path, 2, 2, UNIT + "(assert (> Y_0 3))"), seconds=1, soundness=level)
        assert found.answer is Decision.UNKNOWN
        assert found.reason


def test_a_case_without_an_input_refutes_itself(tmp_path: Path) -> None:
    said = box(("1", "0"), ("0", "1")) + "(assert (>= Y_0 0))"
    found = decide(linear_net(tmp_path), written(tmp_path, 2, 2, said), seconds=1)
    assert found.answer is Decision.UNSAT
    assert math.isinf(found.bound)
    with pytest.raises(HardpointError):
        decide(tmp_path / "gone.onnx", written(tmp_path, 2, 2, said), seconds=1)


def test_little_time_is_unknown(tmp_path: Path) -> None:
    onnx = relu_net(tmp_path, inputs=30, hidden=60)
    said = box(*[("-1", "1")] * 30) + "(assert (>= Y_0 20))"
    found = decide(onnx, written(tmp_path, 30, 2, said), seconds=1e-4)
    assert found.answer is Decision.UNKNOWN
    assert "time" in found.reason


@pytest.mark.parametrize("stage", ["broken", "crown_spans", "settled", "read_network", "execution_losses"])
def test_a_stage_that_fails_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a stage failed")

    monkeypatch.setattr(deciding, stage, fails)
    wanted = written(tmp_path, 2, 2, UNIT + "(assert (>= Y_0 4))")
    with pytest.raises(RuntimeError, match="a stage failed"):
        decide(linear_net(tmp_path), wanted, soundness="deployed", seconds=5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bound", [math.nan, -math.inf, 0.0])
def test_a_proof_without_a_bound_above_0_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, bound: float
) -> None:
    proven = deciding.Answer.PROVEN

    def careless(*_: object, **__: object) -> object:
        from hardpoint.bounds.branch.search import Settled

        return Settled(proven, bound)

    monkeypatch.setattr(deciding, "settled", careless)
    wanted = written(tmp_path, 2, 2, UNIT + "(assert (>= Y_0 4))")
    assert decide(linear_net(tmp_path), wanted, soundness=level, seconds=5).answer is Decision.UNKNOWN


def test_weights_that_are_not_finite_are_no_answer(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        onnx = linear_net(tmp_path, weight=np.array([[1.0, value], [2.0, -1.0]], dtype=np.float32))
        with pytest.raises(HardpointError):
            decide(onnx, written(tmp_path, 2, 2, UNIT + "(assert (>= Y_0 4))"), seconds=5)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    onnx, wanted = linear_net(tmp_path), written(tmp_path, 2, 2, UNIT + "(assert (>= Y_0 4))")
    with pytest.raises(ConfigError, match="soundness"):
        decide(onnx, wanted, soundness="very")
    for seconds in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="seconds"):
            decide(onnx, wanted, seconds=seconds)
    with pytest.raises(DataError, match="3 values"):
        decide(onnx, written(tmp_path, 3, 2, box(*[("0", "1")] * 3) + "(assert (>= Y_0 4))"))
    with pytest.raises(DataError, match="3 outputs"):
        decide(onnx, written(tmp_path, 2, 3, UNIT + "(assert (>= Y_2 4))"))


def test_coarse_arithmetic_is_not_decided_as_deployed(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    kind, helper = onnx.TensorProto.FLOAT16, onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", kind, ["n", 2])],
        [helper.make_tensor_value_info("y", kind, ["n", 2])],
        [onnx.numpy_helper.from_array(np.ones((2, 2), np.float16), "w")],
    )
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    wanted = written(tmp_path, 2, 2, UNIT + "(assert (>= Y_0 4))")
    with pytest.raises(HardpointError, match="float16"):
        decide(path, wanted, soundness="deployed", seconds=5)
