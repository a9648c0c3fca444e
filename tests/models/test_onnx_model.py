"""Whole ONNX files: batch axes, shapes, probabilities, fallbacks, hostile files, real networks."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardpoint.core.access import Access
from hardpoint.core.box import UNBOUNDED
from hardpoint.core.errors import AccessDenied, DataError, ModelError, UnreadableModelFile
from hardpoint.models import Differentiable, Model, OnnxModel

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 10 - 0.5


def save(
    path: Path,
    nodes: list[Any],
    shape: list[Any],
    constants: dict[str, np.ndarray] | None = None,
    *,
    outputs: dict[str, int] | None = None,
    element: int = TensorProto.FLOAT,
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element, shape)],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (outputs or {"out": TensorProto.FLOAT}).items()
        ],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [output], name=f"the-{op}", **attributes)


def linear(path: Path, shape: list[Any] | None = None) -> Path:
    return save(path, [node("MatMul", ["x", "w"], "out")], shape or ["N", 4], {"w": WEIGHT})


def agrees(model: OnnxModel, x: torch.Tensor) -> None:
    torch.testing.assert_close(model.scores(x), model.runtime_scores(x), atol=1e-5, rtol=1e-4)


def test_known_scores_and_faces(tmp_path: Path) -> None:
    model = OnnxModel(linear(tmp_path / "a.onnx"))
    x = torch.rand(5, 4)
    torch.testing.assert_close(model.scores(x), x @ torch.from_numpy(WEIGHT))
    assert torch.equal(model.predict(x), model.scores(x).argmax(1))
    assert isinstance(model, Model)
    assert isinstance(model, Differentiable)
    assert not model.scores(x.requires_grad_()).requires_grad
    shown = model.describe()
    assert shown["kind"] == "onnx"
    assert shown["parameters"] == 12
    assert len(shown["sha256"]) == 64


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_any_number_of_rows(tmp_path: Path, batch: Any, rows: int) -> None:
    model = OnnxModel(linear(tmp_path / "a.onnx", [batch, 4]))
    x = torch.rand(rows, 4)
    assert model.scores(x).shape == (rows, 3)
    assert model.runtime_scores(x).shape == (rows, 3)
    agrees(model, x)


@pytest.mark.parametrize("target", [(1, 4), (1, -1), (-1, 4), (0, 4)])
@pytest.mark.parametrize("batch", [1, "N"])
def test_reshape_with_the_batch_written_in(tmp_path: Path, batch: Any, target: tuple[int, int]) -> None:
    nodes = [node("Reshape", ["x", "s"], "r"), node("MatMul", ["r", "w"], "out")]
    path = save(tmp_path / "a.onnx", nodes, [batch, 2, 2], {"w": WEIGHT, "s": np.array(target)})
    model = OnnxModel(path)
    assert model.notes == []
    assert model.module.graph.chunk is None
    agrees(model, torch.rand(7, 2, 2))


def test_graph_that_works_on_one_row_only(tmp_path: Path) -> None:
    nodes = [node("Squeeze", ["x", "zero"], "v"), node("MatMul", ["v", "w"], "out")]
    model = OnnxModel(save(tmp_path / "a.onnx", nodes, [1, 4], {"w": WEIGHT, "zero": np.array([0])}))
    assert model.access == Access.GRADIENTS
    assert model.module.graph.chunk == 1
    x = torch.rand(6, 4)
    agrees(model, x)
    torch.testing.assert_close(model.scores(x), x @ torch.from_numpy(WEIGHT))


def test_rows_that_would_mix_are_run_one_by_one(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMax", ["x"], "m", keepdims=0),
        node("Sub", ["x", "m"], "c"),
        node("MatMul", ["c", "w"], "out"),
    ]
    model = OnnxModel(save(tmp_path / "a.onnx", nodes, ["N", 4], {"w": WEIGHT}))
    assert model.module.graph.chunk == 1
    x = torch.rand(6, 4)
    expected = (x - x.amax(1, keepdim=True)) @ torch.from_numpy(WEIGHT)
    torch.testing.assert_close(model.scores(x), expected)


def test_lone_vector_input(tmp_path: Path) -> None:
    model = OnnxModel(linear(tmp_path / "a.onnx", [4]))
    x = torch.rand(5, 4)
    torch.testing.assert_close(model.scores(x), x @ torch.from_numpy(WEIGHT))
    agrees(model, x)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1), (2, 2)])
def test_inputs_are_reshaped_where_sizes_agree(tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = OnnxModel(linear(tmp_path / "a.onnx"))
    x = torch.rand(5, *shape)
    torch.testing.assert_close(model.scores(x), x.flatten(1) @ torch.from_numpy(WEIGHT))


def test_channel_order_is_not_guessed(tmp_path: Path) -> None:
    model = OnnxModel(save(tmp_path / "a.onnx", [node("Flatten", ["x"], "out")], [1, 4, 4, 3]))
    with pytest.raises(DataError, match="another order"):
        model.scores(torch.rand(2, 3, 4, 4))
    with pytest.raises(DataError, match=r"shape \(5,\)"):
        model.scores(torch.rand(2, 5))


def test_open_shape_needs_input_shape(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", [node("GlobalAveragePool", ["x"], "out")], ["N", 3, "H", "W"])
    with pytest.raises(ModelError, match="pass input_shape"):
        OnnxModel(path)
    model = OnnxModel(path, input_shape=(3, 5, 6))
    x = torch.rand(4, 3, 5, 6)
    torch.testing.assert_close(model.scores(x), x.mean((2, 3)))  # [n, K, 1, 1] is [n, K]
    with pytest.raises(ModelError, match="does not fit"):
        OnnxModel(path, input_shape=(4, 5, 6))


def test_final_softmax_is_left_out(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], "z"),
        node("Softmax", ["z"], "p", axis=-1),
        node("Identity", ["p"], "out"),
    ]
    model = OnnxModel(save(tmp_path / "a.onnx", nodes, ["N", 4], {"w": WEIGHT * 1e4}))
    x = torch.rand(5, 4)
    torch.testing.assert_close(model.scores(x), x @ torch.from_numpy(WEIGHT * np.float32(1e4)))
    assert model.notes == ["the scores are taken before the final Softmax"]
    kept = OnnxModel(model.path, probabilities=False)
    torch.testing.assert_close(kept.scores(x).sum(1), torch.ones(5))


def test_final_sigmoid_is_a_logit_of_two_classes(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], "z"), node("Sigmoid", ["z"], "out")]
    model = OnnxModel(save(tmp_path / "a.onnx", nodes, ["N", 4], {"w": WEIGHT[:, :1]}))
    x = torch.rand(5, 4)
    assert torch.equal(model.predict(x), (x @ torch.from_numpy(WEIGHT[:, :1]) > 0).long()[:, 0])


def test_probabilities_become_logarithms(tmp_path: Path) -> None:
    nodes = [node("Softmax", ["x"], "p"), node("Mul", ["p", "one"], "out")]
    path = save(tmp_path / "a.onnx", nodes, ["N", 4], {"one": np.ones(1, np.float32)})
    x = torch.rand(5, 4)
    torch.testing.assert_close(OnnxModel(path, probabilities=True).scores(x), x.log_softmax(1))


def test_unknown_operator_leaves_scores(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], "z"), node("Mish", ["z"], "out")]
    model = OnnxModel(save(tmp_path / "a.onnx", nodes, ["N", 4], {"w": WEIGHT}, opset=18))
    assert model.access == Access.SCORES
    assert "operator Mish (node 'the-Mish')" in model.notes[0]
    assert not hasattr(model, "module")
    assert not isinstance(model, Differentiable)
    x = torch.rand(5, 4)
    torch.testing.assert_close(model.scores(x), torch.nn.functional.mish(x @ torch.from_numpy(WEIGHT)))


def test_disagreement_leaves_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardpoint.models.onnx import graph

    monkeypatch.setitem(graph.OPERATORS, "MatMul", lambda a, b: 1.01 * (a @ b))
    model = OnnxModel(linear(tmp_path / "a.onnx"))
    assert model.access == Access.SCORES
    assert "disagree" in model.notes[0]
    x = torch.rand(2, 4)
    torch.testing.assert_close(model.scores(x), x @ torch.from_numpy(WEIGHT))


def test_labels_only_file(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], "z"), node("ArgMax", ["z"], "out", axis=1, keepdims=0)]
    path = save(tmp_path / "a.onnx", nodes, ["N", 4], {"w": WEIGHT}, outputs={"out": TensorProto.INT64})
    model = OnnxModel(path)
    x = torch.rand(5, 4)
    assert model.access == Access.LABELS
    assert torch.equal(model.predict(x), (x @ torch.from_numpy(WEIGHT)).argmax(1))
    with pytest.raises(AccessDenied):
        model.scores(x)


def test_output_is_chosen_by_name(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], "a"), node("Neg", ["a"], "b")]
    float_ = TensorProto.FLOAT
    path = save(tmp_path / "a.onnx", nodes, ["N", 4], {"w": WEIGHT}, outputs={"a": float_, "b": float_})
    x = torch.rand(5, 4)
    torch.testing.assert_close(OnnxModel(path, output="b").scores(x), -OnnxModel(path).scores(x))
    with pytest.raises(ModelError, match="use one of: a, b"):
        OnnxModel(path, output="c")


@pytest.mark.parametrize("element", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_other_precisions(tmp_path: Path, element: int) -> None:
    kind = {TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16}[element]
    path = save(
        tmp_path / "a.onnx",
        [node("MatMul", ["x", "w"], "out")],
        ["N", 4],
        {"w": WEIGHT.astype(kind)},
        outputs={"out": element},
        element=element,
    )
    model = OnnxModel(path)
    assert model.access == Access.GRADIENTS
    torch.testing.assert_close(model.scores(torch.ones(2, 4)), model.runtime_scores(torch.ones(2, 4)))


def test_lowered_access_has_no_module(tmp_path: Path) -> None:
    model = OnnxModel(linear(tmp_path / "a.onnx"), access="scores")  # type: ignore[arg-type]
    assert not hasattr(model, "module")
    labels = OnnxModel(linear(tmp_path / "a.onnx"), access=Access.LABELS)
    assert labels.predict(torch.rand(2, 4)).shape == (2,)
    with pytest.raises(AccessDenied):
        labels.scores(torch.rand(2, 4))


def test_survives_pickling(tmp_path: Path) -> None:
    model = OnnxModel(linear(tmp_path / "a.onnx"), input_range=UNBOUNDED, name="net")
    again = pickle.loads(pickle.dumps(model))
    x = torch.rand(3, 4)
    assert torch.equal(again.scores(x), model.scores(x))
    assert again.describe() == model.describe()


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    path = linear(tmp_path / "a.onnx")
    proto = onnx.load(str(path))
    proto.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    onnx.save(proto, str(path))
    with pytest.raises(ModelError, match="2 inputs"):
        OnnxModel(path)


def test_shape_bomb_is_not_folded(tmp_path: Path) -> None:
    from hardpoint.models.onnx.shapes import constant_of_shape, expand

    with pytest.raises(ValueError, match="larger than"):
        constant_of_shape((1 << 20, 1 << 20))
    with pytest.raises(ValueError, match="larger than"):
        expand(torch.zeros(1), (1 << 20, 1 << 20))


# Hostile files


def test_truncated_empty_and_foreign_files(tmp_path: Path) -> None:
    content = linear(tmp_path / "a.onnx").read_bytes()
    bad = tmp_path / "bad.onnx"
    for piece in (b"", b"\x80\x04hello", content[:40], content[:-20], os.urandom(300), b"\x00" * 50):
        bad.write_bytes(piece)
        with pytest.raises(UnreadableModelFile):
            OnnxModel(bad)
    with pytest.raises(UnreadableModelFile, match="not a file"):
        OnnxModel(tmp_path / "absent.onnx")
    with pytest.raises(UnreadableModelFile, match="not a file"):
        OnnxModel(tmp_path)


def test_every_truncation_is_a_named_error(tmp_path: Path) -> None:
    content = linear(tmp_path / "a.onnx").read_bytes()
    bad = tmp_path / "bad.onnx"
    for length in range(0, len(content) - 1, 3):
        bad.write_bytes(content[:length])
        with pytest.raises(ModelError):
            OnnxModel(bad)


def test_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = linear(tmp_path / "a.onnx")
    monkeypatch.setattr("hardpoint.models.onnx.files.MAX_BYTES", 50)
    with pytest.raises(UnreadableModelFile, match="more than 50 bytes"):
        OnnxModel(path)


def test_tensor_smaller_than_it_claims(tmp_path: Path) -> None:
    path = linear(tmp_path / "a.onnx")
    proto = onnx.load(str(path))
    proto.graph.initializer[0].dims[0] = 1 << 40
    onnx.save(proto, str(path))
    with pytest.raises(ModelError):
        OnnxModel(path)


def external(folder: Path, **entries: str) -> Path:
    """A linear model whose weights lie in another file."""
    proto = onnx.load(str(linear(folder / "a.onnx")))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "a.onnx").write_bytes(proto.SerializeToString())
    return folder / "a.onnx"


def test_external_data_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"skip" + WEIGHT.tobytes())
    model = OnnxModel(external(tmp_path, location="w.bin", offset="4", length="48"))
    x = torch.rand(5, 4)
    torch.testing.assert_close(model.scores(x), x @ torch.from_numpy(WEIGHT))
    before = model.describe()["sha256"]
    (tmp_path / "w.bin").write_bytes(b"skip" + (2 * WEIGHT).tobytes())
    assert OnnxModel(tmp_path / "a.onnx").describe()["sha256"] != before


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "/etc/passwd"}, "outside"),
        ({"location": "../w.bin"}, "outside"),
        ({"location": "sub/../../w.bin"}, "outside"),
        ({"location": "..\\w.bin"}, "outside"),
        ({"location": "C:\\w.bin"}, "outside"),
        ({"location": "\\\\host\\share\\w.bin"}, "outside"),
        ({"location": ""}, "outside"),
        ({}, "outside"),
        ({"location": "absent.bin"}, "does not exist"),
        ({"location": "."}, "does not exist"),
        ({"location": "link.bin"}, "link out"),
        ({"location": "w.bin", "offset": "44", "length": "48"}, "needs bytes"),
        ({"location": "w.bin", "offset": "100"}, "needs bytes"),
        ({"location": "w.bin", "offset": "-4"}, "negative"),
        ({"location": "w.bin", "length": "-1"}, "negative"),
        ({"location": "w.bin", "offset": "four"}, "no number"),
        ({"location": "w.bin", "length": str(1 << 60)}, "needs bytes"),
    ],
)
def test_external_data_that_is_refused(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(UnreadableModelFile, match=message) as caught:
        OnnxModel(external(folder, **entries))
    assert caught.value.cure


def test_external_data_in_a_constant_node_is_checked(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(WEIGHT)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    nodes = [helper.make_node("Constant", [], ["w"], value=tensor), node("MatMul", ["x", "w"], "out")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(UnreadableModelFile, match="outside"):
        OnnxModel(tmp_path / "a.onnx")


# Real networks

_DATA = Path(os.environ.get("HARDPOINT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
_NETS = sorted(p for p in (_DATA / "verify" / "vnncomp").rglob("*.onnx*") if p.is_file())


@pytest.mark.skipif(not _NETS, reason="no VNN-COMP networks under HARDPOINT_DATA/verify/vnncomp")
def test_vnncomp_networks(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for net in _NETS:
        path = net
        if net.suffix == ".gz":
            path = tmp_path / net.stem
            path.write_bytes(gzip.decompress(net.read_bytes()))
        model = OnnxModel(path)
        assert model.access == Access.GRADIENTS, model.notes
        assert model.module.graph.chunk is None, path
        x = torch.rand(7, *model.module.graph.input_shape, generator=draw)
        theirs = model.runtime_scores(x)
        tolerance = 1e-5 * float(theirs.abs().max()) + 1e-7
        for rows in (x, x[:1], x.flatten(1)):
            torch.testing.assert_close(model.scores(rows), theirs[: len(rows)], atol=tolerance, rtol=1e-4)
