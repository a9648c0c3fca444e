"""``certify``: closed forms, brute force, records that go on where they stopped, and what it refuses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hardpoint as hp
from hardpoint.certify import certify as verb
from hardpoint.certify.parts import Part
from hardpoint.core.errors import (
    ConfigError,
    DataError,
    HardpointError,
    ModelError,
    NothingToTest,
    RunError,
    ThreatError,
)
from hardpoint.evidence import CertificateRecord, RunFolder, Standing, Verdict
from hardpoint.models import TorchModel
from hardpoint.threats import L0, L1, L2, Linf, Targeted, Threat
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Schema

from small_models import centred, rand, randn, seeded  # isort: skip


LEVELS = ("real", "rigorous", "deployed")
QUIET = {"progress": False}


def linear(d: int = 5, classes: int = 4) -> TorchModel:
    return TorchModel(seeded(lambda: nn.Linear(d, classes)).eval(), (-20.0, 20.0))


def relu(d: int = 2, classes: int = 3, hidden: int = 6, seed: int = 0) -> TorchModel:
    def build() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    net = seeded(build, seed).eval().requires_grad_(False)
    for weight in net.parameters():
        weight.mul_(2)
    centred(net, randn(256, d, seed=seed))
    return TorchModel(net, (-3.0, 3.0))


def classes_of(model: TorchModel, x: Tensor) -> Tensor:
    return model.predict(x)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("threat", "dual"), [(Linf(0.2), 1.0), (L2(0.4), 2.0), (L1(0.7), float("inf"))])
def test_a_linear_network_is_decided_as_its_weights_say(level: str, threat: hp.Linf, dual: float) -> None:
    model, x = linear(), randn(40, 5, seed=1)
    layer, y = model.module, classes_of(model, x)
    assert isinstance(layer, nn.Linear)
    scores = layer(x).detach()
    rows = layer.weight.detach()
    apart = scores.gather(1, y[:, None]) - scores
    away = torch.stack([(rows[int(label)] - rows).norm(dual, dim=1) for label in y])
    room = (apart - threat.eps * away).scatter(1, y[:, None], torch.inf).amin(1)
    clear = room.abs() > 1e-3
    assert 5 < int((room > 0).sum()) < 35
    found = hp.certify(model, x, y, threat=threat, soundness=level, seconds_per_input=5, **QUIET)
    assert torch.equal(found.certified[clear], room[clear] > 0)
    assert torch.equal(found.vulnerable[clear], room[clear] < 0)
    proven = found.certified
    assert bool((found.bounds[proven] <= room[proven].double() + 1e-5).all())
    assert bool(found.recheck().all())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_grid_finds_nothing_where_a_proof_stands_and_points_where_it_fell(level: str, seed: int) -> None:
    model, x = relu(seed=seed), randn(12, 2, seed=seed).clamp(-3, 3)
    y, eps = classes_of(model, x), 0.1
    found = hp.certify(model, x, y, threat=Linf(eps), soundness=level, seconds_per_input=5, **QUIET)
    assert found.record.count(Standing.UNKNOWN) == 0
    steps = torch.linspace(-eps, eps, 41)
    grid = torch.tensor(list(itertools.product(steps.tolist(), repeat=2)))
    for place in range(len(x)):
        points = (x[place] + grid).clamp(-3, 3)
        if bool((classes_of(model, points) != y[place]).any()):
            assert not found.certified[place]
    for place, point in found.witnesses():
        assert bool((point - x[place]).abs().max() <= eps * (1 + 1e-6))
        assert classes_of(model, point.unsqueeze(0)) != y[place]
    assert 0 < int(found.certified.sum()) < len(x)


def test_levels_and_methods_only_take_proofs_away() -> None:
    model, x = relu(d=3, hidden=10), randn(30, 3, seed=3).clamp(-3, 3)
    y = classes_of(model, x)

    def proven(**said: str) -> Tensor:
        return hp.certify(model, x, y, threat=L2(0.15), seconds_per_input=3, **said, **QUIET).certified

    full = proven()
    for method in ("interval", "crown", "alpha"):
        assert not bool((proven(method=method) & ~full).any())
    assert not bool((proven(method="interval") & ~proven(method="alpha")).any())


def test_inputs_that_are_wrong_unchanged_are_neither_proven_nor_broken() -> None:
    model, x = relu(), randn(6, 2, seed=2)
    y = (classes_of(model, x) + 1) % 3
    found = hp.certify(model, x, y, threat=Linf(0.01), **QUIET)
    assert {each.standing for each in found.certificates} == {Standing.MISTAKEN}
    assert (found.rate.value, found.upper.value, found.record.clean.value) == (0, 0, 0)
    assert list(found.witnesses()) == []


def test_features_that_may_not_move_do_not_move() -> None:
    features = [
        Feature("fixed", Kind.REAL, low=-3, high=3, mutable=Mutability.NO),
        Feature("free", Kind.REAL, low=-3, high=3),
    ]
    model = TorchModel(nn.Linear(2, 2).eval().requires_grad_(False), (-3.0, 3.0))
    model.module.weight.copy_(torch.tensor([[1.0, 0.1], [-1.0, -0.1]]))
    model.module.bias.zero_()
    x = torch.tensor([[0.5, 0.0], [0.05, 0.0]])
    edits = FeatureEdits(
        Schema(features), eps=0.5, norm="linf"
    )  # 0.5 of a range of 6: the free one moves by 3
    found = hp.certify(model, x, torch.zeros(2, dtype=torch.int64), threat=edits, **QUIET)
    assert [each.standing for each in found.certificates] == [Standing.ROBUST, Standing.VULNERABLE]
    for _, point in found.witnesses():
        assert point[0] == x[1, 0]


def test_a_record_is_the_same_after_json() -> None:
    model, x = relu(), randn(8, 2, seed=5)
    record = hp.certify(model, x, classes_of(model, x), threat=L1(0.1), gate=0.5, **QUIET).record
    text = json.dumps(record.as_json(), allow_nan=True)
    again = CertificateRecord.from_json(json.loads(text))
    assert json.dumps(again.as_json()) == text
    assert again.gate == 0.5
    with pytest.raises((KeyError, TypeError, ValueError)):
        CertificateRecord.from_json({**record.as_json(), "level": "hopeful"})


def test_a_gate_fails_only_where_what_is_unknown_could_not_reach_it() -> None:
    model, x = relu(d=20, hidden=30), randn(20, 20, seed=5)
    record = hp.certify(model, x, classes_of(model, x), threat=Linf(0.02), method="interval", **QUIET).record
    certified, upper = record.certified.value, record.unbroken.value
    assert certified < upper

    def verdict(gate: float | None) -> Verdict:
        return CertificateRecord(**{**record.__dict__, "gate": gate}).verdict

    assert verdict(None) is verdict(certified) is Verdict.PASS
    assert verdict((certified + upper) / 2) is Verdict.WARN
    assert verdict(upper + 0.01) is Verdict.FAIL


class Stops(Exception):
    """Ends a run in the middle."""


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    model, x = relu(d=6, hidden=12), randn(10, 6, seed=6)
    y = classes_of(model, x)
    said = {"threat": Linf(0.1), "batch_size": 4, **QUIET}
    whole = hp.certify(model, x, y, **said)
    met, seen = verb._met, []

    def counted(plan, batch):  # type: ignore[no-untyped-def]
        if len(seen) == killed_after:
            raise Stops
        seen.append(len(batch.x))
        return met(plan, batch)

    monkeypatch.setattr(verb, "_met", counted)
    with pytest.raises(Stops):
        hp.certify(model, x, y, run_dir=tmp_path / "run", **said)
    run = RunFolder(tmp_path / "run")
    assert run.certificates() == []
    assert run.header()["status"] == "running"
    seen.clear()
    killed_after = 3
    found = hp.certify(model, x, y, run_dir=tmp_path / "run", resume=True, **said)
    assert [e.standing for e in found.certificates] == [e.standing for e in whole.certificates]
    assert torch.equal(found.bounds.nan_to_num(), whole.bounds.nan_to_num())
    assert run.header()["status"] == "finished"
    (record,) = run.certificates()
    assert [each.standing for each in record.certificates] == [each.standing for each in whole.certificates]
    kept = run.witnesses("linf-0.1")
    assert kept["index"].tolist() == found.vulnerable.nonzero().flatten().tolist()
    for place, point in zip(kept["index"], kept["point"], strict=True):
        assert classes_of(model, torch.from_numpy(point)[None]) != y[place]


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    model, x = relu(), randn(4, 2, seed=6)
    y = classes_of(model, x)
    hp.certify(model, x, y, threat=Linf(0.1), run_dir=tmp_path / "run", **QUIET)
    with pytest.raises(RunError, match="already holds a run"):
        hp.certify(model, x, y, threat=Linf(0.1), run_dir=tmp_path / "run", **QUIET)
    for said in ({"soundness": "rigorous"}, {"seconds_per_input": 3.0}, {"method": "crown"}, {"seed": 1}):
        with pytest.raises(RunError, match="another"):
            hp.certify(model, x, y, threat=Linf(0.1), run_dir=tmp_path / "run", resume=True, **said, **QUIET)
    with pytest.raises(RunError, match="another"):
        hp.certify(relu(seed=9), x, y, threat=Linf(0.1), run_dir=tmp_path / "run", resume=True, **QUIET)
    unit = next((tmp_path / "run" / "certificates" / "linf-0.1" / "units").glob("*.npz"))
    arrays = dict(np.load(unit))
    np.savez(unit, **{**arrays, "index": arrays["index"] + 1})
    with pytest.raises(RunError, match="other inputs"):
        hp.certify(model, x, y, threat=Linf(0.1), run_dir=tmp_path / "run", resume=True, **QUIET)
    np.savez(unit, **{**arrays, "standing": np.array(["safe"] * 4)})
    with pytest.raises(RunError, match="damaged"):
        hp.certify(model, x, y, threat=Linf(0.1), run_dir=tmp_path / "run", resume=True, **QUIET)
    with pytest.raises(KeyError):
        Part.read({})


def test_recheck_notices_other_weights() -> None:
    model, x = relu(), randn(8, 2, seed=7)
    found = hp.certify(model, x, classes_of(model, x), threat=Linf(0.3), **QUIET)
    assert bool(found.recheck().all())
    assert found.record.count(Standing.VULNERABLE) > 0
    with torch.no_grad():
        for weight in model.module.parameters():
            weight.zero_()
    model.module[-1].bias.copy_(torch.arange(3.0))  # answers class 2 everywhere
    gone = found.vulnerable & (torch.tensor([each.label for each in found.certificates]) == 2)
    assert not bool(found.recheck()[gone].any())


X, Y = torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64)
BAD: dict[str, tuple[dict[str, object], type[HardpointError]]] = {
    "NaN": ({"x": torch.full((2, 2), torch.nan)}, DataError),
    "outside": ({"x": torch.full((2, 2), 4.0)}, DataError),
    "labels that are too few": ({"y": Y[:1]}, DataError),
    "labels that are not classes": ({"y": Y + 3}, DataError),
    "labels below 0": ({"y": Y - 1}, DataError),
    "nothing": ({"x": X[:0], "y": Y[:0]}, NothingToTest),
    "a threat without bounds": ({"threat": L0(1)}, ThreatError),
    "a targeted threat": ({"threat": Threat(Linf(0.1), Targeted(1))}, ThreatError),
    "a level that is none": ({"soundness": "very"}, ConfigError),
    "a method that is none": ({"method": "magic"}, ConfigError),
    "no time": ({"seconds_per_input": 0.0}, ConfigError),
    "time that is no number": ({"seconds_per_input": float("nan")}, ConfigError),
    "no batch": ({"batch_size": 0}, ConfigError),
    "a gate that is no share": ({"gate": 2.0}, ConfigError),
    "a network that trains": (
        {"model": TorchModel(nn.Sequential(nn.Linear(2, 3), nn.Dropout()).train())},
        ModelError,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_certified_is_said(name: str) -> None:
    changed, kind = BAD[name]
    said = {"model": relu(), "x": X, "y": Y, "threat": Linf(0.1), **QUIET} | changed
    with pytest.raises(kind):
        hp.certify(said.pop("model"), said.pop("x"), said.pop("y"), **said)


@pytest.mark.parametrize("level", ["real", "rigorous", "deployed"])
def test_an_onnx_file_is_proven_as_the_network_in_it(tmp_path, level):
    onnx = pytest.importorskip("onnx")
    from onnx_nets import relu_net

    path = relu_net(tmp_path, inputs=4, hidden=10)
    weights = [
        torch.from_numpy(onnx.numpy_helper.to_array(w).copy()) for w in onnx.load(path).graph.initializer
    ]
    lines = [nn.Linear(*weight.shape, bias=False) for weight in weights]
    for line, weight in zip(lines, weights, strict=True):
        line.weight = nn.Parameter(weight.T.contiguous())
    net = nn.Sequential(lines[0], nn.ReLU(), lines[1], nn.ReLU(), lines[2]).eval()
    x = rand(60, 4, seed=7)
    y = net(x).argmax(1)
    found, known = (
        hp.certify(model, x, y, threat=Linf(0.1), soundness=level, progress=False, seconds_per_input=2)
        for model in (str(path), net)
    )
    assert found.certified.any()
    assert found.vulnerable.any()
    assert torch.equal(found.certified, known.certified)
    assert found.recheck().all()


def test_onnx_files_that_cannot_be_proven_are_refused(tmp_path):
    pytest.importorskip("onnx")
    from hardpoint.models.onnx import OnnxModel
    from onnx_nets import relu_net

    path = relu_net(tmp_path)
    half = saved_onnx(
        tmp_path / "half.onnx",
        [("MatMul", ["x", "w"], ["y"])],
        {"w": np.ones((2, 2), np.float16)},
        [2],
        [2],
        kind="FLOAT16",
    )
    for model, level, said in (
        (OnnxModel(path, access="scores"), "real", "no bound is known"),
        (OnnxModel(path, probabilities=True), "real", "answers probabilities"),
        (OnnxModel(half), "deployed", "float16"),
    ):
        with pytest.raises(ModelError, match=said):
            hp.certify(model, rand(3, 2), torch.zeros(3).long(), threat=Linf(0.1), soundness=level, **QUIET)


def saved_onnx(path, nodes, weights, shape, answers, kind="FLOAT"):
    """A file of ``nodes`` from ``x`` to ``y`` with a batch of any size."""
    onnx = pytest.importorskip("onnx")
    kind, helper = getattr(onnx.TensorProto, kind), onnx.helper
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "net",
        [helper.make_tensor_value_info("x", kind, ["n", *shape])],
        [helper.make_tensor_value_info("y", kind, ["n", *answers])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def test_an_onnx_file_is_proven_about_the_numbers_it_sees(tmp_path):
    """float64 inputs are rounded before the file sees them: about 1e6 + 1/32, less 1e6, is 1/16 or 0 then."""
    path = saved_onnx(
        tmp_path / "gap.onnx",
        [("Split", ["x", "parts"], ["a", "b"], {"axis": 1}), ("Sub", ["a", "b"], ["h"]), ("Gemm", ["h", "w", "c"], ["y"])],
        {"parts": np.array([20, 20]), "w": np.ones((20, 2), np.float32) * np.array([[0, 1]], np.float32), "c": np.array([1.0, 0.0], np.float32)},
        [40],
        [2],
    )  # fmt: skip
    x = torch.full((1, 40), 1e6, dtype=torch.float64)
    x[:, :20] += 1 / 32 - 2.0**-9
    q = x.clone()
    q[:, :20] += 2.0**-8
    model = hp.models.OnnxModel(path, (0.0, 2e6), probabilities=False)
    assert int(model.predict(x)) == 0
    assert int(model.predict(q)) == 1
    for threat in (Linf(2.0**-8), L2(2.0**-8 * 20**0.5 * 1.01), L1(20 * 2.0**-8 * 1.01)):
        found = hp.certify(model, x, torch.tensor([0]), threat=threat, soundness="deployed", **QUIET)
        assert not found.certified.any()
    exact = hp.certify(model, x, torch.tensor([0]), threat=Linf(2.0**-8), soundness="rigorous", **QUIET)
    assert exact.certified.all()


@pytest.mark.parametrize("form", ["[n]", "[n, K, 1, 1]"])
def test_answers_of_an_onnx_file_are_read_as_the_model_reads_them(tmp_path, form):
    draw = np.random.default_rng(0)
    if form == "[n]":
        nodes, answers = [("MatMul", ["x", "w"], ["m"]), ("Squeeze", ["m", "axes"], ["y"])], []
        weights = {"w": draw.normal(size=(4, 1)).astype(np.float32), "axes": np.array([1])}
    else:
        nodes, answers = [("MatMul", ["x", "w"], ["m"]), ("Unsqueeze", ["m", "axes"], ["y"])], [3, 1, 1]
        weights = {"w": draw.normal(size=(4, 3)).astype(np.float32), "axes": np.array([2, 3])}
    model = hp.models.OnnxModel(
        saved_onnx(tmp_path / "net.onnx", nodes, weights, [4], answers), (-5.0, 5.0), probabilities=False
    )
    x = randn(30, 4, seed=1)
    found = hp.certify(model, x, model.predict(x), threat=Linf(0.05), **QUIET)
    margins = x @ torch.from_numpy(weights["w"])
    if form == "[n]":
        exact = margins[:, 0].abs() / torch.from_numpy(weights["w"])[:, 0].abs().sum()
        sure = (exact - 0.05).abs() > 1e-4
        assert torch.equal(found.certified[sure], (exact > 0.05)[sure])
    assert found.certified.any()
    assert found.recheck().all()


def test_a_final_softmax_is_left_out_and_that_is_said(tmp_path):
    """float32 rounds both of its answers to one half, which the scores before it are not."""
    nodes = [("MatMul", ["x", "w"], ["m"]), ("Softmax", ["m"], ["y"], {"axis": 1})]
    weights = {"w": np.array([[0.0, 1e-8], [0.0, 1e-8]], np.float32)}
    path = saved_onnx(tmp_path / "soft.onnx", nodes, weights, [2], [2])
    x = torch.full((1, 2), 0.5)
    found = hp.certify(path, x, torch.tensor([1]), threat=Linf(0.1), soundness="deployed", **QUIET)
    assert found.certified.all()
    assert "Softmax" in found.record.notes[0]
    assert "Softmax" in found.report(tmp_path / "page.html").read_text()
