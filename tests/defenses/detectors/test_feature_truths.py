"""Closed forms and brute force of detectors that read features."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.defenses.detectors import (
    DeepNearestNeighbours,
    KernelDensity,
    LocalDimensionality,
    Mahalanobis,
    NearestNeighbours,
)
from hardpoint.defenses.detectors import _neighbours as neighbours
from hardpoint.defenses.detectors.mahalanobis import ledoit_wolf
from hardpoint.defenses.looking import look
from hardpoint.defenses.seen import Seen
from small_models import rand, randn
from watched import LAYERS, benign, detectors, model


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
    monkeypatch.setattr(neighbours, "ROWS", rows)
    bank, asked = randn(60, 4, dtype=torch.float64), randn(9, 4, seed=1, dtype=torch.float64)
    detector = NearestNeighbours.fit(of(bank), zeros(60), "f", k=5)
    a, b = (z / z.norm(dim=1, keepdim=True) for z in (asked, bank))
    brute = (a.unsqueeze(1) - b).norm(dim=2).sort(1).values
    torch.testing.assert_close(detector.score(of(asked)), brute[:, 4])
    which = neighbours.nearest(a, b, 5)
    torch.testing.assert_close(neighbours.distances_to(a, b, which), brute[:, :5])


def test_neighbours_far_from_the_origin_are_found_in_single_precision():
    bank = 1000 + randn(300, 4)
    asked = 1000 + randn(20, 4, seed=1)
    brute = (asked.unsqueeze(1) - bank).norm(dim=2)
    found = neighbours.distances_to(asked, bank, neighbours.nearest(asked, bank, 5))
    assert torch.equal(found, brute.sort(1).values[:, :5])
    assert neighbours.nearest(asked[:0], bank, 5).shape == (0, 5)


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


def test_deep_neighbours_believe_inputs_whose_layers_agree_and_not_those_whose_layers_do_not():
    y = torch.arange(100) % 2
    clusters = torch.eye(2)[y] + 0.01 * randn(100, 2)
    seen = Seen(clusters, clusters, {"a": clusters, "b": clusters})
    detector = DeepNearestNeighbours.fit(seen, y, ("a", "b"), k=10)
    torch.testing.assert_close(detector.score(seen), torch.zeros(100))
    mixed = replace(seen, features={"a": clusters, "b": clusters.flip(1)})
    torch.testing.assert_close(
        detector.score(mixed), torch.full((100,), 1 - 1 / 21)
    )  # of 20 inputs kept apart


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
