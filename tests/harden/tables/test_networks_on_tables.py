"""``hp.harden`` on rows of a table: what networks learn from is valid, and they hold better."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.attacks import CAPGD
from hardpoint.core.rng import Rng
from hardpoint.engine.ascent import ascend
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden import CraftMode
from hardpoint.harden.learner import Batch, Learner, one_hot
from hardpoint.harden.recipes import FgsmRs, Free, NFgsm, Pgd, Trades
from hardpoint.threats.features import Feature, FeatureEdits, Kind, Mutability, Schema

FEATURES = [
    Feature("age", Kind.INTEGER, 18, 90, Mutability.NO),
    Feature("owed", Kind.INTEGER, 0, 60),
    Feature("paid", Kind.INTEGER, 0, 60),
    Feature("late", Kind.INTEGER, 0, 8, Mutability.INCREASE),
    Feature("own", Kind.ONE_HOT, group="home"),
    Feature("rent", Kind.ONE_HOT, group="home"),
    Feature("ratio", Kind.REAL, 0, 1),
]
SCHEMA = Schema(FEATURES, ["paid <= owed"])


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor([float(f.low) for f in FEATURES]))
        self.register_buffer("width", torch.tensor([float(f.range or 1) for f in FEATURES]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.low) / self.width


def rows(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (n,), generator=g).float()

    age, owed, late, own = whole(18, 91), whole(0, 61), whole(0, 9), whole(0, 2)
    paid = (owed * torch.rand(n, generator=g)).floor()
    y = (age + 12 * torch.randn(n, generator=g) > 54).long()
    ratio = (0.5 + (y - 0.5) * 0.24 + 0.05 * torch.randn(n, generator=g)).clamp(0, 1)
    return torch.stack([age, owed, paid, late, own, 1 - own, ratio], 1), y


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(Scaled(), nn.Linear(7, 32), nn.ReLU(), nn.Linear(32, 2))


@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "l0"])
@pytest.mark.parametrize(
    "recipe", [Pgd(3), Trades(steps=3), FgsmRs(), NFgsm(), Free(2)], ids=lambda r: r.name
)
def test_what_is_learned_from_is_allowed(recipe, norm):
    x, y = rows(24, 0)
    edits = FeatureEdits(SCHEMA, 2 if norm == "l0" else 0.3, norm)
    model = hp.models.TorchModel(network().eval(), input_range=(0, 100))
    learner = Learner(model, edits, CraftMode.EVAL, TwinPlan(copied=False))
    batch = Batch(x, y, one_hot(y, 2), torch.arange(24), Rng(0))
    found = recipe.attacked(learner, batch).x
    region = edits.around(x, model.box)
    assert region.contains(found).all()
    assert (found != x).any()


def test_steps_shorter_than_a_whole_number_add_up():
    months = Schema([Feature("late", Kind.INTEGER, 0, 8)])
    region = FeatureEdits(months, 0.5, "l2").around(
        torch.tensor([[2.0]]), hp.models.TorchModel(nn.Linear(1, 2).eval(), input_range=(0, 8)).box
    )
    found = ascend(lambda z: z[:, 0], region, region.x, steps=8, length=0.15)  # 0.6 months each
    assert found.tolist() == [[6.0]]


def test_a_network_holds_better_afterwards():
    x, y = rows(300, 0)
    edits = FeatureEdits(SCHEMA, 0.25, "l2")
    model = hp.models.TorchModel(network().eval(), input_range=(0, 100))
    settings = {
        "threat": edits,
        "training": hp.Training(epochs=8, lr=2e-2, validation=0.2),
        "progress": False,
    }
    test_x, test_y = rows(100, 1)
    shares = []
    for recipe in ("plain", Pgd(2)):
        done = hp.harden(model, x, y, recipe=recipe, **settings)
        found = CAPGD(steps=20)(done.model, test_x, test_y, edits)
        assert edits.around(test_x, model.box).contains(found.adversarial).all()
        shares.append(float((~found.broken).double().mean()))
    assert shares[1] > shares[0] + 0.05, shares
    assert done.history[-1].robust is not None
