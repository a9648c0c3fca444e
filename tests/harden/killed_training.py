"""A training that a signal ends in the middle of its third epoch; run as a process by the tests of resuming."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from small_lessons import flat, trainer_of

from hardpoint.assess.progress import Silent
from hardpoint.harden.recipes import NFgsm
from hardpoint.harden.settings import Training
from hardpoint.harden.trainer import Trainer

TRAINING = Training(epochs=4, batch_size=16, lr=0.02, average=0.8)


def made(file: Path | None) -> Trainer:
    return trainer_of(flat(dropout=0.3), NFgsm(), TRAINING, file=file, seed=5)


class Dies(Silent):
    """Ends the process after the second batch of the third epoch, without any farewell."""

    def begin(self, what: str, total: int) -> None:
        self.left = 2 if what.startswith("epoch 3") else -1

    def advance(self, count: int) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    trainer = made(Path(sys.argv[1]))
    trainer.display = Dies()
    trainer.run()
