"""What a part of a defence is worth: told from the inputs about which two assessments differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import hardpoint as hp
from hardpoint.assess import ablation
from hardpoint.assess import run as run_module
from hardpoint.assess.ablation import differing, worth_of
from hardpoint.assess.parts import stack_of
from hardpoint.cli.report_command import write_formats
from hardpoint.core.access import Access
from hardpoint.core.errors import ModelError, RunError
from hardpoint.data import MemoryDataset
from hardpoint.defenses import AdditiveNoise, Alarm, BitDepth, GradientMasking, QuantileEncoding
from hardpoint.defenses.detectors import Energy, Margin
from hardpoint.evidence import PartKind, RunFolder, ThresholdRecord, Worth
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
        ((40, 0, 0, 60), 70, Worth.HIDES),
        ((40, 0, 20, 40), 45, Worth.HARMS),
        ((40, 0, 20, 40), 60, Worth.HIDES),
    ],
)
def test_the_verdict_follows_from_the_inputs_that_differ(counts, naive, worth):
    without, with_it = flags(*counts)
    won, lost = differing(without, with_it)
    assert (won, lost) == counts[1:3]
    assert worth_of(won, lost, hidden=(naive - int((~with_it).sum())) / 100) is worth


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
    assert found.results[-1].broken.shape == (60,)
    lines = str(found).splitlines()
    assert "naive" in lines[0]
    assert "adaptive" in lines[0]
    assert len(lines) == 5
    assert found.record.to_json()["parts"][0]["worth"] == hidden.worth.value


@pytest.mark.usefixtures("no_panel")
def test_a_detector_is_compared_with_the_stages_it_stands_behind():
    net = mlp()
    x = rand(60, 8, seed=8)
    y = labelled(net, x)
    never = Alarm(Energy(), 1e6, classes=4)
    model = hp.Defended(net, [BitDepth(bits=2)], detectors=[never])
    found = hp.ablate(model, x, y, threat=hp.Linf(0.1), **QUIET)
    assert [p.name for p in found.parts] == ["BitDepth", "all together"]
    without, behind = (result.broken for result in found.results)
    assert abs(int(without.sum()) - int(behind.sum())) <= 3  # one that never fires saves nobody
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


@pytest.mark.usefixtures("no_panel")
def test_an_ablation_is_kept_and_continued(tmp_path, monkeypatch):
    net = mlp()
    x = rand(40, 8, seed=8)
    model = hp.Defended(
        net, [BitDepth(bits=2), BitDepth(bits=4)], detectors=[Alarm(Energy(), 1e6, classes=4)]
    )
    asked = {"threat": hp.Linf(0.1), "run_dir": tmp_path / "run", **QUIET}
    data = MemoryDataset(x, labelled(net, x), name="grid")

    def broken(*_, **__):
        raise OSError("pulled the plug")

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "added_ms", broken)
        with pytest.raises(OSError):
            hp.ablate(model, data, **asked)
    run = RunFolder(tmp_path / "run")
    assert run.defences() == []
    with pytest.raises(RunError, match="already holds a run"):
        hp.ablate(model, data, **asked)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "do_piece", broken)  # everything is done already
        found = hp.ablate(model, data, resume=True, **asked)
    assert run.names() == [
        "linf-0.1-0-undefended",
        "linf-0.1-1-bitdepth",
        "linf-0.1-2-bitdepth-2",
        "linf-0.1-3-all-stages",
        "linf-0.1-4-all-together",
    ]
    assert run.header()["status"] == "out of budget"
    assert run.defences() == [found.record]
    assert [p.assessment for p in found.parts] == run.names()[1:]
    assert found.record.doubts == ("not every input was attacked in full",)
    assert found.undefended.record.data["name"] == "grid"
    fresh = hp.ablate(model, x, labelled(net, x), threat=hp.Linf(0.1), **QUIET)
    for ours, theirs in zip(found.parts, fresh.parts, strict=True):
        assert replace(ours, added_ms=None) == replace(theirs, added_ms=None)
    assert "The defence, part by part" in write_formats(run)["html"].read_text("utf-8")


@pytest.mark.usefixtures("no_panel")
def test_thresholds_outlive_a_resume(tmp_path):
    net, x = mlp(), rand(20, 8, seed=8)
    model = hp.Defended(net, [BitDepth(bits=2)])
    asked = {"threat": hp.Linf(0.1), "run_dir": tmp_path / "run", **QUIET}
    row = ThresholdRecord("energy", 0.1, 1.0, "", None, None, None, None)
    hp.ablate(model, x, labelled(net, x), **asked).with_thresholds([row])
    again = hp.ablate(model, x, labelled(net, x), resume=True, **asked)
    assert again.record.thresholds == (row,)
    other = hp.ablate(model, x, labelled(net, x), resume=True, name="again", **asked)
    assert other.record.thresholds == ()
    assert len(RunFolder(tmp_path / "run").defences()) == 2


@pytest.mark.usefixtures("no_panel")
def test_refusals_and_time_are_measured_for_each_part():
    net, x = mlp(), rand(60, 8, seed=8)
    y = labelled(net, x)
    energies = hp.Defended(net).look(x).logits.logsumexp(1).neg()
    strict = Alarm(Energy(), float(energies.sort().values[-7]), classes=4)
    model = hp.Defended(net, [BitDepth(bits=8), lambda z: z * 1.0], detectors=[strict])
    found = hp.ablate(model, x, y, threat=hp.Linf(0.0), **QUIET)
    rows = {p.name: p for p in found.parts}
    assert list(rows) == ["BitDepth", "<lambda>", "all stages", "all together"]
    assert rows["BitDepth"].refused is None
    assert rows["all together"].refused is not None
    assert rows["all together"].clean.count + rows["all together"].refused.count == 60
    assert all(p.added_ms is not None and p.added_ms >= 0 for p in found.parts)
    stages = rows["BitDepth"].added_ms + rows["<lambda>"].added_ms
    assert rows["all stages"].added_ms == stages
    assert rows["all together"].added_ms >= stages
    assert [(p.name, p.kind, p.gradient) for p in found.record.stack] == [
        ("BitDepth", PartKind.STAGE, "straight-through"),
        ("<lambda>", PartKind.STAGE, "probed"),
        ("Sequential", PartKind.NETWORK, "autograd"),
        ("energy", PartKind.DETECTOR, "autograd"),
    ]


def test_the_stack_says_what_is_random_and_what_is_not_seen():
    noisy = hp.Defended(
        TorchModel(mlp(), access=Access.LABELS), [AdditiveNoise(0.1), QuantileEncoding.fit(rand(50, 8))]
    )
    assert [p.gradient for p in stack_of(noisy)] == ["autograd, random", "own backward", "none, labels only"]
