"""A mask covers every patch; what is certified stands against every patch there is, and the rest is refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.bounds.patches import DoubleMasking, mask_set, mask_starts, patch_sizes
from hardpoint.core.errors import (
    AccessDenied,
    ConfigError,
    DataError,
    HardpointError,
    ModelError,
    ThreatError,
)
from hardpoint.models import TorchModel
from small_models import BatchNormalised, NaNs, Noisy, Wrapped, rand, randn, seeded


def test_every_window_lies_inside_one_of_at_most_k_masks():
    for n in range(1, 65):
        for p, k in itertools.product(range(1, n + 1), range(1, 9)):
            starts, width = mask_starts(n, p, k)
            assert len(starts) <= k
            assert 0 <= starts[0] <= starts[-1] == n - width
            nearest = 0
            for j in range(n - p + 1):
                while nearest + 1 < len(starts) and starts[nearest + 1] <= j:
                    nearest += 1
                assert starts[nearest] <= j
                assert j + p <= starts[nearest] + width


@pytest.mark.parametrize("sizes", [[(2, 3)], [(1, 5), (5, 1), (3, 3)]])
def test_a_set_covers_every_place_of_every_shape(sizes):
    masks = mask_set(7, 9, sizes, (3, 2))
    assert len(masks) <= 6 * len(sizes)
    for rows, columns in sizes:
        for top, left in itertools.product(range(8 - rows), range(10 - columns)):
            assert bool(masks[:, top : top + rows, left : left + columns].flatten(1).all(1).any())


def by_thirds(seed: int = 0) -> nn.Module:
    """Three classes, three bands of rows: which band is brightest, after a soft vote of its pixels."""

    class Bands(nn.Module):
        def forward(self, x):
            rows = torch.tanh(6 * (x.mean(1) - 0.5)).mean(2)
            return torch.stack([rows[:, :3].mean(1), rows[:, 3:5].mean(1), rows[:, 5:].mean(1)], 1)

    return Bands().eval()


def images(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """8 × 8 images with one bright band."""
    y = torch.arange(n) % 3
    x = 0.35 * rand(n, 1, 8, 8, seed=seed)
    for i, (begin, end) in enumerate(((0, 3), (3, 5), (5, 8))):
        x[y == i, :, begin:end] += torch.linspace(0.05, 0.6, n).view(n, 1, 1, 1)[y == i]
    return x, y


def patched(x: torch.Tensor, size: tuple[int, int], contents: torch.Tensor) -> torch.Tensor:
    """One image with every content at every place."""
    (rows, columns), (height, width) = size, x.shape[-2:]
    made = []
    for top, left in itertools.product(range(height - rows + 1), range(width - columns + 1)):
        z = x.expand(len(contents), *x.shape[1:]).clone()
        z[:, :, top : top + rows, left : left + columns] = contents
        made.append(z)
    return torch.cat(made)


@pytest.mark.parametrize("size", [(2, 2), (1, 4)])
def test_certified_images_stand_against_every_place_and_a_hundred_contents(size):
    x, y = images(12)
    defended = DoubleMasking(by_thirds(), patches=[size], masks=3, fill=0.3, batch=2000)
    certified = defended.certified(x, y)
    assert 2 <= int(certified.sum()) < len(x)
    contents = torch.cat([rand(96, 1, *size, seed=3), torch.ones(1, 1, *size), torch.zeros(1, 1, *size)])
    for row in certified.nonzero().flatten().tolist()[:1]:
        attacked = patched(x[row : row + 1], size, contents)
        assert bool((defended.predict(attacked) == y[row]).all())


def test_the_bare_model_is_not_what_is_certified():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval().requires_grad_(False)
    net[1].weight.copy_(torch.stack([torch.zeros(64), torch.ones(64)]))
    net[1].weight[1, 0] = -100.0  # one pixel decides
    net[1].bias.copy_(torch.tensor([10.0, 0.0]))
    x = torch.full((1, 1, 8, 8), 0.6)
    x[0, 0, 0, 0] = 0.0
    defended = DoubleMasking(net, patches=2, masks=4, fill=0.0)
    assert bool((defended.predict(patched(x, (2, 2), torch.ones(1, 1, 2, 2))) >= 0).all())
    attacked = x.clone()
    attacked[0, 0, 0, 0] = 1.0
    assert int(net(x).argmax(1)) == 1
    assert int(net(attacked).argmax(1)) == 0


def test_pairs_are_what_the_definition_says():
    x, y = images(12, seed=5)
    net = by_thirds()
    defended = DoubleMasking(net, patches=[(2, 3)], masks=(3, 2), fill=0.3, slack=0.0)
    masks = mask_set(8, 8, [(2, 3)], (3, 2))
    expected = torch.ones(len(x), dtype=torch.bool)
    for first, second in itertools.product(masks, masks):
        expected &= net(torch.where(first | second, 0.3, x)).argmax(1) == y
    assert torch.equal(defended.certified(x, y), expected)
    found = defended.certify(x)
    assert torch.equal(found.certified & (found.predicted == y), expected)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_change_nothing(batch):
    x, y = images(9, seed=2)
    whole = DoubleMasking(by_thirds(), patches=2, masks=4, fill=0.3)
    parts = DoubleMasking(by_thirds(), patches=2, masks=4, fill=0.3, batch=batch)
    assert torch.equal(whole.certified(x, y), parts.certified(x, y))
    assert torch.equal(whole.predict(x), parts.predict(x))
    assert torch.equal(whole.certified(x[4:5], y[4:5]), whole.certified(x, y)[4:5])


def test_a_larger_patch_is_never_easier():
    x, y = images(12)
    certified = [
        DoubleMasking(by_thirds(), patches=p, masks=8, fill=0.3).certified(x, y) for p in (1, 2, 3, 8)
    ]
    for small, large in itertools.pairwise(certified):
        assert bool((small | ~large).all())
    assert not bool(certified[-1].all())  # all is masked: one class for all


def test_inference_takes_the_answer_that_second_masks_do_not_change():
    # the patch is bright enough to carry the image wherever it is seen; only the mask over it shows the truth
    class Sees(nn.Module):
        def forward(self, x):
            hit = (x > 0.99).flatten(1).any(1).float()
            return torch.stack([1 - hit, hit], 1)

    x = torch.full((1, 1, 8, 8), 0.4)
    defended = DoubleMasking(Sees().eval(), patches=2, masks=4, fill=0.5)
    assert bool(defended.certified(x, torch.tensor([0])))
    assert bool((defended.predict(patched(x, (2, 2), torch.ones(1, 1, 2, 2))) == 0).all())


def test_ties_in_scores_prove_nothing():
    class Even(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 2)

    x = torch.full((1, 1, 8, 8), 0.4)
    assert not bool(DoubleMasking(Even().eval(), patches=2).certified(x, torch.tensor([0])))
    assert not bool(DoubleMasking(Even().eval(), patches=2).certified(x, torch.tensor([7])))


def test_it_is_a_model_of_labels():
    x, y = images(3)
    defended = DoubleMasking(by_thirds(), patches=hp.Patch(0.05), masks=3, fill=0.3)
    assert isinstance(defended, hp.models.Model)
    assert torch.equal(defended.predict(x), y)
    with pytest.raises(AccessDenied):
        defended.scores(x)
    assert defended.describe()["masks"] == [3, 3]


def test_sizes():
    assert patch_sizes(hp.Patch(0.02), 224, 224) == ((31, 31),)
    assert patch_sizes(hp.Patch(1e-6), 8, 8) == ((1, 1),)
    assert patch_sizes([(1, 8), (1, 8), (1, 3)], 8, 8) == ((1, 8),)
    for bad in ([], [(0, 2)], [(2.0, 2)], [(2, 2, 2)], 9, 0, -1, [(9, 1)], [2], "22", [(True, float("nan"))]):
        with pytest.raises(ThreatError):
            patch_sizes(bad, 8, 8)


def test_bad_input_is_told():
    x, y = images(3)
    good = DoubleMasking(by_thirds(), patches=2, fill=0.3)
    holed, far = x.clone(), x.clone()
    holed[1, 0, 2, 2], far[2, 0, 0, 0] = torch.nan, 1.5
    for bad in (holed, far, x.flatten(1), x.long(), x.numpy(), x[:, :, :0]):
        with pytest.raises(HardpointError):
            good.certified(bad, y)
    for labels in (y[:2], y.float(), -y, y.bool(), y.tolist(), y.unsqueeze(1)):
        with pytest.raises(DataError):
            good.certified(x, labels)
    assert good.certified(x[:0], y[:0]).shape == (0,)
    assert good.predict(x[:0]).shape == (0,)
    for settings in ({"masks": 0}, {"slack": -1.0}, {"slack": float("nan")}, {"batch": 0}):
        with pytest.raises(ConfigError):
            DoubleMasking(by_thirds(), patches=2, **settings)
    with pytest.raises(ConfigError, match="outside"):
        DoubleMasking(by_thirds(), patches=2, fill=2.0).certified(x, y)
    with pytest.raises(DataError, match="channels"):
        DoubleMasking(by_thirds(), patches=2, fill=(0.1, 0.2)).certified(x, y)
    with pytest.raises(ConfigError, match="middle"):
        unbounded = TorchModel(by_thirds(), input_range=(float("-inf"), float("inf")))
        DoubleMasking(unbounded, patches=2).certified(x, y)


def test_models_of_which_nothing_can_be_proven_are_refused():
    x, y = images(4)
    flat = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3))).eval()
    with pytest.raises(ModelError, match="again"):
        DoubleMasking(Noisy(flat, 0.3).eval(), patches=2).certified(x, y)
    with pytest.raises(ModelError, match="batch"):
        DoubleMasking(Wrapped(flat, before=BatchNormalised()).eval(), patches=2).certified(x, y)
    with pytest.raises(ModelError):
        DoubleMasking(nn.Sequential(nn.Dropout(0.5), flat), patches=2)
    with pytest.raises(ModelError, match="NaN"):
        DoubleMasking(Wrapped(flat, after=NaNs(-9.0)).eval(), patches=2).certified(x, y)


def test_digits():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.from_numpy(data.images / 16).float().unsqueeze(1)
    y = torch.from_numpy(data.target)

    def trained() -> nn.Module:
        net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 64, 10))
        steps = torch.optim.Adam(net.parameters(), lr=5e-3)
        masks = mask_set(8, 8, [(1, 2)], (4, 4))
        for _ in range(120):
            rows = torch.randint(1200, (128,))
            pair = torch.randint(len(masks), (2, 128))
            seen = torch.where((masks[pair[0]] | masks[pair[1]]).unsqueeze(1), 0.5, x[rows])
            steps.zero_grad()
            nn.functional.cross_entropy(net(seen), y[rows]).backward()
            steps.step()
        return net.eval()

    defended = DoubleMasking(seeded(trained), patches=[(1, 2)], masks=4, fill=0.5)
    test, labels = x[1200:1300], y[1200:1300]
    certified = defended.certified(test, labels)
    clean = defended.predict(test) == labels
    assert 20 <= int(certified.sum()) <= int(clean.sum())
    assert bool(clean[certified].all())
    contents = torch.cat([rand(10, 1, 1, 2, seed=1), randn(10, 1, 1, 2, seed=2).sign().clamp_min(0)])
    for row in certified.nonzero().flatten().tolist()[:3]:
        attacked = patched(test[row : row + 1], (1, 2), contents)
        assert bool((defended.predict(attacked) == labels[row]).all())
