"""The fast copy: equal to the model, dropped where it is not, chosen the same way twice."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from hardpoint.engine import TwinPlan, build_twin, choose_twin
from hardpoint.engine import twin as twins
from hardpoint.engine.twin import Itself, Twin, fold_batch_norms
from hardpoint.models.torch import TorchModel
from small_models import Ledger, Noisy, conv, mlp, rand


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hardpoint" / "twins"


def with_statistics(build, *shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build().double()
        for _ in range(5):
            net(torch.randn(16, *shape, dtype=torch.float64))
    return net.eval()


class Residual(nn.Module):
    """The convolution's output is used twice: only one use sees the batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x):
        z = self.conv(x)
        return (z + self.norm(input=z)).flatten(1)


class Tied(nn.Module):
    """One convolution, two batch norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.b(self.conv(self.a(self.conv(x)))).flatten(1)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        z = self.norm(self.conv(x))
        return (z if float(x.sum()) > 0 else -z).flatten(1)


NETS = {
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()),
        (2, 6, 5),
    ),
    "conv no bias no affine": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, affine=False), nn.Flatten()),
        (2, 6, 5),
    ),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Flatten()),
        (4, 5, 5),
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten()), (2, 9)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Flatten()), (1, 4, 4, 4)),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)), (6,)),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.Flatten()), (2, 6, 5)),
    "relu between": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten()),
        (2, 6, 5),
    ),
    "used twice": (Residual, (2, 6, 5)),
    "tied": (Tied, (2, 6, 5)),
    "branching": (Branching, (2, 6, 5)),
    "no norm": (lambda: nn.Sequential(nn.Linear(6, 3)), (6,)),
}


@pytest.mark.parametrize("name", NETS)
def test_folding_changes_no_answer_and_no_gradient(name):
    build, shape = NETS[name]
    net = with_statistics(build, *shape)
    folded = fold_batch_norms(copy.deepcopy(net).requires_grad_(False))
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    points = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    known, ours = net(points[0]), folded(points[1])
    assert torch.allclose(known, ours, atol=1e-10)
    weights = torch.randn(known.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (a,), (b,) = (
        torch.autograd.grad((z * weights).sum(), p) for z, p in zip((known, ours), points, strict=True)
    )
    assert torch.allclose(a, b, atol=1e-10)
    assert all(not p.requires_grad for p in folded.parameters())


def test_folding_folds():
    folded = fold_batch_norms(copy.deepcopy(conv()))
    traced = [node.target for node in folded.graph.nodes if node.op == "call_module"]
    assert not any(isinstance(folded.get_submodule(t), nn.BatchNorm2d) for t in traced)


def test_the_model_is_never_touched_by_its_copies(cache):
    model = conv()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    choose_twin(TorchModel(model), rand(32, 2, 6, 5))
    build_twin(TorchModel(model), TwinPlan(folded=True, channels_last=True, bfloat16=True))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
    assert flags == [(p.requires_grad, p.grad) for p in model.parameters()]
    assert model[0].weight.is_contiguous()


@pytest.mark.parametrize(
    "plan", [TwinPlan(), TwinPlan(folded=True), TwinPlan(channels_last=True), TwinPlan(bfloat16=True)]
)
def test_copies_answer_in_usual_floats_whatever_they_compute_in(plan):
    twin = build_twin(TorchModel(conv()), plan)
    assert isinstance(twin, Twin)
    scores = twin.scores(rand(4, 2, 6, 5, dtype=torch.float64))
    assert scores.dtype == torch.float32
    point = rand(4, 2, 6, 5).requires_grad_(True)
    (gradient,) = torch.autograd.grad(twin.raw_scores(point).sum(), point)
    assert gradient.dtype == torch.float32
    assert gradient.any()


class Grumpy(nn.Module):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock, self.layer = threading.Lock(), mlp()

    def forward(self, x):
        return self.layer(x)


class Changeling(nn.Module):
    """Its copies answer something else."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.layer, self.offset = mlp(), offset

    def __deepcopy__(self, memo):
        return Changeling(3.0)

    def forward(self, x):
        return self.layer(x) + torch.tensor([self.offset, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("module", [Grumpy(), Changeling()])
@pytest.mark.parametrize("n", [1, 8, 64])
def test_a_copy_that_fails_or_disagrees_is_not_used(module, n, cache):
    assert choose_twin(TorchModel(module.eval()), rand(n, 8)) == TwinPlan(copied=False)


def test_a_step_that_disagrees_is_dropped(cache, monkeypatch):
    """However fast it is."""
    real, model, x = twins.build_twin, TorchModel(conv()), rand(64, 2, 6, 5)

    def built(model, plan, *, wrong: bool):
        twin = real(model, plan)
        if wrong and plan.channels_last:
            scores = twin._scores
            monkeypatch.setattr(twin, "_scores", lambda x: scores(x) * 1.01)
        return twin

    monkeypatch.setattr(twins, "times_of", lambda copies, x, **_: [1.0, 0.1])
    for wrong in (False, True):
        monkeypatch.setattr(twins, "build_twin", partial(built, wrong=wrong))
        monkeypatch.setattr(twins, "_remembered", lambda _: None)
        assert choose_twin(model, x).channels_last is not wrong


def test_attacks_never_search_in_fewer_bits(cache, monkeypatch):
    """On rugged networks that misses examples, and would make figures depend on the processor."""
    monkeypatch.setattr(twins, "times_of", lambda copies, x, **_: [1.0, 0.1])
    model = TorchModel(mlp())
    assert not choose_twin(model, rand(64, 8)).bfloat16
    (file,) = cache.iterdir()
    file.write_text(json.dumps(TwinPlan(bfloat16=True).__dict__))
    assert not choose_twin(model, rand(64, 8)).bfloat16


def test_a_random_model_may_be_copied(cache):
    assert choose_twin(TorchModel(Noisy(mlp(), 1.0).eval()), rand(64, 8)).copied


def test_models_without_a_module_are_asked_as_they_are():
    model = Ledger(mlp(), "scores")
    assert choose_twin(model, rand(64, 8)) == TwinPlan(copied=False)
    assert isinstance(build_twin(model, TwinPlan()), Itself)


def test_the_choice_is_remembered(cache, monkeypatch):
    model = TorchModel(mlp())
    first = choose_twin(model, rand(64, 8))
    (file,) = cache.iterdir()
    forced = replace(first, folded=not first.folded, speedup=7.0)
    file.write_text(json.dumps(forced.__dict__))
    assert choose_twin(model, rand(64, 8)) == forced


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"copied": true, "surprise": 1}',
    b'{"copied": "yes", "folded": "no"}',
    b'{"copied": false}',
    b'{"bfloat16": null}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_memory_is_measured_anew(cache, content):
    model = TorchModel(mlp())
    choose_twin(model, rand(64, 8))
    (file,) = cache.iterdir()
    file.write_bytes(content)
    plan = choose_twin(model, rand(64, 8))
    assert plan.copied
    assert isinstance(plan.bfloat16, bool)
    assert json.loads(file.read_text())["copied"] is True


def test_a_memory_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    assert choose_twin(TorchModel(mlp()), rand(64, 8)).copied


def test_a_remembered_plan_is_checked_against_the_model_at_hand(cache, monkeypatch):
    """Two models of one structure share a memory; the plan of the first need not suit the second."""
    good, bad = TorchModel(mlp()), TorchModel(mlp(seed=1))
    choose_twin(good, rand(64, 8))
    (file,) = cache.iterdir()
    file.write_text(json.dumps({**TwinPlan(folded=True).__dict__}))
    assert choose_twin(good, rand(64, 8)).folded
    real = twins._agrees
    monkeypatch.setattr(twins, "_agrees", lambda m, t, x: not t.plan.folded and real(m, t, x))
    assert not choose_twin(bad, rand(64, 8)).folded
