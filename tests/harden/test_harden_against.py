"""Training against several threats at once: what is learned from, what is assessed, and what is refused."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from small_lessons import cloud, flat, same, state_of

from hardpoint.assess.progress import Silent
from hardpoint.core.errors import ConfigError, RunError, ThreatError
from hardpoint.engine.twin import TwinPlan
from hardpoint.evidence import Rate, RunFolder
from hardpoint.harden import Training, harden
from hardpoint.harden.against import recipe_against
from hardpoint.harden.recipes import (
    Atta,
    Awp,
    Denoiser,
    Distilled,
    GradAlign,
    Ibp,
    Mixed,
    NFgsm,
    Noise,
    Pgd,
    Plain,
    Regularised,
    Trades,
    WorstOf,
)
from hardpoint.harden.validation import UnderAttack
from hardpoint.models.torch import TorchModel
from hardpoint.threats import L2, Linf
from hardpoint.threats.goals import Targeted
from hardpoint.threats.threat import Threat

MODULE = sys.modules["hardpoint.harden.harden"]  # the function has its name
BOTH = [Linf(0.03), L2(0.06)]
PAIR = tuple(BOTH)
THREATS = [Threat(perturbation) for perturbation in BOTH]
SHORT = Training(epochs=2, batch_size=32, lr=0.02, validation=0.1)


@pytest.fixture(autouse=True)
def _alike(monkeypatch, no_panel, few_queries):
    monkeypatch.setattr(MODULE, "fastest_plan", lambda *_: TwinPlan())


def hardened(data=None, **more):
    x, y = data or cloud(96)
    settings = {"threat": BOTH, "recipe": "pgd", "training": SHORT, "progress": False, **more}
    return harden(flat(), x, y, **settings)


@pytest.mark.parametrize("gate", [40, -0.1, True, "x", [0.4, "x"], [[0.4], [0.5]], float("nan")])
def test_gates_that_are_no_shares_are_refused_before_anything_begins(gate, tmp_path):
    x, y = cloud(96)
    with pytest.raises(ConfigError, match="a gate is"):
        hardened(gate=gate, test=(x + 1e-3, y), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("default", WorstOf(PAIR)),
        (Pgd(3, 0.5), WorstOf(PAIR, Pgd(3, 0.5))),
        (Mixed(Pgd(3), 0.2), Mixed(WorstOf(PAIR, Pgd(3)), 0.2)),
        (Awp(Pgd(3)), Awp(WorstOf(PAIR, Pgd(3)))),
        (Denoiser(Mixed(Pgd(3))), Denoiser(Mixed(WorstOf(PAIR, Pgd(3))))),
        (WorstOf((Linf(0.1), L2(0.2))), WorstOf((Linf(0.1), L2(0.2)))),
        (Plain(), Plain()),
        (Noise(0.1), Noise(0.1)),
    ],
)
def test_the_recipe_learns_from_the_worst_of_all(given, wanted):
    assert recipe_against(given, THREATS) == wanted
    assert recipe_against(given, THREATS[:1]) == given


def test_a_student_is_attacked_in_every_way():
    wise = flat(seed=3).eval()
    assert recipe_against(Distilled(Pgd(2), wise, 2.0), THREATS) == Distilled(
        WorstOf(PAIR, Pgd(2)), wise, 2.0
    )


@pytest.mark.parametrize(
    "recipe",
    [Trades(), NFgsm(), Atta(), Ibp(), Mixed(Trades()), Regularised(Pgd(1), (GradAlign(),))],
    ids=lambda recipe: recipe.name,
)
def test_recipes_for_one_threat_are_refused(recipe):
    with pytest.raises(ConfigError, match='learns from one threat, and 2 are given; use "default"'):
        recipe_against(recipe, THREATS)


def test_it_is_worst_of_by_another_name():
    short, given = hardened(recipe=Pgd(2)), hardened(recipe=WorstOf(PAIR, Pgd(2)))
    assert same(state_of(short.model), state_of(given.model))
    assert short.recipe == given.recipe == "worst of 2 threats (pgd-2)"
    assert hardened(recipe="default").recipe == "worst of 2 threats (pgd-5)"


def test_one_threat_in_a_list_is_one_threat():
    one, listed = (hardened(threat=threat, recipe=Pgd(2)) for threat in (BOTH[0], BOTH[:1]))
    assert listed.recipe == "pgd-2"
    assert same(state_of(one.model), state_of(listed.model))


# ------------------------------------------------------------------------------------------------ validation


def test_validation_asks_who_stands_under_each(monkeypatch):
    asked = []

    def attacked(attack, model, data, threat, seed):
        asked.append((attack, len(data)))
        x = data.rows(torch.arange(len(data)))[0][:, 0]

        class Found:
            broken = (x < 0.3) if attack == "low" else (x > 0.8)

        return Found

    monkeypatch.setattr(sys.modules["hardpoint.harden.validation"], "attack_alone", attacked)
    x = torch.linspace(0, 1, 11).repeat(2, 1).T.contiguous()
    y = torch.zeros(11, dtype=torch.int64)
    net, (linf, l2) = flat().eval(), THREATS

    def measured(*attacks):
        return UnderAttack(TorchModel(net), x, y, attacks, 0)(net)[1]

    assert measured() is None
    assert measured((linf, "low")) == pytest.approx(8 / 11)
    assert measured((linf, "low"), (l2, "high")) == pytest.approx(6 / 11)
    assert asked == [("low", 11), ("low", 11), ("high", 8)]


def test_an_epoch_is_judged_under_every_threat(monkeypatch):
    judged = []

    def noted(model, x, y, attacks, seed):
        judged.append([threat.name for threat, _ in attacks])
        return UnderAttack(model, x, y, attacks, seed)

    monkeypatch.setattr(MODULE, "UnderAttack", noted)
    one, both = (hardened(threat=threat, recipe=WorstOf(PAIR, Pgd(2))) for threat in (BOTH[0], BOTH))
    assert same(state_of(one.model), state_of(both.model))  # only what is measured differs
    assert judged == [["linf-0.03"], ["linf-0.03", "l2-0.06"]]


# ------------------------------------------------------------------------------------------------ assessments


def test_before_and_after_under_each(tmp_path):
    x, y = cloud(120)
    run = RunFolder(tmp_path / "run")
    done = hardened(data=(x[:96], y[:96]), test=(x[96:], y[96:]), run_dir=run.path, gate=[0.0, 1.0])
    names = ["before-linf-0.03", "after-linf-0.03", "before-l2-0.06", "after-l2-0.06"]
    assert run.names() == names
    assert [a.name for a in run.read()] == names
    assert [a.gate for a in run.read()] == [None, 0.0, None, 1.0]
    assert run.header()["status"] == "finished"
    assert "threat=[Threat(Linf(" in run.header()["code"]
    assert list(done.by_threat) == ["linf-0.03", "l2-0.06"]
    linf, l2 = done.by_threat.values()
    assert done.before is linf.before
    assert done.after is linf.after
    assert l2.after.record.threat["name"] == "l2-0.06"
    standing = ~(linf.after.broken | l2.after.broken)
    assert done.under_all[1] == Rate.of(int(standing.sum()), 24)
    assert done.under_all[1].value <= min(linf.after.robust_accuracy.value, l2.after.robust_accuracy.value)
    assert "robust accuracy under linf-0.03 " in repr(done)
    assert ", under l2-0.06 " in repr(done)


def test_without_test_inputs_there_is_nothing_to_compare():
    done = hardened()
    assert (done.before, done.after, done.under_all, dict(done.by_threat)) == (None, None, None, {})


class Stop(Exception):
    pass


class StopsAt(Silent):
    """Raises when the ``time``-th stage of that name begins."""

    def __init__(self, what: str, time: int) -> None:
        self.what, self.left = what, time

    def begin(self, what: str, total: int) -> None:
        self.left -= what.startswith(self.what)
        if not self.left:
            raise Stop


def test_going_on_in_the_folder(tmp_path):
    x, y = cloud(104)
    settings = {"data": (x[:80], y[:80]), "test": (x[80:], y[80:]), "seed": 2, "recipe": "default"}
    straight = hardened(**settings)
    # between the assessments before, in training, and between those after
    for turn, stage in enumerate([("clean pass", 2), ("epoch 2", 1), ("clean pass", 2)]):
        with pytest.raises(Stop):
            hardened(**settings, run_dir=tmp_path, resume=turn > 0, progress=StopsAt(*stage))
    resumed = hardened(**settings, run_dir=tmp_path, resume=True)
    assert same(state_of(straight.model), state_of(resumed.model))
    assert resumed.under_all == straight.under_all
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"


def test_other_threats_are_refused_and_named(tmp_path):
    hardened(run_dir=tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for threat, words in (
        ([Linf(0.03), L2(0.05)], "threat_list .'linf-0.03, l2-0.06', now 'linf-0.03, l2-0.05'"),
        ([Linf(0.03), L2(0.06), L2(0.1)], "threat_list"),
        (Linf(0.03), "threat_list"),
        ([L2(0.06), Linf(0.03)], "threat"),
    ):
        with pytest.raises(RunError, match=f"another {words}.*same settings, or give a new folder"):
            hardened(run_dir=tmp_path, resume=True, threat=threat)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    hardened(run_dir=tmp_path / "one", threat=Linf(0.03))
    with pytest.raises(RunError, match="another threat_list"):
        hardened(run_dir=tmp_path / "one", resume=True)


def test_a_folder_of_other_assessments_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.begin({"assessments": ["linf-0.03"]}, resume=False)
    with pytest.raises(RunError, match="holds no training"):
        hardened(run_dir=tmp_path, resume=True)


# ------------------------------------------------------------------------------------------------ refusals


REFUSED = {
    "none": (ConfigError, {"threat": []}, "no threat is given"),
    "twice": (ConfigError, {"threat": [Linf(0.03), Threat(Linf(0.03))]}, "linf-0.03 is given twice"),
    "targeted": (ThreatError, {"threat": [Linf(0.03), Threat(L2(0.1), goal=Targeted(1))]}, "has a target"),
    "no budget": (ThreatError, {"threat": [Linf(0.03), L2(0.0)]}, "eps is 0.0"),
    "no threat": (ThreatError, {"threat": [Linf(0.03), 0.1]}, "not a perturbation"),
    "recipe": (ConfigError, {"recipe": "trades"}, "trades-10 learns from one threat"),
    "gates": (ConfigError, {"gate": [0.1]}, "1 gates are given for 2 threats"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_cure_and_write_nothing(case, tmp_path):
    kind, change, words = REFUSED[case]
    with pytest.raises(kind, match=words) as caught:
        hardened(**change, run_dir=tmp_path / "run")
    assert caught.value.cure
    assert not (tmp_path / "run").exists()


def test_attackers_who_may_change_the_same_are_trained_against_once():
    seen = [Threat(Linf(0.03)), Threat(Linf(0.03), access="scores")]
    assert recipe_against(Pgd(3), seen) == Pgd(3)
    three = recipe_against("default", [*seen, Threat(L2(0.06))])
    assert three == WorstOf(PAIR)
