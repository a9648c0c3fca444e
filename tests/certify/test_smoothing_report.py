"""The page of a smoothed classifier."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hardpoint.bounds.smoothing import Fixed, Gaussian, Laplace, Smoothed
from hardpoint.certify.smoothed import smoothing_report
from hardpoint.core.errors import DataError, NothingToTest
from small_models import seeded


@pytest.fixture(scope="module")
def certified():
    module = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2))).eval().requires_grad_(False)
    x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    y = module(x).argmax(1)
    return Smoothed(module, Gaussian(0.25)).certify(x, estimator=Fixed(n=500)), y


def test_it_shows_the_rates_at_the_radii_asked_for(certified, tmp_path):
    certificates, y = certified
    page = smoothing_report(tmp_path / "page.html", certificates, y, [0.0, 0.1, 0.3]).read_text()
    for rate in certificates.certified_accuracy([0.0, 0.1, 0.3], y):
        assert f"{100 * rate.value:.3g}" in page
    assert "Gaussian noise, sigma 0.25" in page
    assert "Certified accuracy against" in page
    assert "https://" not in page


def test_the_norm_is_that_of_the_noise(tmp_path):
    module = seeded(lambda: nn.Linear(3, 2)).eval().requires_grad_(False)
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    found = Smoothed(module, Laplace(0.2)).certify(x, estimator=Fixed(n=300))
    page = smoothing_report(tmp_path / "page.html", found, module(x).argmax(1)).read_text()
    assert "radius (L1" in page


def test_labels_that_do_not_fit_leave_no_page(certified, tmp_path):
    certificates, y = certified
    with pytest.raises(DataError):
        smoothing_report(tmp_path / "page.html", certificates, y[:3])
    assert not list(tmp_path.iterdir())


def test_nothing_to_report_is_said(tmp_path):
    module = seeded(lambda: nn.Linear(3, 2)).eval().requires_grad_(False)
    found = Smoothed(module, Gaussian(0.2)).certify(torch.zeros(0, 3), estimator=Fixed(n=300))
    with pytest.raises(NothingToTest):
        smoothing_report(tmp_path / "page.html", found, torch.zeros(0, dtype=torch.int64))
