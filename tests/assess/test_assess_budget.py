"""What is spent is what was allowed, what was cut short says so, and every broken input has its example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.core.errors import ConfigError, RunError, ThreatError
from hardpoint.engine import Deadline
from hardpoint.evidence import Status
from small_models import Affine, Noisy, labelled, mlp, rand

NET = mlp(dtype=torch.float64)
X = rand(40, 8, seed=8, dtype=torch.float64)
Y = labelled(NET, X)
QUIET = {"progress": False}


pytestmark = pytest.mark.usefixtures("no_panel")


@pytest.mark.parametrize("passes", [1, 2, 20, 21, 22, 60, 150])
@pytest.mark.parametrize("batch_size", [3, 64])
def test_passes_never_exceed_the_budget(passes, batch_size):
    result = hp.assess(
        NET, X, Y, threat=hp.Linf(0.05), budget=hp.Budget(passes=passes), batch_size=batch_size, **QUIET
    )
    outcomes = result.record.outcomes
    assert int((outcomes.forward + outcomes.backward).max()) <= passes
    unfinished = outcomes.status == Status.UNFINISHED
    assert unfinished.any() == (not result.record.complete) == ("HP401" in {f.id for f in result.findings})
    assert not (outcomes.status == Status.STANDING)[unfinished].any()
    assert result.robust_accuracy.count == int((~outcomes.broken).sum())


def test_results_under_a_budget_do_not_depend_on_the_batch():
    runs = [
        hp.assess(NET, X, Y, threat=hp.Linf(0.05), budget=hp.Budget(passes=70), batch_size=b, **QUIET)
        for b in (1, 7, 64)
    ]
    for run in runs[1:]:
        assert torch.equal(run.broken, runs[0].broken)
        assert np.array_equal(run.record.outcomes.status, runs[0].record.outcomes.status)


@pytest.mark.usefixtures("few_queries")
def test_a_budget_that_covers_everything_leaves_nothing_unfinished():
    free = hp.assess(NET, X, Y, threat=hp.Linf(0.05), **QUIET)
    spent = free.record.outcomes.forward + free.record.outcomes.backward
    standing = free.record.outcomes.status == Status.STANDING
    enough = hp.assess(
        NET, X, Y, threat=hp.Linf(0.05), budget=hp.Budget(passes=int(spent[standing].max())), **QUIET
    )
    assert enough.record.complete
    assert torch.equal(enough.broken, free.broken)


@pytest.mark.parametrize(("access", "ball"), [("scores", hp.Linf(0.02)), ("labels", hp.L2(0.05))])
def test_a_budget_of_queries_below_the_threats_is_said(access, ball):
    threat = hp.Threat(ball, access=access)
    short = hp.assess(NET, X, Y, threat=threat, budget=hp.Budget(queries=15), **QUIET)
    assert int(short.record.outcomes.queries.max()) <= 15
    assert not short.record.complete
    assert "HP401" in {f.id for f in short.findings}
    named = hp.assess(NET, X, Y, threat=hp.Threat(ball, access=access, queries=15), **QUIET)
    assert named.record.complete
    assert torch.equal(named.broken, short.broken)


class OneTick(Deadline):
    """Over after so many looks at the clock."""

    looks = 0

    @property
    def passed(self) -> bool:
        OneTick.looks -= 1
        return OneTick.looks < 0


@pytest.mark.parametrize("looks", [0, 1, 3, 6, 9])
def test_inputs_broken_before_the_clock_ran_out_have_their_examples(looks, tmp_path, monkeypatch):
    monkeypatch.setattr(Deadline, "after", classmethod(lambda cls, seconds: OneTick(1.0)))
    for folder in (None, tmp_path / "run"):
        OneTick.looks = looks
        result = hp.assess(NET, X, Y, threat=hp.Linf(0.3), batch_size=8, run_dir=folder, **QUIET)
        assert not result.record.complete
        assert torch.equal(NET(result.adversarial).argmax(1) != Y, result.broken)
        if result.record.examples is not None:
            assert (result.record.examples.adversarial != result.record.examples.original).any()
        assert not (result.record.outcomes.status == Status.STANDING).any()


@pytest.mark.parametrize(
    "threat",
    [
        hp.Threat(hp.Linf(0.05), access="scores", queries=40),
        hp.Threat(hp.L2(0.2), access="labels", queries=80),
    ],
    ids=lambda t: t.name,
)
def test_black_box_results_are_the_same_from_workers(threat):
    one, two = (
        hp.assess(NET, X[:16], Y[:16], threat=threat, batch_size=2, workers=w, **QUIET) for w in (1, 2)
    )
    assert torch.equal(one.broken, two.broken)
    assert torch.allclose(one.adversarial, two.adversarial, rtol=0, atol=1e-9)


def test_models_that_cannot_be_sent_to_workers_are_named_with_the_cure():
    class Local(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(1), -x.sum(1)], 1)

    with pytest.raises(RunError, match="pkg.mod:factory"):
        hp.assess(Local().eval(), X[:8], Y[:8].clamp(max=1), threat=hp.Linf(0.1), workers=2, **QUIET)


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 100.0), (1.0, -100.0), (1e-3, 0.0), (1e3, 0.0)])
def test_scale_and_shift_of_the_scores_change_no_flag_of_an_assessment(scale, shift):
    known = hp.assess(NET, X, Y, threat=hp.Linf(0.06), **QUIET)
    other = hp.assess(nn.Sequential(NET, Affine(scale, shift)).eval(), X, Y, threat=hp.Linf(0.06), **QUIET)
    # in another unit cross-entropy alone climbs another way, and may miss or find a last input
    assert int((known.broken != other.broken).sum()) <= (scale != 1.0)


def test_order_of_classes_and_of_inputs_change_no_flag():
    known = hp.assess(NET, X, Y, threat=hp.Linf(0.06), mode="standard", budget=hp.Budget(passes=400), **QUIET)
    order = torch.tensor([2, 0, 3, 1])
    permuted = nn.Sequential(NET, Affine(permutation=order)).eval()
    other = hp.assess(
        permuted,
        X,
        order.argsort()[Y],
        threat=hp.Linf(0.06),
        mode="standard",
        budget=hp.Budget(passes=400),
        **QUIET,
    )
    assert torch.equal(known.broken, other.broken)


def test_whole_numbers_as_inputs_come_back_as_floats():
    x = (X[:10] > 0.5).to(torch.uint8)
    net = mlp()
    result = hp.assess(net, x, labelled(net, x.float()), threat=hp.Linf(0.4), **QUIET)
    assert result.broken.any()
    assert result.adversarial.is_floating_point()
    assert torch.equal(net(result.adversarial).argmax(1) != labelled(net, x.float()), result.broken)


@pytest.mark.usefixtures("few_queries")
def test_inputs_that_require_gradients_are_left_alone():
    x = X.clone().requires_grad_(True)
    result = hp.assess(NET, x, Y, threat=hp.Linf(0.1), **QUIET)
    assert not result.adversarial.requires_grad
    assert x.grad is None


@pytest.mark.usefixtures("few_queries")
def test_a_random_models_clean_errors_are_those_of_its_usual_answer():
    net = mlp()
    x = rand(60, 8, seed=8)
    gap = net(x).topk(2, dim=1).values
    lead = gap[:, 0] - gap[:, 1]
    sure = x[lead > lead.median()]
    noisy = Noisy(net, 0.4 * float(lead.median())).eval()
    labels = torch.stack([noisy(sure).argmax(1) for _ in range(200)])
    assert (labels != labelled(net, sure)).any()
    result = hp.assess(noisy, sure, labelled(net, sure), threat=hp.Linf(1e-6), **QUIET)
    assert result.clean_accuracy.value == 1.0
    assert result.robust_accuracy.value == 1.0


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"batch_size": 0}, ConfigError),
        ({"batch_size": -1}, ConfigError),
        ({"mode": "slow"}, ConfigError),
        ({"workers": 0}, RunError),
        ({"name": "../x", "run_dir": "somewhere"}, RunError),
        ({"threat": hp.Threat(hp.Linf(0.1), goal=hp.Targeted(4))}, ThreatError),
        ({"threat": 0.1}, ThreatError),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as caught:
        hp.assess(NET, X, Y, **{"threat": hp.Linf(0.1), **QUIET, **settings})
    assert caught.value.cure
    assert not any(tmp_path.iterdir())
