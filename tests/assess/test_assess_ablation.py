"""What a part of a defence is worth: told from the inputs about which two assessments differ."""

from __future__ import annotations

import pytest
import torch

import hardpoint as hp
from hardpoint.assess.ablation import Worth, _worth
from hardpoint.core.access import Access
from hardpoint.core.errors import ModelError
from hardpoint.defenses import Alarm, BitDepth, GradientMasking
from hardpoint.defenses.detectors import Energy, Margin
from hardpoint.models import TorchModel
from small_models import labelled, mlp, rand

QUIET = {"progress": False, "budget": hp.Budget(passes=100)}


def flags(*counts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Broken without and with the part: ``[both, only without, only with, neither]``."""
    both, without, with_it, neither = counts
    first = [True] * both + [True] * without + [False] * with_it + [False] * neither
    second = [True] * both + [False] * without + [True] * with_it + [False] * neither
    return torch.tensor(first), torch.tensor(second)


@pytest.mark.parametrize(
    ("counts", "naive", "worth"),
    [
        ((20, 20, 2, 58), 78, Worth.ADDS),
        ((40, 4, 1, 55), 60, Worth.NOTHING),  # five that differ show nothing
        ((40, 0, 0, 60), 69, Worth.NOTHING),
        ((40, 0, 0, 60), 71, Worth.HIDES),
        ((40, 0, 20, 40), 45, Worth.HARMS),
        ((40, 0, 20, 40), 60, Worth.HIDES),
    ],
)
def test_the_verdict_follows_from_the_inputs_that_differ(counts, naive, worth):
    assert _worth(*flags(*counts), hp.Rate.of(naive, 100)) is worth


@pytest.mark.usefixtures("no_panel")
def test_hiding_gradients_is_worth_nothing_to_who_knows_it():
    net = mlp()
    x = rand(60, 8, seed=8)
    y = labelled(net, x)
    model = hp.Defended(net, [GradientMasking(), BitDepth(bits=8)])
    found = hp.ablate(model, x, y, threat=hp.Linf(0.1), **QUIET)
    assert [p.name for p in found.parts] == ["GradientMasking", "BitDepth", "all together"]
    hidden = found.parts[0]
    assert hidden.worth is not Worth.ADDS
    assert abs(hidden.adaptive.value - found.undefended.robust_accuracy.value) <= 0.05
    assert found.whole.result.broken.shape == (60,)
    lines = str(found).splitlines()
    assert "naive" in lines[0]
    assert "adaptive" in lines[0]
    assert len(lines) == 5
    assert found.describe()["parts"][0]["worth"] == hidden.worth.value


@pytest.mark.usefixtures("no_panel")
def test_a_detector_is_compared_with_the_stages_it_stands_behind():
    net = mlp()
    x = rand(60, 8, seed=8)
    y = labelled(net, x)
    never = Alarm(Energy(), 1e6, classes=4)
    model = hp.Defended(net, [BitDepth(bits=2)], detectors=[never])
    found = hp.ablate(model, x, y, threat=hp.Linf(0.1), **QUIET)
    assert [p.name for p in found.parts] == ["BitDepth", "all together"]
    assert torch.equal(found.parts[0].result.broken, found.whole.result.broken)
    both = hp.Defended(net, [BitDepth(bits=2)], detectors=[never, Alarm(Margin(), 1e6, classes=4)])
    rows = hp.ablate(both, x, y, threat=hp.Linf(0.1), **QUIET).parts
    assert [p.name for p in rows] == ["BitDepth", "energy behind them", "margin behind them", "all together"]
    assert rows[1].worth in (Worth.NOTHING, Worth.HIDES)


def test_a_model_without_a_defence_is_not_taken_apart():
    x = rand(4, 8)
    for model in (hp.Defended(mlp()), mlp()):
        with pytest.raises(ModelError, match="no defence"):
            hp.ablate(model, x, torch.zeros(4, dtype=torch.int64), threat=hp.Linf(0.1))


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_a_model_that_shows_labels_only_is_taken_apart_as_well():
    net = mlp()
    x = rand(20, 8, seed=8)
    model = hp.Defended(TorchModel(net, access=Access.LABELS), [BitDepth(bits=6)])
    budget = hp.Budget(queries=40)
    found = hp.ablate(model, x, labelled(net, x), threat=hp.Linf(0.2), progress=False, budget=budget)
    assert found.whole.naive.n == 20
