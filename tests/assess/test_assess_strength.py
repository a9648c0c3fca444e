"""The attack's strength is measured: masked models turn a check red, honest ones none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.evidence import Verdict
from small_models import Detach, Pocket, Quantise, Shattered, Sign, conv, labelled, linear, mlp, rand

CHECKS = {"HP301", "HP302", "HP303", "HP304"}


def red(result) -> set[str]:
    return {c.id for c in result.record.checks if c.verdict in (Verdict.FAIL, Verdict.WARN)}


HONEST = {
    "linear": (linear(torch.eye(3, 8) * 4, torch.tensor([0.0, 0.1, -0.1])), (8,)),
    "mlp": (mlp(), (8,)),
    "conv": (conv(), (2, 6, 5)),
}


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("ball", [hp.Linf(0.03), hp.L2(0.1), hp.L1(0.2)], ids=lambda b: b.name)
def test_honest_models_turn_no_check_red(name, ball):
    net, shape = HONEST[name]
    x = rand(64, *shape, seed=8)
    result = hp.assess(net, x, labelled(net, x), threat=ball, progress=False)
    assert not red(result) & CHECKS
    assert {f.id for f in result.findings} <= {"HP305", "HP306", "HP403"}
    assert 0 < result.robust_accuracy.value < 1


@pytest.mark.parametrize(
    "mask", [Shattered(), Sign(), Quantise(16), Detach()], ids=["shattered", "sign", "quantised", "detached"]
)
def test_masked_models_are_named_and_searched_through(mask):
    """Gradients mislead or are missing; the true robustness is about that of the bare net behind the mask."""
    masked = nn.Sequential(mask if not isinstance(mask, Sign) else nn.Sequential(Shift(), mask), mlp()).eval()
    x = rand(64, 8, seed=8)
    y = labelled(masked, x)
    short = hp.Budget(passes=1500)  # enough for all but most of the black-box stage
    result = hp.assess(masked, x, y, threat=hp.Linf(0.08), budget=short, progress=False)
    assert {"HP113", "HP107", "HP301"} & {f.id for f in result.findings}
    black_box = hp.assess(
        masked, x, y, threat=hp.Threat(hp.Linf(0.08), access="scores", queries=300), progress=False
    )
    assert result.robust_accuracy.value <= black_box.robust_accuracy.value + 0.02


class Shift(nn.Module):
    def forward(self, x):
        return x - 0.5


@pytest.mark.usefixtures("few_queries")
def test_a_pocket_that_steps_miss_is_found_by_noise_or_by_the_attack():
    x, y = torch.full((64, 1), 0.5), torch.zeros(64, dtype=torch.int64)
    result = hp.assess(Pocket().eval(), x, y, threat=hp.Linf(0.3), progress=False)
    assert result.broken.all() or "HP301" in red(result)


@pytest.mark.usefixtures("few_queries")
def test_the_curve_falls_with_the_budget_and_meets_the_result():
    net = mlp()
    x = rand(64, 8, seed=8)
    result = hp.assess(net, x, labelled(net, x), threat=hp.Linf(0.06), progress=False)
    curve = result.record.eps_curve
    assert [p.x for p in curve] == sorted({p.x for p in curve})
    values = [p.rate.value for p in curve]
    assert values == sorted(values, reverse=True)
    assert values[0] == result.clean_accuracy.value
    at_budget = next(p.rate.value for p in curve if p.x == 0.06)
    assert at_budget <= result.robust_accuracy.value + 1e-9


def test_a_target_that_some_inputs_have_already_is_no_sign_of_masking():
    net = mlp(classes=2)
    x = rand(64, 8, seed=8)
    threat = hp.Threat(hp.Linf(0.05), goal=hp.Targeted(1))
    result = hp.assess(net, x, labelled(net, x), threat=threat, progress=False)
    assert "HP303" not in red(result)


def test_black_box_threats_are_not_charged_for_checks():
    net = mlp()
    x = rand(30, 8, seed=8)
    threat = hp.Threat(hp.Linf(0.05), access="scores", queries=40)
    result = hp.assess(net, x, labelled(net, x), threat=threat, progress=False)
    assert {c.id for c in result.record.checks} <= {"HP301", "HP305"}
    assert int(result.record.outcomes.queries.max()) <= 40
    curve = result.record.query_curve
    values = [p.rate.value for p in curve]
    assert values == sorted(values, reverse=True)
    assert values[-1] == result.robust_accuracy.value
