"""Training that was interrupted, however often, ends with the same weights, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import killed_training
import pytest
import torch
from small_lessons import cloud, flat, normed, pictures, same, state_of, trainer_of
from torch import nn

from hardpoint.core.errors import RunError
from hardpoint.harden import Crop, Flip, Jitter, Training
from hardpoint.harden.checkpoint import Checkpoint
from hardpoint.harden.learner import CraftMode
from hardpoint.harden.recipes import Atta, Awp, Free, NFgsm, Pgd, Plain, Trades
from hardpoint.harden.watch import Watch


class Stop(Exception):
    pass


def accuracy(x, y):
    """Validation as training does it, with a made-up attack."""

    def measure(network: nn.Module) -> tuple[float, float]:
        with torch.no_grad():
            right = [network(z).argmax(1) == y for z in (x, (x + 0.1).clamp(0, 1))]
        return float(right[0].double().mean()), float(right[1].double().mean())

    return measure


PLANE = Training(epochs=4, batch_size=20, lr=0.02, average=0.9)
IMAGES = Training(
    epochs=3, batch_size=7, lr=0.05, optimiser="sgd", pace="cycle", augment=(Flip(), Crop(1), Jitter(0.02))
)
CASES = {
    "n_fgsm": (lambda: flat(dropout=0.3), NFgsm(), PLANE, CraftMode.EVAL, None),
    "trades": (lambda: flat(dropout=0.3), Trades(steps=2), PLANE, CraftMode.EVAL, None),
    "trades, searched as it learns": (
        lambda: normed(dropout=0.3),
        Trades(steps=2),
        IMAGES,
        CraftMode.TRAIN,
        pictures(),
    ),
    "free": (lambda: normed(), Free(2), replace(IMAGES, epochs=6), CraftMode.EVAL, pictures()),
    "atta": (lambda: normed(), Atta(renew=2), IMAGES, CraftMode.EVAL, pictures()),
    "awp": (
        lambda: normed(dropout=0.2),
        Awp(Pgd(1)),
        replace(IMAGES, average=0.5),
        CraftMode.EVAL,
        pictures(),
    ),
    "bfloat16": (
        lambda: flat(),
        Pgd(1),
        replace(PLANE, precision="bfloat16", clip=1.0),
        CraftMode.EVAL,
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_after_every_epoch(case, tmp_path):
    build, recipe, training, craft_mode, data = CASES[case]
    validate = accuracy(*(data or cloud()))

    def trainer(**more):
        return trainer_of(
            build(), recipe, training, data=data, validate=validate, seed=3, craft_mode=craft_mode, **more
        )

    straight = trainer()
    history = straight.run()
    file, told = tmp_path / "c", []

    def stops(epochs, planned):
        assert planned == len(history)
        told.append(len(epochs))
        if len(epochs) == len(set(told)) and told.count(len(epochs)) == 1:
            raise Stop

    for _ in range(len(history) + 1):
        torch.rand(7)  # the global state differs each time
        last = trainer(file=file, told=stops)
        try:
            resumed = last.run()
        except Stop:
            continue
    assert len(resumed) == len(history)
    assert same(state_of(straight.module), state_of(last.module))
    assert same(straight.best, last.best)
    if straight.average is not None:
        assert same(straight.average.state, last.average.state)
        assert straight.average.updates == last.average.updates
    assert [replace(e, seconds=0.0) for e in resumed] == [replace(e, seconds=0.0) for e in history]


def test_killed_in_the_middle_of_an_epoch(tmp_path):
    file = tmp_path / "c"
    threads = torch.get_num_threads()
    died = subprocess.run(
        [sys.executable, killed_training.__file__, str(file), str(threads)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert len(Checkpoint.read(file).facts["history"]) == 2
    straight, resumed = killed_training.made(None), killed_training.made(file)
    assert len(straight.run()) == len(resumed.run()) == 4
    assert same(state_of(straight.module), state_of(resumed.module))


def test_a_finished_training_is_told_again_and_not_trained_again(tmp_path):
    file, told = tmp_path / "c", []
    first = trainer_of(flat(), Pgd(1), PLANE, file=file)
    history = first.run()
    content = file.read_bytes()
    second = trainer_of(flat(), Pgd(1), PLANE, file=file, told=lambda *all_of: told.append(all_of))
    assert second.run() == history
    assert told == [(history, len(history))]  # the one who is told may have missed the end
    assert file.read_bytes() == content
    assert same(state_of(first.module), state_of(second.module))


def test_what_the_watch_knows_is_kept(tmp_path):
    file = tmp_path / "c"
    first = trainer_of(flat(), NFgsm(), replace(PLANE, epochs=1), file=file)
    first.run()
    assert first.watch.seen > 0
    first.alarms = 1
    first._safe = {name: tensor.clone() for name, tensor in first._weights().items()}
    first._checkpoint().write(file)
    second = trainer_of(flat(seed=1), NFgsm(), replace(PLANE, epochs=1), file=file)
    second.run()
    assert second.watch == first.watch
    assert (second.alarms, second.recipe) == (1, Pgd(6))
    assert same(second._safe, first._safe)
    second._load_weights(second._safe)
    assert same(second._weights(), first._weights())
    third = trainer_of(flat(), Plain(), replace(PLANE, epochs=1, average=0.0))
    assert third.watch == Watch()


def test_checkpoints_of_other_trainings_are_refused(tmp_path):
    file = tmp_path / "c"
    trainer_of(flat(hidden=5), Pgd(1), replace(PLANE, epochs=1), file=file).run()
    other = trainer_of(flat(hidden=6), Pgd(1), PLANE, file=file)
    with pytest.raises(RunError, match="no checkpoint of this training.*train anew"):
        other.run()
    for facts in ({}, {"history": 3}, {"history": [{}], "updates": 0}):
        Checkpoint({f"module/{k}": v for k, v in flat().state_dict().items()}, facts).write(file)
        with pytest.raises(RunError, match="train anew"):
            trainer_of(flat(), Pgd(1), PLANE, file=file).run()
    file.write_bytes(b"rubbish")
    with pytest.raises(RunError, match="cannot read"):
        trainer_of(flat(), Pgd(1), PLANE, file=file).run()


def test_no_file_is_left_behind_but_the_checkpoint(tmp_path):
    trainer_of(flat(), Pgd(1), PLANE, file=tmp_path / "deep" / "c").run()
    assert [p.name for p in Path(tmp_path / "deep").iterdir()] == ["c"]
