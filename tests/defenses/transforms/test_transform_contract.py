"""What every transform keeps: dtype, rows by themselves, ranges, gradients that are right."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from transform_cases import CASES, IMAGES, ON_IMAGES, ON_ROWS, ROWS, applied

import hardpoint.defenses as defenses
from hardpoint.core.errors import DataError
from hardpoint.defenses import (
    AdditiveNoise,
    BitDepth,
    DenoisingAutoencoder,
    MinMaxScaling,
    PcaProjection,
    Standardise,
    latency,
)
from hardpoint.defenses.stage import GradientPath, InputStage, OwnBackward
from small_models import randn

ROUNDS_PER_BATCH = (PcaProjection, DenoisingAutoencoder)  # products of matrices and convolutions
MAY_LEAVE = (PcaProjection, DenoisingAutoencoder, Standardise, MinMaxScaling)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("stage", "x"), CASES)
def test_it_is_a_stage_and_keeps_dtype_and_range(stage, x, dtype):
    x = x.to(dtype)
    given = x.clone()
    made = applied(stage, x)
    assert isinstance(stage, InputStage)
    assert made.dtype == dtype
    assert made.device == x.device
    assert len(made) == len(x)
    assert torch.equal(x, given)
    assert torch.isfinite(made).all()
    if not isinstance(stage, MAY_LEAVE):
        assert made.min() >= 0
        assert made.max() <= 1


@pytest.mark.parametrize(("stage", "x"), CASES)
def test_no_row_depends_on_its_batch_mates(stage, x):
    if stage.is_random:
        same = x[:1].expand_as(x)
        made = applied(stage, same)
        assert len({tuple(row.flatten().tolist()) for row in made}) > len(x) // 2  # rows draw for themselves
        assert not torch.equal(applied(stage, x, seed=1), applied(stage, x, seed=2))
        assert torch.equal(applied(stage, x), applied(stage, x))
        return
    whole = stage.apply(x)
    for split in ([1] * 8, [3, 5], [7, 1]):
        parts = torch.cat([stage.apply(part) for part in x.split(split)])
        if isinstance(stage, ROUNDS_PER_BATCH):
            torch.testing.assert_close(parts, whole)
        else:
            assert torch.equal(parts, whole)
    assert stage.apply(x[:0]).shape == (0, *whole.shape[1:])


@pytest.mark.parametrize(("stage", "x"), CASES)
def test_gradients_are_those_of_finite_differences(stage, x):
    x = x[:1].double()
    if stage.gradient is GradientPath.DIFFERENTIABLE:
        x.requires_grad_(True)
        assert torch.autograd.gradcheck(
            lambda z: applied(stage, z), (x,), eps=1e-7, atol=1e-5, fast_mode=True
        )
    elif stage.gradient is GradientPath.OWN:
        assert isinstance(stage, OwnBackward)
        back = stage.backward(x, torch.ones_like(stage.apply(x)))
        assert back.shape == x.shape
        assert back.dtype == x.dtype
        assert (back > 0).all()
    else:
        ramp = torch.linspace(0, 1, x.numel(), dtype=torch.float64).view_as(x)
        assert (stage.apply(ramp) - ramp).abs().mean() < 0.1  # near the identity, which is what it passes for


@pytest.mark.parametrize("stage", ON_IMAGES, ids=lambda s: type(s).__name__)
def test_gradients_at_flat_images_are_finite(stage):
    x = torch.full((2, 3, 7, 6), 0.5, requires_grad=True)
    made = applied(stage, x)
    if stage.gradient is GradientPath.DIFFERENTIABLE:
        (slope,) = torch.autograd.grad((made * randn(*made.shape)).sum(), x)
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize(("stage", "x"), CASES)
def test_descriptions_are_json_and_copies_act_alike(stage, x):
    said = stage.describe()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["kind"] == type(stage).__name__
    for other in (copy.deepcopy(stage), pickle.loads(pickle.dumps(stage))):
        assert other.describe() == said
        assert torch.equal(applied(other, x), applied(stage, x))


@pytest.mark.parametrize("stage", ON_IMAGES[:10], ids=lambda s: type(s).__name__)
def test_grey_images_need_no_channel(stage):
    grey = IMAGES[:4, 0]
    with_channel, without = applied(stage, grey.unsqueeze(1)), applied(stage, grey)
    assert without.dim() == 3
    assert torch.equal(with_channel.squeeze(1), without)


def test_all_are_public():
    assert {type(stage).__name__ for stage in [*ON_IMAGES, *ON_ROWS]} <= set(defenses.__all__)


def test_latency_leaves_random_state_alone_and_is_of_one_input():
    before = torch.get_rng_state()
    assert latency(AdditiveNoise(), ROWS, repeats=2) > 0
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(DataError, match="no inputs"):
        latency(BitDepth(), ROWS[:0])
