"""From what a user names to a model, and models that show less."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hardpoint.core.access import Access
from hardpoint.core.errors import AccessDenied, ModelError, UnsafeModelFile
from hardpoint.models import Differentiable, HttpModel, SklearnModel, TorchModel, limit_access, load_model

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    def forward(self, x):
        return self.body(x)

class builders:
    @staticmethod
    def small():
        return Net()

ready = Net().eval()
number = 3

def broken():
    raise ValueError("no such width")

def needs(width):
    return Net()
"""


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "their_nets.py").write_text(FACTORY)
    (tmp_path / "their_broken.py").write_text("import module_that_is_absent")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("their_nets", None)


def test_module_model_and_options() -> None:
    net = nn.Linear(4, 3).eval()
    model = load_model(net, input_range=(-1, 1), name="net")
    assert isinstance(model, TorchModel)
    assert model.box.describe() == [-1.0, 1.0]
    assert load_model(model) is model
    assert not net.training
    with pytest.raises(ModelError, match="input_range cannot be set"):
        load_model(model, input_range=(0, 1))
    with pytest.raises(ModelError, match="no option 'colour'"):
        load_model(net, colour="red")


def test_modules_of_the_user_keep_their_mode() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout())
    load_model(net)
    assert net.training


@pytest.mark.parametrize("spec", ["their_nets:Net", "their_nets:builders.small", "their_nets:ready"])
def test_factories(user_code: Path, spec: str) -> None:
    model = load_model(spec)
    assert isinstance(model, TorchModel)
    assert not model.module.training


def test_weights_go_into_the_factory_s_module(user_code: Path) -> None:
    state = {"body.0.weight": torch.rand(3, 4), "body.0.bias": torch.rand(3)}
    torch.save(state, "w.pt")
    model = load_model("their_nets:Net", weights="w.pt")
    x = torch.rand(2, 4)
    torch.testing.assert_close(model.scores(x), x @ state["body.0.weight"].T + state["body.0.bias"])
    torch.save({"body.0.weight": torch.rand(3, 4)}, "w.pt")
    with pytest.raises(ModelError, match=r"lacks body\.0\.bias"):
        load_model("their_nets:Net", weights="w.pt")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("their_nets:absent", "has no 'absent'"),
        ("their_absent:Net", "no module named 'their_absent'"),
        ("their_broken:Net", "no module named 'module_that_is_absent'"),
        ("their_nets:broken", "raised ValueError: no such width"),
        ("their_nets:needs", "raised TypeError"),
        ("their_nets:number", "int is no model"),
        ("nothing here", "there is no model"),
        ("absent.xyz", "there is no model"),
    ],
)
def test_specs_that_cannot_be_used(user_code: Path, spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(spec)
    assert caught.value.cure


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_alone_ask_for_the_architecture(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ModelError, match=r"package\.module:factory"):
        load_model(tmp_path / f"w{suffix}")


def test_pickled_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeModelFile):
        load_model(str(tmp_path / "m.pkl"))


def test_url_and_estimator() -> None:
    pytest.importorskip("httpx")
    assert isinstance(load_model("http://localhost:1/predict"), HttpModel)
    linear = pytest.importorskip("sklearn.linear_model")
    assert isinstance(load_model(linear.LogisticRegression().fit([[0.0], [1.0]], [0, 1])), SklearnModel)
    with pytest.raises(ModelError, match="no torch module"):
        load_model("http://localhost:1/predict", weights="w.pt")


def test_onnx_path(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError, match="not a file"):
        load_model(str(tmp_path / "absent.onnx"))


def test_limited_models_deny() -> None:
    model = TorchModel(nn.Linear(4, 3))
    x = torch.rand(5, 4)
    assert limit_access(model, "gradients") is model
    scores = limit_access(model, "scores")
    labels = limit_access(scores, "labels")
    for limited in (scores, labels):
        assert not hasattr(limited, "module")
        assert not isinstance(limited, Differentiable)
        assert torch.equal(limited.predict(x), model.predict(x))
    assert torch.equal(scores.scores(x), model.scores(x))
    assert not scores.scores(x.requires_grad_()).requires_grad
    with pytest.raises(AccessDenied):
        labels.scores(x)
    with pytest.raises(AccessDenied, match="offers labels"):
        limit_access(labels, Access.SCORES)
    assert labels.describe()["access"] == "labels"
    assert limit_access(labels, "labels") is labels


def test_access_is_limited_on_loading() -> None:
    model = load_model(nn.Linear(4, 3), access="labels")
    assert model.access == Access.LABELS
    with pytest.raises(AccessDenied):
        model.scores(torch.rand(1, 4))


def test_importing_models_needs_no_extra() -> None:
    code = (
        "import sys, hardpoint.models; "
        "print([m for m in ('onnx', 'onnxruntime', 'sklearn', 'httpx', 'pandas') if m in sys.modules])"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_factory_in_a_file_is_called_and_draws_the_same_weights(tmp_path: Path) -> None:
    file = tmp_path / "some_network_file.py"
    file.write_text("from torch import nn\n\n\ndef make():\n    return nn.Linear(3, 2)\n")
    before = torch.get_rng_state()
    first, again = (load_model(f"{file}:make") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(4, 3)
    assert torch.equal(first.scores(x), again.scores(x))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="has no 'other'"):
        load_model(f"{file}:other")
    with pytest.raises(ModelError, match="there is no file"):
        load_model(f"{tmp_path / 'missing.py'}:make")
    (tmp_path / "two words.py").write_text("")
    with pytest.raises(ModelError, match="cannot be imported by its name"):
        load_model(f"{tmp_path / 'two words.py'}:make")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / file.name).write_text(file.read_text().replace("3, 2", "3, 5"))
    for _ in range(2):
        other = load_model(f"{tmp_path / 'deeper' / file.name}:make")
        assert other.scores(x).shape == (4, 5)  # type: ignore[attr-defined]
    assert load_model(f"{file}:make").scores(x).shape == (4, 2)  # type: ignore[attr-defined]
    (tmp_path / "deeper" / file.name).with_name("raising_file.py").write_text("1 / 0\n")
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        load_model(f"{tmp_path / 'deeper' / 'raising_file.py'}:make")
