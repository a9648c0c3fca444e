"""Closed forms and brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hardpoint.core.errors import ConfigError, DataError, ModelError
from hardpoint.defenses.detectors import (
    ActivationAnomaly,
    DeepNearestNeighbours,
    Energy,
    Entropy,
    FeatureSqueezing,
    KernelDensity,
    LayerDisagreement,
    LocalDimensionality,
    Mahalanobis,
    Margin,
    MaxLogit,
    NearestNeighbours,
    PredictiveUncertainty,
    ReconstructionError,
    TrainedDetector,
)
from hardpoint.defenses.detectors import _neighbours as neighbours
from hardpoint.defenses.detectors.disagreement import jensen_shannon
from hardpoint.defenses.detectors.mahalanobis import ledoit_wolf
from hardpoint.defenses.looking import look
from hardpoint.defenses.seen import Seen
from small_models import labelled, rand, randn
from watched import LAYERS, Blend, benign, detectors, model


def of(features, logits=None):
    return Seen(features, features[:, :1].expand(-1, 2) if logits is None else logits, {"f": features})


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def test_mahalanobis_of_gaussian_features_is_chi_squared():
    from scipy.stats import kstest

    mix = randn(5, 5, seed=1, dtype=torch.float64)
    y = torch.arange(20_000) % 3
    centres = 200 * torch.eye(3, 5, dtype=torch.float64)
    f = randn(20_000, 5, seed=2, dtype=torch.float64) @ mix + centres[y]
    seen = of(f, centres[y][:, :3])
    detector = Mahalanobis.fit(seen, y, "f")
    fresh = of(randn(4000, 5, seed=3, dtype=torch.float64) @ mix + centres[torch.arange(4000) % 3])
    assert kstest(detector.score(fresh).numpy(), "chi2", args=(5,)).pvalue > 0.01
    # relative: the difference of two known quadratic forms
    relative = Mahalanobis.fit(seen, y, "f", relative=True)
    mean, whole = f.mean(0), ledoit_wolf(f - f.mean(0))[0]
    z = fresh.x - mean
    torch.testing.assert_close(
        relative.score(fresh),
        detector.score(fresh) - (z @ torch.linalg.inv(whole) * z).sum(1),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize(("n", "d"), [(30, 5), (200, 40), (10, 60)])
def test_shrinkage_is_that_of_scikit_learn(n, d):
    covariance = pytest.importorskip("sklearn.covariance")
    x = randn(n, d, dtype=torch.float64) * torch.linspace(0.2, 3, d, dtype=torch.float64)
    theirs, amount = covariance.ledoit_wolf(x.numpy(), assume_centered=True)
    ours, shrinkage = ledoit_wolf(x)
    torch.testing.assert_close(ours, torch.from_numpy(theirs))
    assert shrinkage == pytest.approx(amount)


def test_mahalanobis_refuses_features_that_do_not_vary():
    with pytest.raises(DataError, match="do not vary"):
        Mahalanobis.fit(of(torch.ones(10, 3)), zeros(10), "f")


@pytest.mark.parametrize("rows", [7, 4096])
def test_neighbours_are_those_of_brute_force(rows, monkeypatch):
    monkeypatch.setattr(neighbours, "BANK_ROWS", rows)
    bank, asked = randn(60, 4, dtype=torch.float64), randn(9, 4, seed=1, dtype=torch.float64)
    detector = NearestNeighbours.fit(of(bank), zeros(60), "f", k=5)
    a, b = (z / z.norm(dim=1, keepdim=True) for z in (asked, bank))
    brute = (a.unsqueeze(1) - b).norm(dim=2).sort(1).values
    torch.testing.assert_close(detector.score(of(asked)), brute[:, 4])
    which = neighbours.nearest(a, b, 5)
    torch.testing.assert_close(neighbours.distances_to(a, b, which), brute[:, :5])


def test_an_input_of_the_bank_counts_itself_unless_told_not_to():
    f = randn(30, 3, dtype=torch.float64)
    detector = NearestNeighbours.fit(of(f), zeros(30), "f", k=1)
    assert float(detector.score(of(f)).max()) == 0.0
    without = NearestNeighbours("f", detector.bank, 1, exclude_self=True)
    torch.testing.assert_close(without.score(of(f)), NearestNeighbours("f", detector.bank, 2).score(of(f)))
    with pytest.raises(ConfigError, match="k is 30 and there are 29"):
        NearestNeighbours.fit(of(f[:29]), zeros(29), "f", k=30)


@pytest.mark.parametrize("d", [2, 5])
def test_dimensionality_of_a_uniform_cube_is_its_dimension(d):
    middle = of(torch.full((1, d), 0.5, dtype=torch.float64))
    found = []
    for seed in range(400):
        f = rand(1500, d, seed=seed, dtype=torch.float64)
        found.append(float(LocalDimensionality("f", f, 20).score(middle)))
    # The inverse of a mean of k terms, of which k - 1 are exponential with rate d: its expectation is d k / (k - 2).
    assert sum(found) / 400 == pytest.approx(d * 20 / 18, rel=0.05)
    inside = LocalDimensionality.fit(of(f), zeros(1500), "f", references=1500)
    inside = replace(inside, exclude_self=True)
    assert float(inside.score(of(f)).median()) == pytest.approx(d, rel=0.25)


def test_references_are_drawn_by_the_seed():
    f = rand(100, 2)
    few = [
        LocalDimensionality.fit(of(f), zeros(100), "f", references=30, seed=s).references for s in (0, 0, 1)
    ]
    assert len(few[0]) == 30
    assert torch.equal(few[0], few[1])
    assert not torch.equal(few[0], few[2])


def test_dimensionality_is_finite_among_duplicates_and_on_spheres():
    twins = torch.zeros(10, 2)
    assert torch.isfinite(LocalDimensionality("f", twins, 5).score(of(torch.zeros(1, 2)))).all()
    ring = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    x = torch.zeros(1, 2).requires_grad_(True)
    score = LocalDimensionality("f", ring, 4).score(of(x))
    assert torch.isfinite(score).all()
    assert torch.isfinite(torch.autograd.grad(score.sum(), x)[0]).all()


def test_free_scores_are_their_closed_forms():
    z = randn(50, 6, dtype=torch.float64)
    seen = Seen(z, z)
    p = z.exp() / z.exp().sum(1, keepdim=True)
    ordered = z.sort(1).values
    torch.testing.assert_close(Energy(2.0).score(seen), -2 * (z / 2).exp().sum(1).log())
    torch.testing.assert_close(MaxLogit().score(seen), -ordered[:, -1])
    torch.testing.assert_close(Margin().score(seen), ordered[:, -2] - ordered[:, -1])
    torch.testing.assert_close(Entropy().score(seen), -(p * p.log()).sum(1))
    huge = Seen(z, 1e30 * z)
    assert all(torch.isfinite(d.score(huge)).all() for d in (Energy(), MaxLogit(), Margin(), Entropy()))
    with pytest.raises(ConfigError, match="temperature is 0"):
        Energy(0.0)


def test_squeezing_is_the_largest_move_and_asks_once():
    calls = []

    def ask(x):
        calls.append(len(x))
        return model()(x)

    x = rand(4, 8, dtype=torch.float64)
    with torch.no_grad():
        seen = Seen(x, model()(x), {}, ask)
        squeezers = (Blend(0.2), Blend(0.9), Blend(0.0))
        score = FeatureSqueezing(squeezers).score(seen)
        moves = [(model()(s.apply(x)).softmax(1) - model()(x).softmax(1)).abs().sum(1) for s in squeezers]
    torch.testing.assert_close(score, torch.stack(moves).amax(0))
    assert calls == [12]
    with pytest.raises(DataError, match="make the batch with look"):
        FeatureSqueezing(squeezers).score(Seen(x, model()(x)))
    with pytest.raises(ConfigError, match="no squeezer"):
        FeatureSqueezing(())


def test_deep_neighbours_follow_the_definition():
    detector = detectors()["deep nearest neighbours at 2, 4"]
    assert isinstance(detector, DeepNearestNeighbours)
    seen = benign(12)
    others = torch.zeros(12, 4)
    for layer, bank in zip(LAYERS, detector.banks, strict=True):
        f = seen.features[layer]
        f = f / f.norm(dim=1, keepdim=True)
        close = (f.unsqueeze(1) - bank).norm(dim=2).argsort(1)[:, :20]
        for c in range(4):
            others[:, c] += (detector.labels[close] != c).sum(1)
    m = len(detector.calibration)
    p = torch.stack([(1 + (detector.calibration >= others[..., None]).sum(-1)) / (m + 1)])[0]
    torch.testing.assert_close(detector.score(seen), (1 - p.amax(1)).double(), rtol=1e-6, atol=1e-6)
    assert m == 100
    assert len(detector.labels) == 400


def test_deep_neighbours_pass_on_a_gradient_that_lowers_the_score():
    detector = detectors()["deep nearest neighbours at 2, 4"]
    x = rand(200, 8, seed=9, dtype=torch.float64)
    start = detector.score(look(model(), x, LAYERS))
    for _ in range(30):
        z = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(detector.score(look(model(), z, LAYERS)).sum(), z)
        assert slope.abs().sum() > 0
        x = z.detach() - 0.02 * slope.sign()
    assert float(detector.score(look(model(), x, LAYERS)).mean()) < float(start.mean()) - 0.1


def test_density_is_the_mean_kernel_of_the_predicted_class():
    f, y = randn(40, 3, dtype=torch.float64), torch.arange(40) % 2
    logits = torch.nn.functional.one_hot(y, 2).double()
    detector = KernelDensity.fit(of(f, logits), y, "f", width=0.7)
    asked = randn(6, 3, seed=4, dtype=torch.float64)
    predicted = torch.tensor([0, 1, 1, 0, 1, 0])
    score = detector.score(of(asked, torch.nn.functional.one_hot(predicted, 2).double()))
    for i, c in enumerate(predicted.tolist()):
        kernel = (-((asked[i] - f[y == c]) ** 2).sum(1) / 0.7**2).exp().mean()
        assert float(score[i]) == pytest.approx(-math.log(kernel), rel=1e-9)
    assert torch.isfinite(detector.score(of(1e3 + asked))).all()


def test_density_chooses_a_width_near_the_best_and_wants_every_class():
    f = randn(2000, 2, dtype=torch.float64)
    logits = torch.zeros(2000, 2, dtype=torch.float64)
    y = torch.arange(2000) % 2
    width = KernelDensity.fit(of(f, logits), y, "f").width
    # Silverman's rule for d = 2 and 900 rows per class: n^(-1/6) = 0.32 standard deviations, times the square root of 2
    assert 0.2 < width < 1.0
    with pytest.raises(DataError, match="no input to fit on is of class 1"):
        KernelDensity.fit(of(f, logits), zeros(2000), "f")


def test_uncertainty_is_the_variance_over_passes_and_refuses_a_model_that_never_varies():
    answers = [torch.tensor([[0.0, 1.0], [2.0, 0.0]]) * s for s in (1.0, 2.0, -1.0)]
    queue = iter(answers)
    seen = Seen(torch.zeros(2, 1), answers[0], {}, lambda _: next(queue))
    p = torch.stack(answers).softmax(2)
    torch.testing.assert_close(PredictiveUncertainty(3).score(seen), ((p**2).mean(0) - p.mean(0) ** 2).sum(1))
    with pytest.raises(ModelError, match="the same in all 5 passes"):
        PredictiveUncertainty(5).score(benign(3))


def test_disagreement_is_bounded_and_zero_for_equal_answers():
    a = randn(20, 5, dtype=torch.float64).log_softmax(1)
    b = randn(20, 5, seed=1, dtype=torch.float64).log_softmax(1)
    torch.testing.assert_close(jensen_shannon(a, a), torch.zeros(20, dtype=torch.float64))
    torch.testing.assert_close(jensen_shannon(a, b), jensen_shannon(b, a))
    sure = 1e4 * torch.eye(2, dtype=torch.float64)
    apart = jensen_shannon(sure.log_softmax(1), sure.flip(1).log_softmax(1))
    torch.testing.assert_close(apart, torch.full((2,), math.log(2.0), dtype=torch.float64))


def test_probes_are_those_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    seen = benign(300)
    y = labelled(model(), seen.x)
    detector = LayerDisagreement.fit(seen, y, ("2",), ridge=1e-3)
    f = seen.features["2"]
    rows = ((f - f.mean(0)) / f.std(0)).numpy()
    theirs = linear.LogisticRegression(C=1 / (2e-3 * 300), max_iter=5000, tol=1e-8).fit(rows, y.numpy())
    ours = (f @ detector.weights[0][:-1] + detector.weights[0][-1]).softmax(1)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.predict_proba(rows)), rtol=0, atol=2e-3)


def test_the_trained_detector_learns_what_it_is_shown_from_its_seed():
    seen = benign(300)
    attacked = look(model(), seen.x + 0.6 * randn(300, 8, seed=3, dtype=torch.float64), LAYERS)
    fit = [TrainedDetector.fit(seen, attacked, ("2",), steps=40, seed=s) for s in (0, 0, 1)]
    assert torch.equal(fit[0].hidden, fit[1].hidden)
    assert not torch.equal(fit[0].hidden, fit[2].hidden)
    assert (fit[0].score(attacked) > 0).double().mean() > 0.8 > 0.2 > (fit[0].score(seen) > 0).double().mean()


def test_activations_outside_the_range_are_measured_in_deviations():
    f = rand(500, 3, dtype=torch.float64)
    detector = ActivationAnomaly.fit(of(f), zeros(500), "f", sharpness=50.0)
    far = torch.full((1, 3), 0.5, dtype=torch.float64)
    far[0, 1] = f[:, 1].max() + 7 * f[:, 1].std()
    assert float(detector.score(of(far))) == pytest.approx(7 / 3, rel=1e-6)
    with pytest.raises(DataError, match="the same for all inputs"):
        ActivationAnomaly.fit(of(torch.ones(5, 2)), zeros(5), "f")


def test_reconstruction_errors_of_the_wrong_shape_are_refused():
    class Wrong:
        def error(self, x):
            return x

    with pytest.raises(ModelError, match=r"shape \(3, 8\) for 3 inputs"):
        ReconstructionError(Wrong()).score(benign(3))
