"""What the engine and an attack say to each other.

An attack is a frozen dataclass of hyper-parameters. It never calls the model: it hands the engine a *state*
that holds the next points to ask about, and turns the *reply* into the next state. The engine owns the loop,
counts what is spent, keeps the best example seen, drops inputs that have fallen and lets new ones in. So an
attack cannot return anything but its best, exceed a budget, or let one input influence another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.threats.goals import Goal
from hardpoint.threats.perturbation import Region


@dataclass(frozen=True)
class Task:
    """The inputs under attack, one row each.

    Attributes:
        index: int64 ``[n]``, positions in the data set; they identify an input's random draws.
        y: int64 ``[n]``, right labels.
        region: the allowed inputs around the originals.
        ranked: int64 ``[n, r]``, classes by falling clean score; ``r`` is 0 where scores are not to be seen.
        turn: int64 ``[n]``, how many replies the input has had; the engine counts it up.
        goal: what the attacker wants.
        box: the inputs the model accepts.
        rng: the source of per-input draws; use ``turn`` or a constant as the counter.
        is_random: whether the model answers the same question differently each time.
    """

    HAS_ROWS: ClassVar[bool] = True
    index: Tensor
    y: Tensor
    region: Region
    ranked: Tensor
    turn: Tensor
    goal: Goal
    box: Box
    rng: Rng
    is_random: bool = False

    @property
    def x(self) -> Tensor:
        """The originals, ``[n, ...]``."""
        return self.region.x

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Reply:
    """The model's answers to the points of a state.

    Shapes are for single points ``[n, ...]``; for ``k`` points per input they are ``[n, k, ...]``.

    Attributes:
        labels: int64 ``[n]``, predicted labels.
        scores: ``[n, K]``, or None where the threat shows labels only.
        value: ``[n]``, the attack's objective, where a gradient was asked for.
        gradient: gradient of the objective with the shape of the query, or None; rows with NaN are zero.
    """

    labels: Tensor
    scores: Tensor | None = None
    value: Tensor | None = None
    gradient: Tensor | None = None

    def seen_scores(self) -> Tensor:
        """The scores, for attacks that cannot do without."""
        if self.scores is None:
            raise RuntimeError("the oracle gave labels to an attack that needs scores")
        return self.scores


@runtime_checkable
class State(Protocol):
    """An attack's memory: a dataclass of row tensors (``HAS_ROWS``) with at least ``query``.

    ``query`` is the next point per input ``[n, ...]`` for attacks that need gradients, and ``k`` points per
    input ``[n, k, ...]`` for all others. Two optional fields: ``asked``, bool ``[n, k]``, which of the ``k``
    to ask about; ``done``, bool ``[n]``, inputs that gain nothing from going on.
    """

    HAS_ROWS: ClassVar[bool]

    @property
    def query(self) -> Tensor: ...


@runtime_checkable
class Attack(Protocol):
    """A way to break a model, as the engine sees it.

    An attack that looks for the nearest example rather than for any allowed one also has
    ``minimises = True``.
    """

    @property
    def needs(self) -> Access:
        """What the attack must see."""
        ...

    @property
    def turns(self) -> int | None:
        """Replies until the attack ends by itself, the one to the start included; None: until the budget."""
        ...

    @property
    def name(self) -> str:
        """Shown in reports, for example ``APGD-ce``."""
        ...

    def start(self, task: Task) -> Any:
        """The first state."""
        ...

    def step(self, state: Any, reply: Reply, task: Task) -> Any:
        """The next state, given the reply to ``state.query``."""
        ...


@runtime_checkable
class GradientAttack(Attack, Protocol):
    """An attack that follows the gradient of an objective."""

    def objective(self, scores: Tensor, task: Task, state: Any) -> Tensor:
        """``[n]``, what the attack maximises at ``state.query``, as a differentiable function of the scores
        ``[n, K]``."""
        ...


@runtime_checkable
class SparingAttack(GradientAttack, Protocol):
    """One that does without the gradient on some turns; what it does not use is not computed."""

    def climbs(self, turn: Tensor) -> Tensor:
        """Bool ``[n]``: whether the reply of each turn ``[n]`` must hold the gradient."""
        ...
