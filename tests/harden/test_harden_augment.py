"""Changes of batches against loops over single images."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.core.rng import Rng
from hardpoint.harden import Augmentation, Crop, Cutout, Flip, Jitter, Mixup
from hardpoint.harden.learner import one_hot, soft_cross_entropy
from small_models import rand, randn

RNG = Rng(3).fork("update")
ALL = [Flip(), Crop(2), Cutout(3), Mixup(), Jitter(0.1)]


def images(n: int = 20, dtype: torch.dtype = torch.float32):
    x = rand(n, 3, 7, 5, dtype=dtype) + 0.1
    return x, one_hot(torch.arange(n) % 4, 4, 0.1).to(dtype), torch.arange(n) * 7 + 2


def test_flip_image_by_image():
    x, targets, index = images()
    got, kept = Flip()(x, targets, RNG, index)
    assert kept is targets
    mirrored = 0
    for i in range(len(x)):
        turn = bool(RNG.fork("flip").uniform(index[i : i + 1]) < 0.5)
        mirrored += turn
        assert torch.equal(got[i], torch.stack([x[i, :, :, 4 - c] for c in range(5)], -1) if turn else x[i])
    assert 0 < mirrored < len(x)


@pytest.mark.parametrize("pad", [1, 2, 6])
def test_crop_image_by_image(pad):
    x, targets, index = images(60)
    got, kept = Crop(pad)(x, targets, RNG, index)
    assert kept is targets
    starts = set()
    for i in range(len(x)):
        wide = torch.zeros(3, 7 + 2 * pad, 5 + 2 * pad)
        wide[:, pad : pad + 7, pad : pad + 5] = x[i]
        top, left = RNG.fork("crop").integers(index[i : i + 1], 2 * pad + 1, (2,))[0].tolist()
        assert torch.equal(got[i], wide[:, top : top + 7, left : left + 5])
        starts |= {("top", top), ("left", left)}
    if pad < 6:
        assert len(starts) == 2 * (2 * pad + 1)  # every shift happens, each way


@pytest.mark.parametrize("size", [1, 2, 3, 4, 20])
def test_cutout_image_by_image(size):
    x, targets, index = images(60)
    got, kept = Cutout(size)(x, targets, RNG, index)
    assert kept is targets
    for i in range(len(x)):
        u = RNG.fork("cutout").uniform(index[i : i + 1], (2,))[0]
        top, left = int(u[0] * 7) - size // 2, int(u[1] * 5) - size // 2
        wanted = x[i].clone()
        wanted[:, max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 0
        assert torch.equal(got[i], wanted)
        assert (got[i] == 0).any()  # the square's middle is always inside


def test_mixup_pair_by_pair():
    x, targets, index = images()
    got, labels = Mixup(0.4)(x, targets, RNG, index)
    for i in range(len(x)):
        share = 0.4 * float(RNG.fork("mixup").uniform(index[i : i + 1]))
        torch.testing.assert_close(got[i], (1 - share) * x[i] + share * x[i - 1])
        torch.testing.assert_close(labels[i], (1 - share) * targets[i] + share * targets[i - 1])
    torch.testing.assert_close(labels.sum(1), torch.ones(len(x)))
    assert torch.equal(labels.argmax(1), targets.argmax(1))  # the first keeps the larger share


def test_mixup_of_a_single_input_is_that_input():
    x, targets, index = images(1)
    got, labels = Mixup()(x, targets, RNG, index)
    torch.testing.assert_close(got, x)
    torch.testing.assert_close(labels, targets)


def test_jitter_has_its_deviation():
    x = torch.zeros(3000, 4)
    got, _ = Jitter(0.2)(x, x, RNG, torch.arange(3000))
    assert abs(float(got.mean())) < 4 * 0.2 / 12000**0.5
    assert abs(float(got.std()) - 0.2) < 4 * 0.2 / 24000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", ALL, ids=repr)
def test_form_is_kept_and_nothing_is_changed_in_place(change, dtype):
    assert isinstance(change, Augmentation)
    x, targets, index = images(dtype=dtype)
    kept = (x.clone(), targets.clone())
    got, labels = change(x, targets, RNG, index)
    assert (got.shape, got.dtype, labels.shape, labels.dtype) == (x.shape, dtype, targets.shape, dtype)
    assert torch.equal(x, kept[0])
    assert torch.equal(targets, kept[1])
    torch.testing.assert_close(labels.sum(1), torch.ones(len(x), dtype=dtype))
    again, _ = change(x, targets, RNG, index)
    assert torch.equal(again, got)
    assert not torch.equal(change(x, targets, RNG.fork("next"), index)[0], got)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("change", [c for c in ALL if not isinstance(c, Mixup)], ids=repr)
def test_draws_belong_to_the_input_and_not_to_its_batch(change, size):
    x, targets, index = images()
    whole, _ = change(x, targets, RNG, index)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    for rows in order.split(size):
        assert torch.equal(change(x[rows], targets[rows], RNG, index[rows])[0], whole[rows])


@pytest.mark.parametrize("change", [Flip(), Crop(), Cutout()], ids=repr)
def test_rows_are_no_images(change):
    with pytest.raises(DataError, match=r"changes images, these inputs have shape \(5,\)"):
        change(randn(4, 5), torch.ones(4, 1), RNG, torch.arange(4))


BAD = [
    lambda: Crop(0),
    lambda: Crop(1.5),
    lambda: Cutout(-1),
    lambda: Cutout(True),
    lambda: Mixup(0),
    lambda: Mixup(0.6),
    lambda: Jitter(0),
    lambda: Jitter(float("inf")),
]


@pytest.mark.parametrize("build", BAD)
def test_settings_that_make_no_sense_are_refused(build):
    with pytest.raises(ConfigError):
        build()


def test_mixed_labels_are_learned_in_their_shares():
    x, targets, index = images()
    _, labels = Mixup()(x, targets, RNG, index)
    scores = randn(len(x), 4)
    torch.testing.assert_close(
        soft_cross_entropy(scores, labels), functional.cross_entropy(scores, labels, reduction="none")
    )
