"""Several processes learn what one would: by threads in their place, and by real ones that are killed and go on."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mortal_recipe import DiesOnce
from small_lessons import cloud, flat, normed, pictures, same, state_of, trainer_of
from threaded_ranks import together
from torch import nn

from hardpoint.assess.progress import Silent
from hardpoint.core.errors import ConfigError, MissingExtra, ModelError, RunError
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden import Crop, Flip, Training, devices, harden, worker
from hardpoint.harden.ranks import ALONE, Ranks
from hardpoint.harden.recipes import Atta, Awp, FgsmRs, Free, Pgd, Regularised, Trades
from hardpoint.harden.watch import Watch
from hardpoint.models.torch import TorchModel
from hardpoint.threats import Linf
from small_models import seeded

MODULE = sys.modules["hardpoint.harden.harden"]  # the function has its name
PLANE = Training(epochs=3, batch_size=20, lr=0.02, average=0.9, clip=1.0, l1=1e-4)  # 96 = 4·20 + 16
UNEVEN = replace(PLANE, batch_size=31)  # 31 is shared as 16 and 15; three are left, too few to share
IMAGES = Training(epochs=2, batch_size=9, lr=0.02, augment=(Flip(), Crop(1)))


def close(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    for name in first:
        assert float((first[name] - second[name]).abs().max()) < tolerance, name


def alike(history):
    return [(e.number, e.recipe, round(e.loss, 5), round(e.attacked, 6), e.clean, e.robust) for e in history]


# What each rank takes and adds -------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 7))
def test_shares_are_the_batch(rows, world):
    ranks = [Ranks(rank, world) for rank in range(world)]
    shares, all_rows = [rank.share(rows) for rank in ranks], torch.arange(rows)
    parts = [share.of(all_rows) for share in shares]
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert sum(share.counts * len(part) for share, part in zip(shares, parts, strict=True)) == pytest.approx(
        rows
    )
    if rows >= 2 * world:
        assert torch.equal(torch.cat(parts), all_rows)
        assert min(map(len, parts)) >= 2
        owners = ranks[0].owners(rows)
        assert all(set(owners[part].tolist()) == {rank} for rank, part in enumerate(parts))
    else:
        assert all(torch.equal(part, all_rows) for part in parts)
        assert not ranks[0].owners(rows).any()
    mean = sum(share.weight * float(part.double().mean()) for share, part in zip(shares, parts, strict=True))
    assert mean == pytest.approx(float(all_rows.double().mean()))


def test_one_process_computes_nothing():
    part = torch.ones(3)
    assert ALONE.mean([part, None], [part, part], 1.0)[0] is part
    assert ALONE.share(7).of(part) is not None
    assert ALONE.sums(0.1, 2) == (0.1, 2)


def test_means_of_several_kinds_and_of_nothing():
    like = [torch.zeros(2, 2), torch.zeros(3, dtype=torch.float64), torch.zeros(2), torch.zeros(())]

    def work(ranks):
        own = float(ranks.rank + 1)
        half = None if ranks.rank else torch.full((2,), 4.0)
        return lambda: ranks.mean(
            [torch.full((2, 2), own), torch.full((3,), own).double(), half, None], like, 0.5
        )

    for found in together(2, work):
        assert torch.equal(found[0], torch.full((2, 2), 1.5))
        assert torch.equal(found[1], torch.full((3,), 1.5, dtype=torch.float64))
        assert torch.equal(found[2], torch.full((2,), 2.0))  # a part that another has not counts as zero
        assert found[3] is None


def test_rank_0_tells():
    assert (
        together(3, lambda ranks: lambda: ranks.first(ranks.rank + 5.0, float("nan") if ranks.rank else 2.0))
        == [(5.0, 2.0)] * 3
    )


# The training, with threads as ranks -------------------------------------------------------------------------------


def ran(trainer):
    """What trains, and gives back who did."""

    def run():
        trainer.run()
        return trainer

    return run


def trained(world, build, recipe, training, **more):
    """The trainers of all ranks after training."""

    def work(ranks):
        return ran(trainer_of(build(), recipe, training, seed=3, ranks=ranks, **more))

    return together(world, work)


CASES = {
    "pgd": (flat, Pgd(2), PLANE, None),
    "atta": (flat, Atta(2), UNEVEN, None),
    "atta, moved": (
        lambda: seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), 0),
        Atta(renew=2),
        IMAGES,
        pictures(),
    ),
    "trades": (flat, Trades(steps=2), UNEVEN, None),
    "awp": (flat, Awp(Pgd(1)), UNEVEN, None),
    "free": (flat, Free(2), replace(UNEVEN, epochs=6), None),
}


@pytest.mark.parametrize(("case", "world"), [*((case, 2) for case in CASES), ("atta", 3), ("free", 3)])
def test_ranks_learn_what_one_process_learns(case, world):
    build, recipe, training, data = CASES[case]
    (one,) = trained(1, build, recipe, training, data=data)
    several = trained(world, build, recipe, training, data=data)
    for other in several:
        close(state_of(one.module), state_of(other.module))
        assert alike(one.history) == alike(other.history)
        assert same(state_of(several[0].module), state_of(other.module))
        if one.memory is not None:
            assert torch.equal(several[0].memory.offsets, other.memory.offsets)
            assert float((one.memory.offsets - other.memory.offsets).abs().float().max()) < 2e-3


def test_statistics_are_the_same_on_all_ranks():
    class Marked(nn.Module):
        """A network with a buffer that no mean must touch."""

        def __init__(self):
            super().__init__()
            self.inside = normed()
            self.register_buffer("mask", torch.tensor([0.0, 0.1]))

        def forward(self, x):
            return self.inside(x)

    first, _, second = trained(3, Marked, Pgd(1), replace(IMAGES, average=0.5), data=pictures())
    assert same(state_of(first.module), state_of(second.module))
    assert same(first.average.state, second.average.state)
    (one,) = trained(1, Marked, Pgd(1), replace(IMAGES, average=0.5), data=pictures())
    statistics = [state_of(trainer.module)["inside.1.running_mean"] for trainer in (one, first)]
    assert float((statistics[0] - statistics[1]).abs().max()) < 0.05
    assert torch.equal(first.module.mask, torch.tensor([0.0, 0.1]))


def test_an_alarm_is_everybodys(monkeypatch):
    monkeypatch.setattr(sys.modules["hardpoint.harden.watch"], "_SETTLED", 2)

    def work(ranks):
        trainer = trainer_of(flat(), FgsmRs(), replace(PLANE, epochs=5, ramp=0.0), ranks=ranks)
        trainer.watch = Watch(least=2.0)  # the first look is one
        return ran(trainer)

    (one,), (first, second) = together(1, work), together(2, work)
    assert one.alarms == first.alarms == second.alarms > 0
    assert first.recipe == second.recipe == one.recipe
    assert same(state_of(first.module), state_of(second.module))
    assert first.history[-1].alignment == second.history[-1].alignment


def test_only_rank_0_validates_and_keeps(tmp_path):
    asked, told = [], []

    def work(ranks):
        def validate(network):
            asked.append(ranks.rank)
            return 0.5 + 0.1 * len(asked), None

        file = tmp_path / ("c" if ranks.is_first else "c2")
        trainer = trainer_of(flat(), Pgd(1), PLANE, ranks=ranks, validate=validate, file=file)
        if ranks.is_first:
            trainer.told = lambda history, planned: told.append(len(history))
        return trainer.run

    first, second = together(2, work)
    assert asked == [0, 0, 0]
    assert told == [1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert alike(first) == alike(second)
    assert [e.robust for e in second] == [None] * 3


def test_going_on_gives_the_same_bits(tmp_path):
    class Stop(Exception):
        pass

    def work(stops, file):
        def run(ranks):
            def told(history, planned):
                if stops and len(history) == 2:
                    raise Stop

            trainer = trainer_of(normed(), Atta(), replace(IMAGES, epochs=3), data=pictures(), ranks=ranks)
            trainer.file, trainer.told = file, told
            return ran(trainer)

        return run

    straight = together(2, work(False, None))
    with pytest.raises(Stop):
        together(2, work(True, tmp_path / "c"))
    resumed = together(2, work(False, tmp_path / "c"))
    for before, after in zip(straight, resumed, strict=True):
        assert same(state_of(before.module), state_of(after.module))
        assert torch.equal(before.memory.offsets, after.memory.offsets)


def test_a_penalty_counts_its_share():
    recipe = Regularised(Pgd(1), (sys.modules["hardpoint.harden.penalties"].Jacobian(0.1),))
    (one,) = trained(1, flat, recipe, UNEVEN)
    several = trained(2, flat, recipe, UNEVEN)
    close(state_of(one.module), state_of(several[1].module))


# Real processes ----------------------------------------------------------------------------------------------------


def test_killed_and_resumed_as_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "fastest_plan", lambda *_: TwinPlan())
    x, y = cloud(120)
    recipe, run = DiesOnce(str(tmp_path / "mark"), Atta(2)), tmp_path / "run"
    training = Training(epochs=4, batch_size=20, lr=0.02, validation=0.1, average=0.8)

    def hardened(**more):
        return harden(
            flat(), x, y, threat=Linf(0.05), recipe=recipe, training=training, progress=False, **more
        )

    one, epochs = hardened(), []
    with pytest.raises(RunError, match=r"process 1 terminated with signal SIGKILL.*resume=True"):
        hardened(devices=2, run_dir=run, each_epoch=lambda history: epochs.append(len(history)))
    assert epochs == [1, 2]
    assert multiprocessing.active_children() == []
    with pytest.raises(RunError, match="devices"):
        hardened(run_dir=run, resume=True)
    two = hardened(
        devices=2, run_dir=run, resume=True, each_epoch=lambda history: epochs.append(len(history))
    )
    assert epochs == [1, 2, 2, 3, 4]
    close(state_of(one.model), state_of(two.model))
    assert alike(one.history) == alike(two.history)
    assert not two.model.training
    assert json.loads((run / "training" / "record.json").read_text())["epochs"][3]["number"] == 4


class Raises(Silent):
    def advance(self, count):
        raise KeyError("the user's own")


def test_what_the_caller_raises_ends_training():
    def enough(history, planned):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"), devices._listening(Silent(), enough) as mouth:
        voice = worker.Voice(mouth)
        voice.begin("epoch 1", 7)
        with pytest.raises(worker.Stopped):
            voice.told((), 3)
    with pytest.raises(KeyError, match="own"), devices._listening(Raises(), lambda *_: None) as mouth:
        voice = worker.Voice(mouth)
        voice.advance(3)
        with pytest.raises(worker.Stopped):
            voice.told((), 3)


def test_what_a_process_says_before_it_ends(tmp_path):
    assert "went" in str(devices._reason(tmp_path, "\nprocess 0\nwent"))
    said = {"kind": "ModelError", "what": "the loss is nan", "cure": "train slower"}
    (tmp_path / "failed-1").write_text(json.dumps(said))
    found = devices._reason(tmp_path, "process 1 went")
    assert isinstance(found, ModelError)
    assert str(found) == "the loss is nan; train slower"


# What is refused ---------------------------------------------------------------------------------------------------


def asked(number, **more):
    x, y = cloud(40)
    training = more.pop("training", Training(epochs=1))
    return harden(flat(), x, y, threat=Linf(0.05), training=training, progress=False, devices=number, **more)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_numbers_that_make_no_sense(number):
    with pytest.raises(ConfigError, match="devices is"):
        asked(number)


def test_batches_too_small_to_share():
    with pytest.raises(ConfigError, match="less than two inputs each; raise batch_size to 6"):
        asked(3, training=Training(batch_size=5))


def test_under_another_launcher(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="another launcher"):
        asked(2)


def test_without_the_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "lightning" in name else found(name)
    )
    with pytest.raises(MissingExtra, match=r"training on several devices.*hardpoint\[devices\]"):
        asked(2)


def test_a_network_that_cannot_be_sent(tmp_path):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = flat()

        def forward(self, x):
            return self.inside(x)

    x, y = cloud(40)
    with pytest.raises(RunError, match="cannot be sent to another process"):
        harden(Hidden(), x, y, threat=Linf(0.05), progress=False, devices=2, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_devices_that_do_not_train_together(monkeypatch):
    model = TorchModel(flat())
    with pytest.raises(ConfigError, match="mps devices do not train together"):
        devices._places(torch.device("mps"), 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices._places(torch.device("cuda", 1), 2) == [1, 0]
    with pytest.raises(ConfigError, match="3 CUDA devices, not 4"):
        devices._places(torch.device("cuda"), 4)
    devices.check_devices(1, model, Training(batch_size=1))
