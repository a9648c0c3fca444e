"""What transforms refuse: settings, data and inputs that make no sense; each error says the cure."""

from __future__ import annotations

import pytest
import torch
from transform_cases import CASES, IMAGES, ON_IMAGES, ON_ROWS, ROWS, applied

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.defenses import (
    AdditiveNoise,
    BitDepth,
    DenoisingAutoencoder,
    GaussianSmoothing,
    GradientMasking,
    JpegCompression,
    MedianSmoothing,
    MinMaxScaling,
    NonLocalMeans,
    PcaProjection,
    QuantileEncoding,
    RandomResizePad,
    Standardise,
    ThermometerEncoding,
    TotalVariation,
    latency,
)


@pytest.mark.parametrize("stage", ON_IMAGES[1:10], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "x",
    [
        torch.rand(4, 9),
        torch.rand(2, 3, 4, 5, 6),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.rand(2, 3, 0, 4),
    ],
    ids=["rows", "video", "integers", "no pixels"],
)
def test_what_is_no_image_is_refused(stage, x):
    with pytest.raises(DataError, match="is for images"):
        stage.apply(x)


@pytest.mark.parametrize(("stage", "x"), CASES)
def test_integers_are_refused(stage, x):
    with pytest.raises(DataError, match="int64"):
        stage.apply(x.long())


@pytest.mark.parametrize(
    "stage", [ON_IMAGES[0], *ON_IMAGES[5:6], *ON_ROWS[1:5]], ids=lambda s: type(s).__name__
)
def test_nan_is_not_hidden(stage):
    x = (IMAGES if isinstance(stage, JpegCompression) else ROWS)[:3].clone()
    x.view(3, -1)[1, 4] = torch.nan
    bad = applied(stage, x).isnan().flatten(1).any(1)
    assert bad.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BitDepth(0), "bits is 0; give a whole number from 1 to 20"),
        (lambda: BitDepth(21), "from 1 to 20"),
        (lambda: BitDepth(2.5), "bits is 2.5"),
        (lambda: BitDepth(True), "bits is True"),
        (lambda: BitDepth(4, 1, 0), "low < high"),
        (lambda: BitDepth(4, float("-inf"), 0), "low < high"),
        (lambda: BitDepth(4, float("nan"), 0), "low < high"),
        (lambda: BitDepth(4, "0", 1), "low < high"),
        (lambda: MedianSmoothing(0), "size is 0"),
        (lambda: GaussianSmoothing(0), "sigma is 0; give a number above 0"),
        (lambda: GaussianSmoothing(float("nan")), "sigma is nan"),
        (lambda: GaussianSmoothing("wide"), "sigma is 'wide'"),
        (lambda: GaussianSmoothing(float("inf")), "sigma is inf"),
        (lambda: NonLocalMeans(search=4), "search is 4; give an odd number"),
        (lambda: NonLocalMeans(patch=2), "patch is 2"),
        (lambda: NonLocalMeans(strength=-1), "strength is -1"),
        (lambda: JpegCompression(0), "quality is 0; give a whole number from 1 to 100"),
        (lambda: JpegCompression(101), "quality is 101"),
        (lambda: TotalVariation(0), "weight is 0"),
        (lambda: TotalVariation(steps=0), "steps is 0"),
        (lambda: TotalVariation(keep=0), "keep is 0; give a number above 0 and at most 1"),
        (lambda: TotalVariation(keep=1.5), "keep is 1.5"),
        (lambda: RandomResizePad(0.9, 0.5), "low <= high"),
        (lambda: RandomResizePad(0), "low is 0"),
        (lambda: RandomResizePad(fill=float("nan")), "fill is nan"),
        (lambda: AdditiveNoise(0), "sigma is 0"),
        (lambda: AdditiveNoise(kind="laplace"), 'give "gaussian" or "uniform"'),
        (lambda: AdditiveNoise(low=2), "low < high"),
        (lambda: GradientMasking(1, 1), "low < high"),
        (lambda: ThermometerEncoding(1), "levels is 1"),
        (lambda: QuantileEncoding.fit(ROWS, 1), "levels is 1"),
        (lambda: PcaProjection.fit(ROWS, 0), "components is 0"),
        (lambda: PcaProjection.fit(ROWS, 1.0), "components is 1.0"),
        (lambda: PcaProjection.fit(ROWS, True), "components is True"),
        (lambda: DenoisingAutoencoder.fit(ROWS, epochs=0), "epochs is 0"),
        (lambda: DenoisingAutoencoder.fit(ROWS, noise=0), "noise is 0"),
        (lambda: latency(BitDepth(), ROWS, repeats=0), "repeats is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_a_cure(build, words):
    with pytest.raises(ConfigError) as caught:
        build()
    assert words in str(caught.value)
    assert caught.value.cure


FITS = [PcaProjection.fit, Standardise.fit, MinMaxScaling.fit, QuantileEncoding.fit, DenoisingAutoencoder.fit]


@pytest.mark.parametrize("fit", FITS, ids=lambda f: f.__self__.__name__)
def test_data_that_cannot_be_fitted_on_are_refused(fit):
    bad = ROWS.clone()
    bad[6, 2] = torch.inf
    with pytest.raises(DataError, match="row 6 "):
        fit(bad)
    with pytest.raises(DataError, match="2 rows or more"):
        fit(ROWS[:1])
    with pytest.raises(DataError):
        fit(ROWS.long())
    with pytest.raises(DataError):
        fit(ROWS[:, 0])


@pytest.mark.parametrize("stage", ON_ROWS[4:], ids=lambda s: type(s).__name__)
def test_other_shapes_than_the_fitted_ones_are_refused(stage):
    for other in (ROWS[:, :1], ROWS[:, :8], IMAGES, torch.rand(3, 1, 9)):
        with pytest.raises(DataError, match=r"was fitted on inputs of shape \(9,\)"):
            stage.apply(other)


def test_one_feature_is_not_spread_over_many():
    for fit in (Standardise.fit, MinMaxScaling.fit):
        with pytest.raises(DataError, match="fitted"):
            fit(ROWS[:, :1]).apply(ROWS)
        with pytest.raises(DataError, match="fitted"):
            fit(IMAGES[:, :1]).apply(IMAGES)
