"""What to try next, and when to give up: Optuna's part.

Nothing is kept between calls but the trials themselves: a study is made from them anew, its draws from the number of
the trial. A search that goes on after it was killed therefore proposes what it would have proposed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from hardpoint.core.errors import ConfigError, MissingExtra, RunError
from hardpoint.core.rng import Rng
from hardpoint.evidence.search import Trial
from hardpoint.harden.search.architecture import Architecture
from hardpoint.harden.search.limits import Limits
from hardpoint.harden.search.space import Space

_DRAWN = 8
"""Trials that are drawn at random before Optuna's model of the space is asked."""
_TRIES = 50


@dataclass(frozen=True)
class Proposal:
    """An architecture, and the share of the limits that it may fill."""

    architecture: Architecture
    size: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self.architecture.to_json(), "size": self.size}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Proposal:
        """The proposal that ``to_json`` told; raises ``RunError`` for anything else."""
        said = {key: held for key, held in value.items() if key != "size"}
        try:
            return cls(Architecture.from_json(said), float(value["size"]))
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"a trial of the search is damaged ({error})", "search anew in an empty folder"
            ) from None


def proposed(
    space: Space,
    shape: tuple[int, ...],
    classes: int,
    limits: Limits,
    known: Sequence[Trial],
    number: int,
    seed: int,
    besides: Sequence[Proposal] = (),
) -> Proposal | None:
    """What trial ``number`` is to train, unlike those ``known`` and ``besides``; None where nothing else was found.

    Proposed by a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) from what became of ``known``.
    """
    seen = [Proposal.from_json(trial.network).architecture for trial in known if trial.number]
    seen += [proposal.architecture for proposal in besides]
    for turn in range(_TRIES):
        drawn = Rng(seed).fork("proposal").fork(number).fork(turn)
        with _study(
            known, space, shape, int(drawn.integers(torch.zeros(1, dtype=torch.int64), 2**31))
        ) as study:
            asked = study.ask(_distributions(space, shape))
        chosen = _chosen(asked.params, space, shape)
        made = space.architecture(chosen, shape, classes, limits)
        if made is not None and made not in seen:
            return Proposal(made, chosen["size"])
    return None


def given_up(known: Sequence[Trial], curve: Sequence[float], epochs: int) -> bool:
    """Whether a training of ``epochs`` epochs is behind half of those that went to the end, at a third of it or two.

    >>> given_up([], [0.1], 9)
    False
    """
    if len(curve) not in (round(epochs / 3), round(2 * epochs / 3)) or len(curve) >= epochs:
        return False
    optuna = _optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0)
    with _quiet(optuna):
        study = optuna.create_study(direction="maximize", pruner=pruner)
        study.add_trials([_told(trial, {}, {}) for trial in known])
        running = study.ask()
        for epoch, robust in enumerate(curve, start=1):
            running.report(robust, epoch)
        return bool(running.should_prune())


@contextmanager
def _study(known: Sequence[Trial], space: Space, shape: tuple[int, ...], seed: int) -> Iterator[Any]:
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_DRAWN)
    distributions, choices = _distributions(space, shape), space.choices(shape)
    with _quiet(optuna):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in known:
            if trial.number and not trial.problem:
                chosen = {key: trial.network[key] for key in choices}
                study.add_trial(_told(trial, chosen, distributions))
        yield study


def _told(trial: Trial, chosen: dict[str, Any], distributions: dict[str, Any]) -> Any:
    """A trial as Optuna knows it."""
    optuna = _optuna()
    is_done = trial.robust is not None
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if is_done else optuna.trial.TrialState.PRUNED,
        value=trial.robust.value if trial.robust is not None else None,
        params=chosen,
        distributions=distributions,
        intermediate_values=dict(enumerate(trial.curve, start=1)),
    )


def _distributions(space: Space, shape: tuple[int, ...]) -> dict[str, Any]:
    optuna = _optuna()
    return {
        key: optuna.distributions.CategoricalDistribution([_plain(value) for value in held])
        for key, held in space.choices(shape).items()
    }


def _chosen(params: dict[str, Any], space: Space, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        key: next(value for value in held if _plain(value) == params[key])
        for key, held in space.choices(shape).items()
    }


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without a line per trial on stderr."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtra("search", "searching for architectures") from None
    return optuna
