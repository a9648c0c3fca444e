"""Examples carried from epoch to epoch, and the memory they are kept in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hardpoint.core.box import Box
from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden import Crop, Flip, Training, harden
from hardpoint.harden.learner import Batch, CraftMode, Learner, one_hot
from hardpoint.harden.memory import Memory
from hardpoint.harden.recipes import Atta
from hardpoint.models.torch import TorchModel
from hardpoint.threats import L2, Linf

N, SHAPE = 12, (2, 6, 6)


def images(seed: int = 0) -> Tensor:
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(seed))


def learner(net: nn.Module, ball: Linf | L2) -> Learner:
    return Learner(TorchModel(net.eval()), ball, CraftMode.EVAL, TwinPlan())


def batch(x: Tensor, y: Tensor, offset: Tensor | None = None) -> Batch:
    return Batch(x, y, one_hot(y, 3), torch.arange(len(x)), Rng(0), offset)


def test_offsets_come_back_as_they_were_kept() -> None:
    memory, x = Memory(N, SHAPE, ()), images()
    rows = torch.tensor([3, 7, 0])
    region = Linf(0.1).around(x[rows], Box())
    examples = region.sample(Rng(1), rows)
    memory.keep(rows, examples, region, Rng(2))
    taken = memory.take(rows, region, Rng(3))
    torch.testing.assert_close(taken, examples - x[rows], atol=1e-4, rtol=0)
    assert not memory.offsets[[1, 2, 4]].any()


def test_offsets_grow_with_the_budget() -> None:
    memory, x, rows = Memory(N, SHAPE, ()), images() * 0.5 + 0.25, torch.arange(N)
    small, large = (Linf(eps).around(x, Box()) for eps in (0.05, 0.2))
    memory.keep(rows, small.sample(Rng(1), rows), small, Rng(0))
    ratio = memory.take(rows, large, Rng(0)) / memory.take(rows, small, Rng(0))
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0))


def test_offsets_move_with_the_pixels_they_belong_to() -> None:
    changes, rng, rows = (Flip(), Crop(pad=2)), Rng(5), torch.arange(N)
    x, targets = images(), torch.ones(N, 1)
    for change in changes:
        x, targets = change(x, targets, rng, rows)
    memory, region = Memory(N, SHAPE, changes), Linf(0.1).around(x, Box())
    examples = region.sample(Rng(1), rows)
    memory.keep(rows, examples, region, rng)
    again = memory.take(rows, region, rng)
    inside = again != 0  # what left the image when it was moved back is lost
    assert inside.double().mean() > 0.4
    torch.testing.assert_close(again[inside], (examples - x)[inside], atol=1e-4, rtol=0)


def test_a_flip_and_a_crop_are_taken_back() -> None:
    x, rng, rows = images(), Rng(9), torch.arange(N)
    flip, crop = Flip(), Crop(pad=1)
    assert torch.equal(flip.moved_back(flip.moved(x, rng, rows), rng, rows), x)
    back = crop.moved_back(crop.moved(x, rng, rows), rng, rows)
    assert torch.equal(back[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])


def test_each_epoch_goes_on_where_the_last_one_ended() -> None:
    """On a linear network, steps of a quarter reach the corner of the ball in four epochs, as four steps at once do."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    net[1].weight.data[2] = 0.0
    net[1].bias.data[2] = -50.0  # a class that is never in question leaves one direction to go
    x, y = images() * 0.2 + 0.4, torch.arange(N) % 2
    who, recipe, offset = learner(net, Linf(0.1)), Atta(length=0.5), None
    for _ in range(4):
        found = recipe.attacked(who, batch(x, y, offset))
        offset = found.x - x
    other = net[1].weight.detach()[1 - y] - net[1].weight.detach()[y]
    torch.testing.assert_close(found.x, x + 0.1 * other.sign().view_as(x), atol=1e-6, rtol=0)
    assert found.slope is not None


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.7)])
def test_examples_are_allowed(ball: Linf | L2) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    x, y = images(), torch.arange(N) % 3
    found = Atta(steps=3, length=0.9).attacked(learner(net, ball), batch(x, y, 5 * torch.randn_like(x)))
    assert bool(ball.around(x, Box()).contains(found.x).all())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"length": 0.0}, {"renew": 0}, {"steps": 1.5}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Atta(**wrong)  # type: ignore[arg-type]


def test_it_goes_on_from_a_checkpoint_to_the_same_weights(tmp_path) -> None:  # type: ignore[no-untyped-def]
    x, y = images().repeat(4, 1, 1, 1), (torch.arange(4 * N) % 2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 2))
    settings = Training(epochs=4, batch_size=16, augment=(Flip(),), validation=0.25)
    common = {"threat": Linf(0.05), "recipe": "atta", "training": settings, "progress": False}
    whole = harden(net, x, y, **common)  # type: ignore[arg-type]

    class Stop(Exception):
        pass

    class Stopping:
        begun = 0

        def begin(self, what: str, total: int) -> None:
            self.begun += what.startswith("epoch")
            if self.begun == 3:
                raise Stop

        def advance(self, count: int) -> None: ...

        def end(self, outcome: str) -> None: ...

    with pytest.raises(Stop):
        harden(net, x, y, run_dir=tmp_path / "run", **{**common, "progress": Stopping()})  # type: ignore[arg-type]
    again = harden(net, x, y, run_dir=tmp_path / "run", resume=True, **common)  # type: ignore[arg-type]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
