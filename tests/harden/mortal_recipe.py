"""A recipe whose second process is killed once, in its third epoch; imported by the processes that train."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.recipes import Attacked, Recipe, Taught

_DEADLY = 14
_seen: list[int] = []


@dataclass(frozen=True)
class DiesOnce:
    """Another recipe, until the fourteenth update of rank 1 where ``mark`` does not exist yet."""

    mark: str
    inner: Recipe

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def gradients(self) -> int:
        return self.inner.gradients

    def around(self, inner: Recipe) -> Recipe:
        return replace(self, inner=inner)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        if learner.ranks.rank == 1:
            _seen.append(len(batch))
            if len(_seen) == _DEADLY and not Path(self.mark).exists():
                Path(self.mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.attacked(learner, batch)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return self.inner.taught(learner, batch, attacked)
