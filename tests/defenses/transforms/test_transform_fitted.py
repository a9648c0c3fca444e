"""Projection, scaling and the denoising network: closed forms on data made for them."""

from __future__ import annotations

import pytest
import torch

from hardpoint.core.errors import DataError
from hardpoint.defenses import DenoisingAutoencoder, MinMaxScaling, PcaProjection, Standardise
from small_models import rand, randn


@pytest.mark.parametrize(("n", "d"), [(50, 8), (6, 30)], ids=["more rows", "more features"])
def test_pca_keeps_the_span_and_drops_the_rest(n, d):
    directions = torch.linalg.qr(randn(d, 3, dtype=torch.float64)).Q.T
    x = 2.0 + randn(n, 3, seed=1, dtype=torch.float64) @ directions
    stage = PcaProjection.fit(x, 3)
    torch.testing.assert_close(stage.components @ stage.components.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(stage.apply(x), x)
    beyond = randn(1, d, seed=2, dtype=torch.float64)
    beyond = beyond - beyond @ directions.T @ directions
    torch.testing.assert_close(stage.apply(x + beyond), x)
    assert stage.explained == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "d"), [(40, 9), (9, 40)])
def test_pca_is_that_of_the_singular_values(n, d):
    x = randn(n, d, dtype=torch.float64) * torch.linspace(0.1, 2, d, dtype=torch.float64)
    centred = x - x.mean(0)
    _, sizes, basis = torch.linalg.svd(centred, full_matrices=False)
    stage = PcaProjection.fit(x, 4)
    torch.testing.assert_close(stage.apply(x), x.mean(0) + centred @ basis[:4].T @ basis[:4])
    shares = sizes.square().cumsum(0) / sizes.square().sum()
    assert stage.explained == pytest.approx(float(shares[3]))
    half = PcaProjection.fit(x, 0.5)
    assert len(half.components) == int((shares < 0.5).sum()) + 1
    assert half.explained >= 0.5


def test_pca_takes_images_and_a_share_near_one():
    x = rand(12, 2, 4, 4)
    stage = PcaProjection.fit(x, 1 - 1e-12)
    assert stage.apply(x).shape == x.shape
    torch.testing.assert_close(stage.apply(x), x, atol=1e-5, rtol=0)


def test_pca_refuses_more_components_than_directions():
    x = randn(30, 2) @ randn(2, 5, seed=1)
    with pytest.raises(DataError, match="ask for 2 or fewer"):
        PcaProjection.fit(x.double(), 3)
    with pytest.raises(DataError, match="4 directions"):
        PcaProjection.fit(randn(5, 20), 5)
    with pytest.raises(DataError, match="all alike"):
        PcaProjection.fit(torch.ones(4, 3), 1)


@pytest.mark.parametrize("shape", [(30, 5), (30, 3, 6, 4), (30, 6, 4)])
def test_scaled_training_data_have_the_scale_promised(shape):
    x = 100 + 7 * rand(*shape, dtype=torch.float64)
    axes = {2: 0, 4: (0, 2, 3), 3: (0, 1, 2)}[len(shape)]
    made = Standardise.fit(x).apply(x)
    assert made.mean(axes).abs().max() < 1e-9
    torch.testing.assert_close(made.std(axes, correction=0), torch.ones_like(made.std(axes)))
    made = MinMaxScaling.fit(x).apply(x)
    assert (made.amin(axes) == 0).all()
    assert (made.amax(axes) == 1).all()


def test_constants_are_shifted_to_nothing():
    x = torch.full((20, 2), 0.1)
    for fit in (Standardise.fit, MinMaxScaling.fit):
        assert (fit(x).apply(x) == 0).all()
        assert torch.isfinite(fit(x).apply(rand(3, 2))).all()


def test_images_of_another_size_can_be_scaled():
    assert Standardise.fit(rand(4, 3, 8, 8)).apply(rand(2, 3, 5, 7)).shape == (2, 3, 5, 7)


def low_rank(n: int, seed: int) -> torch.Tensor:
    return torch.tanh(randn(n, 2, seed=seed) @ randn(2, 12, seed=99)) * torch.logspace(-2, 2, 12)


def test_the_network_removes_noise_and_its_error_tells_strange_rows():
    stage = DenoisingAutoencoder.fit(low_rank(800, 0), epochs=25, noise=0.5)
    x = low_rank(200, 1)
    noisy = x + 0.5 * stage.scale * randn(200, 12, seed=2)

    def squared(a):
        return ((a - x) / stage.scale).square().mean()

    assert squared(stage.apply(noisy)) < 0.6 * squared(noisy)
    strange = x[:, torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    error = stage.error(x)
    assert error.shape == (200,)
    assert stage.error(strange).median() > 5 * error.median()
    expected = ((stage.apply(x) - x) / stage.scale).square().mean(1)
    torch.testing.assert_close(error, expected)


def test_training_is_of_its_seed_alone():
    x = rand(70, 1, 5, 5)
    before = torch.get_rng_state()
    with torch.no_grad():
        stages = [DenoisingAutoencoder.fit(x, epochs=1, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    said = [stage.describe()["fitted"] for stage in stages]
    assert said[0] == said[1] != said[2]
    assert not stages[0].network.training
    assert not any(p.requires_grad for p in stages[0].network.parameters())
    assert torch.equal(stages[0].apply(x), stages[1].apply(x))


def test_the_network_takes_grey_images_and_refuses_video():
    stage = DenoisingAutoencoder.fit(rand(8, 5, 4), epochs=1, hidden=4)
    assert stage.apply(rand(2, 5, 4)).shape == (2, 5, 4)
    with pytest.raises(DataError, match="images"):
        DenoisingAutoencoder.fit(rand(8, 2, 3, 4, 4), epochs=1)
