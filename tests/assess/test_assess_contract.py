"""What holds of every assessment: found pockets, no batch mates, nothing touched, resumable, honest errors."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.core import errors
from small_models import (
    Adapts,
    Affine,
    BatchNormalised,
    Noisy,
    Pocket,
    Quantise,
    RunsOut,
    Wrapped,
    conv,
    mlp,
    rand,
)

QUIET = {"progress": False}


def labelled(model: nn.Module, n: int = 96, d: int = 8, seed: int = 3, dtype=torch.float32):
    x = rand(n, d, seed=seed, dtype=dtype)
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.mark.parametrize(
    "attack",
    [
        hp.attacks.PGD(steps=40, step_size=0.03, random_start=False, loss=loss)
        for loss in ("ce", "margin", "dlr")
    ]
    + [hp.attacks.PGD(steps=20, step_size=0.05, restarts=2)],
    ids=lambda a: a.name,
)
def test_an_adversarial_pocket_on_the_path_is_found(attack):
    x, y = torch.full((4, 3), 0.5), torch.zeros(4, dtype=torch.int64)
    result = attack(Pocket().eval(), x, y, hp.Linf(0.45))
    assert result.broken.tolist() == [True] * 4
    assert (Pocket()(result.adversarial).argmax(1) == 1).all()


@pytest.mark.usefixtures("few_queries")
def test_a_pocket_that_the_attack_jumps_over_is_not_reported_as_robust():
    x, y = torch.full((40, 3), 0.5), torch.zeros(40, dtype=torch.int64)
    result = hp.assess(Pocket().eval(), x, y, threat=hp.Linf(0.45), **QUIET)
    assert bool(result.broken.all()) or "HP301" in {
        f.id for f in result.findings if f.severity.word == "fail"
    }


@pytest.mark.usefixtures("no_panel")
@pytest.mark.parametrize(
    "threat",
    [
        hp.Threat(hp.Linf(0.1)),
        hp.Threat(hp.L2(0.25)),
        hp.Threat(hp.L1(0.4)),
        hp.Threat(hp.L0(1)),
        hp.Threat(hp.Linf(0.1), access="scores", queries=60),
        hp.Threat(hp.L2(0.25), access="labels", queries=120),
    ],
    ids=lambda t: t.name,
)
def test_batch_size_changes_nothing(threat):
    model = mlp(dtype=torch.float64)
    x, y = labelled(model, 12, dtype=torch.float64)
    one, seven, many = (hp.assess(model, x, y, threat=threat, batch_size=b, **QUIET) for b in (1, 7, 64))
    for other in (seven, many):
        assert torch.equal(one.broken, other.broken)
        assert torch.allclose(one.adversarial, other.adversarial, atol=1e-9)


@pytest.mark.usefixtures("no_panel")
def test_workers_change_nothing():
    model = mlp(dtype=torch.float64)
    x, y = labelled(model, 24, dtype=torch.float64)
    one, three = (
        hp.assess(model, x, y, threat=hp.Linf(0.1), workers=w, batch_size=2, **QUIET) for w in (1, 3)
    )
    assert torch.equal(one.broken, three.broken)
    assert torch.allclose(one.adversarial, three.adversarial, atol=1e-9)


@pytest.mark.usefixtures("no_panel")
def test_same_seed_same_bits():
    model = conv()
    x = rand(48, 2, 6, 5, seed=1)
    y = model(x).argmax(1)
    first, again = (hp.assess(model, x, y, threat=hp.Linf(0.05), **QUIET) for _ in range(2))
    assert torch.equal(first.adversarial, again.adversarial)
    assert torch.equal(first.broken, again.broken)


@pytest.mark.usefixtures("no_panel")
def test_float32_flags_hardly_depend_on_the_batch():
    model = mlp()
    x, y = labelled(model, 200)
    small, large = (hp.attacks.APGD(steps=20)(model, x, y, hp.Linf(0.08), batch_size=b) for b in (32, 256))
    assert float((small.broken == large.broken).double().mean()) >= 0.999


def snapshot(model: nn.Module):
    return (
        {name: layer.training for name, layer in model.named_modules()},
        {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        {
            name: (len(layer._forward_hooks), len(layer._backward_hooks))
            for name, layer in model.named_modules()
        },
        {name: value.clone() for name, value in model.state_dict().items()},
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_generators_are_left_as_they_were(fails):
    model = conv()
    model[0].weight.requires_grad_(False)
    x = rand(24, 2, 6, 5, seed=1)
    y = model(x).argmax(1)
    handle = model[2].register_forward_hook(lambda *_: None)
    before = snapshot(model)
    if fails:
        RunsOut.passes = 0
        with pytest.raises(Exception):  # noqa: B017
            hp.assess(RunsOut(model, 40).eval(), x, y, threat=hp.Linf(0.05), **QUIET)
    else:
        hp.assess(model, x, y, threat=hp.Linf(0.05), mode="fast", **QUIET)
    after = snapshot(model)
    assert str(before[0:3]) == str(after[0:3])
    assert all(torch.equal(before[3][k], after[3][k]) for k in before[3])
    assert before[4:] == after[4:]
    handle.remove()


def dies_at(passes: int, **settings):
    model = mlp()
    x, y = labelled(model, 40)
    RunsOut.passes = 1 - passes
    return hp.assess(RunsOut(model, 1).eval(), x, y, threat=hp.Linf(0.08), batch_size=4, **settings, **QUIET)


@functools.cache
def uninterrupted():
    return dies_at(10**9)


@pytest.mark.usefixtures("no_panel", "few_queries")
@pytest.mark.parametrize("at", [3, 90, 200, 1700])
def test_a_run_that_died_continues_to_the_same_result(tmp_path: Path, at: int):
    whole, folder = uninterrupted(), tmp_path / "broken"
    with pytest.raises(Exception):  # noqa: B017
        dies_at(at, run_dir=folder)
    done = {p: p.stat().st_mtime_ns for p in folder.rglob("units/*.npz")}
    resumed = dies_at(10**9, run_dir=folder, resume=folder.exists())
    assert torch.equal(whole.broken, resumed.broken)
    assert torch.equal(whole.adversarial, resumed.adversarial)
    assert whole.passes == resumed.passes
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())


@pytest.mark.usefixtures("few_queries")
def test_a_saved_result_is_read_back(tmp_path: Path):
    model = mlp()
    x, y = labelled(model)
    result = hp.assess(model, x, y, threat=hp.Linf(0.08), **QUIET)
    result.save(tmp_path / "run")
    loaded = hp.load_result(tmp_path / "run")
    assert torch.equal(loaded.broken, result.broken)
    assert torch.equal(loaded.adversarial, result.adversarial)
    assert loaded.robust_accuracy == result.robust_accuracy
    assert loaded.findings == result.findings
    assert result.report(tmp_path / "page.html").stat().st_size < 2_000_000


@pytest.mark.usefixtures("no_panel")
@pytest.mark.parametrize(("shift", "scale"), [(100.0, 1.0), (-100.0, 1.0), (0.0, 1e-3), (0.0, 1e3)])
def test_shift_and_scale_of_the_scores_change_no_flag(shift, scale):
    model = mlp(dtype=torch.float64)
    x, y = labelled(model, 80, dtype=torch.float64)
    for attack in (hp.attacks.PGD(steps=10, loss="margin"), hp.attacks.APGD(loss="dlr", steps=15)):
        plain = attack(model, x, y, hp.Linf(0.08))
        other = attack(nn.Sequential(model, Affine(scale, shift)).eval(), x, y, hp.Linf(0.08))
        assert torch.equal(plain.broken, other.broken)


def planted() -> dict[str, tuple[str, nn.Module]]:
    net = mlp()
    return {
        "softmax": ("HP104", nn.Sequential(net, nn.Softmax(1)).eval()),
        "random": ("HP105", Noisy(net, 0.3).eval()),
        "batch": ("HP106", Wrapped(net, before=BatchNormalised()).eval()),
        "quantised": ("HP107", Wrapped(net, before=Quantise()).eval()),
        "optimises": ("HP108", Adapts(net).eval()),
        "hot": ("HP109", Wrapped(net, after=lambda z: 1000 * z).eval()),
        "constant": ("HP112", Wrapped(net, after=lambda z: z * 0 + torch.arange(4.0)).eval()),
    }


@pytest.mark.parametrize("name", list(planted()))
def test_the_doctor_names_a_planted_fault(name):
    code, model = planted()[name]
    x = rand(64, 8, seed=3)
    assert code in {f.id for f in hp.doctor(model, x, torch.zeros(64, dtype=torch.int64))}


@pytest.mark.parametrize("model", [mlp(), conv(), conv(norm=False)], ids=["mlp", "conv", "plain conv"])
def test_the_doctor_is_silent_on_honest_models(model):
    x = rand(250, 8, seed=3) if isinstance(model[0], nn.Flatten) else rand(250, 2, 6, 5, seed=3)
    assert hp.doctor(model, x, torch.zeros(250, dtype=torch.int64)) == ()


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_probabilities_and_scores_give_the_same_flags():
    model = mlp(dtype=torch.float64)
    x, y = labelled(model, 80, dtype=torch.float64)
    softened = nn.Sequential(model, nn.Softmax(1)).eval()
    for threat in (hp.Linf(0.08), hp.Threat(hp.Linf(0.08), access="scores", queries=100)):
        scores, probabilities = (hp.assess(m, x, y, threat=threat, **QUIET) for m in (model, softened))
        assert torch.equal(scores.broken, probabilities.broken)


ERRORS = {
    "training": (
        errors.ModelInTrainingMode,
        lambda m, x, y: (nn.Sequential(m, nn.Dropout()).train(), x, y, 0.1),
    ),
    "nan output": (
        errors.NonFiniteOutput,
        lambda m, x, y: (Wrapped(m, after=lambda z: z / 0 * 0), x, y, 0.1),
    ),
    "nan input": (
        errors.DataError,
        lambda m, x, y: (m, x.index_fill(0, torch.tensor([5]), torch.nan), y, 0.1),
    ),
    "range": (errors.DataError, lambda m, x, y: (m, x * 255, y, 0.1)),
    "labels": (errors.DataError, lambda m, x, y: (m, x, y + 7, 0.1)),
    "lengths": (errors.DataError, lambda m, x, y: (m, x, y[:-1], 0.1)),
    "empty": (errors.NothingToTest, lambda m, x, y: (m, x[:0], y[:0], 0.1)),
    "one class": (
        errors.BadModelOutput,
        lambda m, x, y: (Wrapped(m, after=lambda z: z.unsqueeze(2)), x, y, 0.1),
    ),
    "negative": (errors.ThreatError, lambda m, x, y: (m, x, y, -0.1)),
}


@pytest.mark.parametrize("name", list(ERRORS))
def test_bad_input_gets_an_error_with_a_cure(name, tmp_path: Path):
    kind, spoil = ERRORS[name]
    model = mlp()
    x, y = labelled(model, 20)
    with pytest.raises(kind) as caught:
        broken, x, y, eps = spoil(model, x, y)
        hp.assess(
            broken if broken.training else broken.eval(),
            x,
            y,
            threat=hp.Linf(eps),
            run_dir=tmp_path / "r",
            **QUIET,
        )
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("no_panel")
def test_assert_robust_says_why(tmp_path: Path):
    model = mlp()
    x, y = labelled(model)
    hp.testing.assert_robust(model, (x, y), hp.Linf(0.0), at_least=0.99)
    with pytest.raises(AssertionError, match="asked for 99 %"):
        hp.testing.assert_robust(model, (x, y), hp.Linf(0.3), at_least=0.99)


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_a_targeted_goal_counts_only_its_label():
    model = mlp()
    x, y = labelled(model)
    y[:5] = (y[:5] + 1) % 4  # the model gets these wrong
    result = hp.assess(model, x, y, threat=hp.Threat(hp.Linf(0.2), goal=hp.Targeted(2)), **QUIET)
    assert result.clean_accuracy.count == len(x) - 5
    attacked = result.broken.clone()
    attacked[:5] = False
    with torch.no_grad():
        assert (model(result.adversarial)[attacked].argmax(1) == 2).all()
    assert not bool(result.broken[5:][y[5:] == 2].any())


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_seconds_run_out_and_the_rest_is_done_on_resume(tmp_path: Path):
    model = mlp()
    x, y = labelled(model)
    short = hp.assess(
        model, x, y, threat=hp.Linf(0.08), run_dir=tmp_path / "r", budget=hp.Budget(seconds=1e-3), **QUIET
    )
    assert not short.record.complete
    assert "HP401" in {f.id for f in short.findings}
    rest = hp.assess(model, x, y, threat=hp.Linf(0.08), run_dir=tmp_path / "r", resume=True, **QUIET)
    whole = hp.assess(model, x, y, threat=hp.Linf(0.08), **QUIET)
    assert rest.record.complete
    assert torch.equal(rest.adversarial, whole.adversarial)


def test_rows_that_break_the_constraints_are_counted_and_said():
    from hardpoint.threats.features import Feature, Schema

    schema = Schema([Feature("a"), Feature("b")], ["a <= b"])
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    x = rand(300, 2, seed=1)
    x[64:100] = torch.tensor([0.9, 0.1])
    with torch.no_grad():
        y = model(x).argmax(1)
    threat = hp.Threat(hp.FeatureEdits(schema, eps=0.2), access="scores", queries=20)
    result = hp.assess(model, x, y, threat=threat, **QUIET)
    counted = [f for f in result.findings if f.id == "HP205" and "rows break the constraints" in f.message]
    assert counted
    assert counted[0].severity.word == "fail"


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_a_random_model_is_no_less_robust_to_nothing():
    model = Noisy(mlp(), 0.002).eval()
    x, _ = labelled(mlp(), 60)
    y = mlp()(x).argmax(1)
    first = hp.assess(model, x, y, threat=hp.Linf(0.0), **QUIET)
    torch.manual_seed(9)
    again = hp.assess(model, x, y, threat=hp.Linf(0.0), budget=hp.Budget(passes=1), **QUIET)
    assert first.clean_accuracy == again.clean_accuracy
    assert first.clean_accuracy.value - first.robust_accuracy.value <= 0.05


def test_an_endless_budget_needs_ends():
    model = hp.models.TorchModel(mlp(), input_range=(-float("inf"), float("inf")))
    x, y = labelled(mlp(), 10)
    with pytest.raises(errors.ThreatError, match="without ends"):
        hp.assess(model, x, y, threat=hp.L2(float("inf")), **QUIET)


def test_a_query_budget_never_raises_what_is_spent():
    model = mlp()
    x, y = labelled(model, 20)
    threat = hp.Threat(hp.Linf(0.01), access="scores")
    result = hp.assess(model, x, y, threat=threat, budget=hp.Budget(queries=3000), **QUIET)
    assert int(result.record.outcomes.queries.max()) <= 1000


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_a_run_that_two_workers_began_is_finished_by_one(tmp_path: Path):
    model = mlp()
    x, y = labelled(model, 40)
    settings = {"threat": hp.Linf(0.08), "batch_size": 4, "run_dir": tmp_path / "run", **QUIET}
    short = hp.assess(model, x, y, workers=2, budget=hp.Budget(seconds=0.01), **settings)
    assert not short.record.complete
    resumed = hp.assess(model, x, y, resume=True, **settings)
    whole = hp.assess(model, x, y, threat=hp.Linf(0.08), batch_size=4, **QUIET)
    assert torch.equal(resumed.broken, whole.broken)
    assert '"shards": 2' in next((tmp_path / "run").rglob("shards.json")).read_text()
