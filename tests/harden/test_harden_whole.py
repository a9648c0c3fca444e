"""``harden`` from end to end: what it returns, what it leaves in the folder, and what it refuses."""

from __future__ import annotations

import copy
import json
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_lessons import cloud, flat, normed, pictures, same, state_of
from torch import nn

from hardpoint.assess.progress import Silent
from hardpoint.core.errors import ConfigError, DataError, HardpointError, ModelError, RunError, ThreatError
from hardpoint.data import MemoryDataset
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden import Flip, Training, harden
from hardpoint.harden.cost import default_recipe
from hardpoint.harden.recipes import Awp, FgsmRs, NFgsm, Noise, Pgd, Plain, Trades, WorstOf
from hardpoint.models.torch import TorchModel
from hardpoint.models.weights import load_into, load_weights
from hardpoint.threats import L2, Linf
from hardpoint.threats.goals import Targeted
from hardpoint.threats.threat import Threat
from small_models import Ledger

MODULE = sys.modules["hardpoint.harden.harden"]  # the function has its name
EPS = Linf(0.03)
SHORT = Training(epochs=2, batch_size=32, lr=0.02, validation=0.1)


@pytest.fixture(autouse=True)
def _alike(monkeypatch, no_panel):
    """The copy is searched as the network is; which way is fastest is measured elsewhere."""
    monkeypatch.setattr(MODULE, "fastest_plan", lambda *_: TwinPlan())


def hardened(model=None, data=None, **more):
    x, y = data or cloud(96)
    settings = {"threat": EPS, "recipe": "pgd", "training": SHORT, "progress": False, **more}
    return harden(flat(dropout=0.2) if model is None else model, x, y, **settings)


# ------------------------------------------------------------------------------------------------ results


def test_the_given_model_and_all_random_states_are_left_alone():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    net, (x, y) = normed(dropout=0.3), pictures(40)
    net[0].weight.requires_grad_(False)
    kept, flags, before = copy.deepcopy(net), [p.requires_grad for p in net.parameters()], states()
    done = hardened(net, (x, y), recipe="trades", test=pictures(12, seed=9))
    assert states() == before
    assert same(state_of(net), state_of(kept))
    assert net.training
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    own = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    assert not own & {t.untyped_storage().data_ptr() for t in done.model.state_dict().values()}
    assert not any(layer.training for layer in done.model.modules())
    assert not same(state_of(done.model), state_of(net))


def test_a_seed_is_a_result():
    first, second, other = (hardened(seed=seed, recipe="n_fgsm") for seed in (0, 0, 1))
    assert same(state_of(first.model), state_of(second.model))
    assert not same(state_of(first.model), state_of(other.model))
    assert [e.robust for e in first.history] == [e.robust for e in second.history]


def test_the_result_is_of_the_kind_that_was_given():
    net = flat()
    assert isinstance(hardened(net).model, nn.Sequential)
    given = TorchModel(net.eval(), input_range=(-1.0, 2.0), name="mine")
    done = hardened(given)
    assert isinstance(done.model, TorchModel)
    assert (done.model.name, done.model.input_range) == ("mine", (-1.0, 2.0))
    assert done.model.module is not net


def test_what_was_held_back_is_measured_as_told():
    done = hardened(training=replace(SHORT, epochs=4))
    assert done.recipe == "pgd-10"
    assert len(done.history) == 4
    assert done.best == max(done.history, key=lambda e: (e.robust, e.clean, -e.number))
    assert all(0 <= e.robust <= e.clean <= 1 for e in done.history)
    assert done.before is done.after is None
    assert repr(done) == "<pgd-10, 4 epochs>"
    blind = hardened(training=replace(SHORT, validation=0))
    assert [(e.clean, e.robust) for e in blind.history] == [(None, None)] * 2


@pytest.mark.parametrize("recipe", [Plain(), Noise(0.1)])
def test_ordinary_training_is_validated_without_attack(recipe):
    done = hardened(recipe=recipe, threat=Linf(0.0))
    assert all(e.robust is None and e.clean is not None for e in done.history)


@pytest.mark.parametrize(
    "recipe",
    [
        "fgsm_rs",
        "free",
        "atta",
        "mart",
        "awp_trades",
        "mixed",
        WorstOf((Linf(0.02), L2(0.03)), Pgd(1)),
        Awp(NFgsm()),
    ],
)
@pytest.mark.parametrize("craft_mode", ["eval", "train"])
def test_every_recipe_runs_on_images(recipe, craft_mode):
    training = replace(SHORT, epochs=1, optimiser="sgd", augment=(Flip(),), average=0.9)
    done = hardened(
        normed(dropout=0.1), pictures(30), recipe=recipe, craft_mode=craft_mode, training=training
    )
    assert all(t.isfinite().all() for t in done.model.state_dict().values())
    assert done.cost.units > 0


def test_every_precision_of_a_model_runs():
    x, y = cloud(64)
    for recipe in (Trades(steps=1), NFgsm()):
        done = hardened(flat().double(), (x.double(), y), recipe=recipe)
        assert done.model[0].weight.dtype == torch.float64
        hardened(training=replace(SHORT, precision="bfloat16"), recipe=recipe)


@pytest.mark.parametrize("access", ["scores", "labels"])
def test_who_trains_sees_everything_whatever_the_attacker_sees(access):
    assert hardened(threat=Threat(EPS, access=access, queries=100)).history[-1].robust is not None
    done = hardened(TorchModel(flat().eval(), access=access))
    assert done.model.access.word == access
    assert same(state_of(done.model.module), state_of(hardened(flat()).model))


def test_data_sets_arrays_and_factories(tmp_path, monkeypatch):
    x, y = cloud(64)
    wanted = state_of(hardened(data=(x, y)).model)
    settings = {"threat": EPS, "recipe": "pgd", "training": SHORT, "progress": False}
    assert same(wanted, state_of(harden(flat(dropout=0.2), MemoryDataset(x, y), **settings).model))
    assert same(wanted, state_of(harden(flat(dropout=0.2), x.numpy(), y.tolist(), **settings).model))
    (tmp_path / "zoo_of_hardening.py").write_text(
        "from small_lessons import flat\n\ndef net():\n    return flat(dropout=0.2)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    made = harden("zoo_of_hardening:net", x, y, **settings).model
    assert same(wanted, state_of(made.module))


def test_single_rows_and_greedy_validation():
    x, y = cloud(4)
    assert hardened(data=(x[:1], y[:1])).history[-1].clean is None
    assert hardened(data=(x, y), training=replace(SHORT, validation=0.99)).history[-1].clean is not None


# ------------------------------------------------------------------------------------------------ the folder


def test_the_folder_holds_the_whole_story(tmp_path):
    x, y = cloud(120)
    done = hardened(data=(x[:96], y[:96]), test=(x[96:], y[96:]), run_dir=tmp_path / "run")
    run = tmp_path / "run"
    assert {p.name for p in (run / "assessments").iterdir()} == {"before", "after"}
    header = json.loads((run / "run.json").read_text())
    assert header["status"] == "finished"
    assert header["assessments"] == ["before", "after"]
    assert {p.name for p in (run / "training").iterdir()} == {
        "plan.json",
        "measured.json",
        "checkpoint.safetensors",
        "record.json",
        "curves.svg",
        "model.safetensors",
    }
    told = json.loads((run / "training" / "record.json").read_text())["epochs"]
    assert [e["robust"] for e in told] == [e.robust for e in done.history]
    assert done.before.clean_accuracy.n == done.after.clean_accuracy.n == 24
    assert "robust accuracy" in repr(done)
    fresh = flat(dropout=0.2, seed=5)
    load_into(fresh, load_weights(run / "training" / "model.safetensors"), "weights")
    assert same(state_of(fresh), state_of(done.model))
    with torch.no_grad():
        right = done.model(x[96:]).argmax(1) == y[96:]
    assert done.after.clean_accuracy.value == pytest.approx(float(right.double().mean()))


def test_weights_of_a_network_that_holds_one_called_module(tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.scale = flat(), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.scale * self.module(x)

    done = hardened(Holder())
    done.save(tmp_path / "w.safetensors")
    fresh = Holder()
    load_into(fresh, load_weights(tmp_path / "w.safetensors"), "weights")
    assert same(state_of(fresh), state_of(done.model))


class Stop(Exception):
    pass


class StopsAt(Silent):
    """Raises when the stage ``what`` begins."""

    def __init__(self, what: str) -> None:
        self.what = what

    def begin(self, what: str, total: int) -> None:
        if what.startswith(self.what):
            raise Stop


def test_going_on_in_the_folder(tmp_path, monkeypatch):
    x, y = cloud(104)
    settings = {"data": (x[:80], y[:80]), "test": (x[80:], y[80:]), "recipe": "n_fgsm", "seed": 2}
    settings["training"] = replace(SHORT, epochs=3, average=0.8)
    straight = hardened(**settings)
    run = tmp_path / "run"
    stages = ("clean pass", "training by", "epoch 1", "epoch 3")
    for turn, what in enumerate(stages):
        with pytest.raises(Stop):
            hardened(**settings, run_dir=run, resume=turn > 0, progress=StopsAt(what))
        torch.rand(3)
    monkeypatch.setattr(MODULE, "fastest_plan", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(MODULE, "measured_seconds", lambda *_: pytest.fail("measured again"))
    resumed = hardened(**settings, run_dir=run, resume=True)
    assert same(state_of(straight.model), state_of(resumed.model))
    assert resumed.after.robust_accuracy == straight.after.robust_accuracy
    again = hardened(**settings, run_dir=run, resume=True)  # there is nothing left to do
    assert same(state_of(again.model), state_of(resumed.model))
    assert again.history == resumed.history
    assert again.cost == resumed.cost
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("chosen", [default_recipe(n, remembers=r) for n in (1, 2) for r in (True, False)])
def test_the_default_recipe_is_remembered(tmp_path, monkeypatch, chosen):
    monkeypatch.setattr(MODULE, "within_budget", lambda *_, **__: (chosen, 1.0))
    with pytest.raises(Stop):
        hardened(recipe="default", run_dir=tmp_path, progress=StopsAt("epoch 2"))
    monkeypatch.setattr(MODULE, "within_budget", lambda *_, **__: pytest.fail("chosen again"))
    done = hardened(recipe="default", run_dir=tmp_path, resume=True)
    assert done.recipe == chosen.name
    assert same(state_of(done.model), state_of(hardened(recipe=chosen).model))


def test_the_default_recipe_is_one_that_can_be_afforded():
    done = hardened(recipe="default")
    assert done.recipe.startswith("atta-")  # of data this small, examples can be kept


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        hardened(run_dir=tmp_path)
    run = tmp_path / "run"
    hardened(run_dir=run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="already holds a run"):
        hardened(run_dir=run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_other_work_is_refused_and_named(tmp_path):
    hardened(run_dir=tmp_path)
    checkpoint = (tmp_path / "training" / "checkpoint.safetensors").read_bytes()
    x, y = cloud(96)
    others = {
        "recipe": {"recipe": "trades"},
        "training.epochs": {"training": replace(SHORT, epochs=3)},
        "training.augment": {"training": replace(SHORT, augment=(Flip(),))},
        "seed": {"seed": 1},
        "craft_mode": {"craft_mode": "train"},
        "threat": {"threat": Linf(0.02)},
        "model.sha256": {"model": flat(dropout=0.2, seed=1)},
        "data": {"data": (x, 1 - y)},
    }
    for name, change in others.items():
        with pytest.raises(RunError, match=f"another {name}.*same settings, or give a new folder"):
            hardened(run_dir=tmp_path, resume=True, **change)
    assert (tmp_path / "training" / "checkpoint.safetensors").read_bytes() == checkpoint
    (tmp_path / "training" / "measured.json").write_text('{"twin": {}}')
    with pytest.raises(RunError, match="damaged.*train anew"):
        hardened(run_dir=tmp_path, resume=True)


# ------------------------------------------------------------------------------------------------ refusals


REFUSED = {
    "targeted": (ThreatError, {"threat": Threat(EPS, goal=Targeted(1))}, "has a target"),
    "no budget": (ThreatError, {"threat": Linf(0.0)}, "eps is 0.0"),
    "endless": (ThreatError, {"threat": Linf(float("inf"))}, "eps is inf"),
    "no threat": (ThreatError, {"threat": 0.1}, "not a perturbation"),
    "label": (DataError, {"data": (cloud()[0], torch.full((96,), 2))}, "label"),
    "lengths": (DataError, {"data": (cloud()[0], cloud(95)[1])}, "labels"),
    "range": (DataError, {"data": (cloud()[0] * 255, cloud()[1])}, r"outside the input range \[0.0, 1.0\]"),
    "NaN": (
        DataError,
        {"data": (cloud()[0].index_fill(0, torch.tensor([5]), torch.nan), cloud()[1])},
        "row 5",
    ),
    "shape": (ModelError, {"data": (torch.rand(96, 3), cloud()[1])}, "cannot take inputs of shape"),
    "weightless": (ModelError, {"model": nn.Sequential(nn.Flatten())}, "has no weights"),
    "no network": (ModelError, {"model": Ledger(flat(), "scores")}, "has no network"),
    "nothing": (ModelError, {"model": 3}, "is no model"),
    "recipe name": (ConfigError, {"recipe": "pdg"}, "did you mean 'pgd'"),
    "recipe": (ConfigError, {"recipe": 3}, "3 is no recipe"),
    "recipe class": (ConfigError, {"recipe": FgsmRs}, "is no recipe"),
    "craft mode": (ConfigError, {"craft_mode": "test"}, 'use "eval" or "train"'),
    "test": (DataError, {"test": cloud()[0]}, r"give \(x, y\) or a Dataset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_cure_and_write_nothing(case, tmp_path):
    kind, change, words = REFUSED[case]
    with pytest.raises(HardpointError, match=words) as caught:
        hardened(**change, run_dir=tmp_path / "run")
    assert isinstance(caught.value, kind)
    assert caught.value.cure
    assert not (tmp_path / "run").exists()


def test_a_real_estimator_is_refused():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = cloud()
    estimator = linear.LogisticRegression().fit(x.numpy(), y.numpy())
    with pytest.raises(ModelError, match="SklearnModel has no network that could be trained"):
        hardened(estimator)


def test_divergence_is_an_error_of_the_model():
    with pytest.raises(ModelError, match="smaller lr, or with clip"):
        hardened(training=replace(SHORT, optimiser="sgd", lr=3e38, pace="constant"))
