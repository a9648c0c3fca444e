"""Training against patches: any recipe that searches by gradient does it, as the threat says where patches may be."""

from __future__ import annotations

import pytest
import torch
from small_lessons import batch_of, learner_of, normed, pictures
from torch import Tensor, nn

import hardpoint as hp
from hardpoint.harden import Training
from hardpoint.harden.recipes import FgsmRs, Pgd, Recipe, Trades
from small_models import rand, seeded

PATCH = hp.Patch(0.1)  # a square of 2 by 2


def corners(found: Tensor, x: Tensor) -> Tensor:
    """Row and column of the first changed pixel of each image."""
    changed = (found != x).any(1)
    return torch.stack([changed.any(2).double().argmax(1), changed.any(1).double().argmax(1)], 1)


@pytest.mark.parametrize("recipe", [Pgd(3), FgsmRs(), Trades(steps=2)], ids=lambda r: r.name)
def test_examples_are_patches_in_many_places(recipe: Recipe):
    x, y = pictures(40)
    learner, batch = learner_of(normed(), PATCH), batch_of(x, y, 3)
    found = recipe.attacked(learner, batch).x
    assert PATCH.around(x, learner.model.box).contains(found).all()
    assert float((found != x).flatten(1).any(1).double().mean()) > 0.9
    assert len(corners(found, x).unique(dim=0)) > 8
    fixed = hp.Patch(0.1, location=(3, 4))
    found = recipe.attacked(learner_of(normed(), fixed), batch).x
    assert fixed.around(x, learner.model.box).contains(found).all()


def test_places_are_drawn_anew_for_each_update_and_belong_to_inputs():
    x, y = pictures(20)
    learner = learner_of(normed(), PATCH)
    first, again, other = (Pgd(1).attacked(learner, batch_of(x, y, 3, seed=seed)).x for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(corners(first, x), corners(other, x))
    rows = torch.tensor([7, 3])
    part = Pgd(1).attacked(learner, batch_of(x[rows], y[rows], 3, index=rows)).x
    torch.testing.assert_close(part, first[rows])


def test_a_patch_climbs_the_loss():
    x, y = pictures(40)
    learner, batch = learner_of(normed(), PATCH), batch_of(x, y, 3)
    learner.module.eval()

    def loss(z: Tensor) -> float:
        return float(nn.functional.cross_entropy(learner.module(z), y).detach())

    random = PATCH.around(x, learner.model.box).sample(batch.rng.fork("start"), batch.index)
    assert loss(Pgd(5).attacked(learner, batch).x) > loss(random) > loss(x) - 0.1


def test_a_budget_that_grows_begins_without_a_patch():
    x, y = pictures(12)
    learner, batch = learner_of(normed(), PATCH), batch_of(x, y, 3)
    for strength in (0.01, 0.5, 1.0):
        learner.strength = strength
        found = Pgd(2).attacked(learner, batch).x
        side = int((0.1 * strength * 64) ** 0.5 + 1e-9)
        assert int((found != x).any(1).flatten(1).sum(1).amax()) <= side * side
        Pgd(2).taught(learner, batch, Pgd(2).attacked(learner, batch)).loss.backward()


def test_a_network_learns_not_to_trust_one_square():
    x = rand(160, 1, 8, 8)
    y = torch.arange(160) % 2
    x = x * 0.3 + 0.4 * y.view(-1, 1, 1, 1)  # bright or dark everywhere
    x[:, :, 3:5, 3:5] = y.view(-1, 1, 1, 1).to(x)  # and told at once by a square in the middle

    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))

    held = []
    for recipe in ("plain", "pgd"):
        done = hp.harden(
            seeded(build),
            x,
            y,
            threat=PATCH,
            recipe=recipe,
            training=Training(epochs=12, lr=0.01, batch_size=32, validation=0.0),
            progress=False,
        )
        judged = hp.attacks.PatchAttack(locations=8, steps=10)(done.model, x[:60], y[:60], threat=PATCH)
        held.append(float((~judged.broken).double().mean()))
    assert held[1] > held[0] + 0.1
