"""What smoothed classifiers write down: counts that prove the same radii again, tables, the curve, the page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import hardpoint as hp
from hardpoint.bounds.smoothing import (
    Ablation,
    Anytime,
    Fixed,
    Gaussian,
    IntegerGaussian,
    Smoothed,
    Uniform,
    fixed_radius,
    read_certificates,
)
from hardpoint.core.errors import (
    DataError,
    RunError,
)
from small_models import (
    mlp,
    points_at,
    rand,
    two_sided,
)


@pytest.mark.parametrize("radius", [None, 0.2, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 4.0])])
@pytest.mark.parametrize("estimator", [Fixed(n=900), Anytime(most=900)])
@pytest.mark.parametrize(
    "noise", [Gaussian(0.5), Gaussian(0.5, norm=hp.Linf), Uniform(0.4), IntegerGaussian(0.5)], ids=str
)
def test_counts_alone_prove_the_same_radii_also_from_a_file(noise, estimator, radius):
    x = (rand(6, 8) * 255).round() / 255
    proven = Smoothed(mlp(), noise).certify(x, radius=radius, estimator=estimator, alpha=0.01, seed=3)
    assert torch.equal(proven.recheck(), proven.radius)
    again = read_certificates(json.loads(json.dumps(proven.describe())))
    assert again.describe() == proven.describe()
    assert torch.equal(again.recheck(), proven.radius)
    assert (again.noise, again.estimator, again.seed) == (noise, estimator, 3)


def test_counts_that_were_changed_prove_less():
    proven = Smoothed(mlp(), Gaussian(0.5)).certify(rand(6, 8), estimator=Fixed(n=900))
    told = proven.describe()
    told["radius"] = [2.0] * 6
    assert bool((read_certificates(told).recheck() < 2.0).all())
    for change in (
        {"noise": {"kind": "Gauss"}},
        {"hits": [1]},
        {"alpha": "x"},
        {"estimator": {"kind": "Fixed", "m": 1}},
    ):
        with pytest.raises(RunError):
            read_certificates({**proven.describe(), **change})
    with pytest.raises(RunError):
        read_certificates({})


def test_tables_of_counts_give_the_published_radii():
    hits = torch.tensor([[100_000, 99_000], [50_300, 0]])
    radii = fixed_radius(hits, 100_000, 0.001, Gaussian(0.25))
    assert torch.allclose(radii[0], torch.tensor([0.9529, 0.5725], dtype=torch.float64), atol=1e-4)
    assert radii[1].tolist() == [0.0, 0.0]
    mixed = fixed_radius(torch.tensor([10, 1000]), torch.tensor([10, 1000]), 0.001, Uniform(1.0))
    assert mixed.tolist() == pytest.approx(
        [2 * (0.001**0.1 - 0.5) if 0.001**0.1 > 0.5 else 0.0, 2 * (0.001**0.001 - 0.5)]
    )
    assert fixed_radius(torch.tensor(100), 100, 0.001, Ablation(2), (6,)).shape == ()
    for bad in (torch.tensor([-1]), torch.tensor([101]), torch.tensor([1.0]), torch.tensor([True])):
        with pytest.raises(DataError):
            fixed_radius(bad, 100, 0.001, Gaussian(0.25))
    with pytest.raises(DataError):
        fixed_radius(torch.tensor([1, 2]), torch.tensor([1, 2, 3]), 0.001, Gaussian(0.25))


def test_the_curve_of_certified_accuracy():
    model, normal = two_sided()
    distances = torch.tensor([0.3, 0.6, 0.9, -0.6], dtype=torch.float64)
    proven = Smoothed(model, Gaussian(0.5)).certify(points_at(normal, distances), estimator=Fixed(n=5000))
    curve = proven.certified_accuracy([0.0, 0.2, 0.5, 3.0], torch.ones(4, dtype=torch.int64))
    assert [rate.count for rate in curve] == [3, 3, 2, 0]
    assert proven.rate.count == 4
    for radii, labels in (
        ([-1.0], torch.ones(4).long()),
        ([0.0], torch.ones(3).long()),
        ([math.nan], torch.ones(4).long()),
    ):
        with pytest.raises(DataError):
            proven.certified_accuracy(radii, labels)


def test_the_page_runs():
    page = (Path(__file__).parents[3] / "docs" / "smoothing.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace("10_000", "1000")
    exec(compile(code, "smoothing.md", "exec"), {})
