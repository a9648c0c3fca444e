"""A network as a graph of operators that bounds are known for.

The graph holds no weights of its own: operators read the network's as they are when they are asked, so bounds follow
a training and gradients reach the weights. What no bound is known for is refused by name; nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from hardpoint.bounds.operators.operator import Operator, Settles


@dataclass(frozen=True)
class Step:
    """One operator and what it is applied to.

    Attributes:
        name: for messages: the layer, function or method.
        operator: what it computes.
        inputs: the values that it takes: 0 is the network's input, ``k`` the value of step ``k - 1``.
    """

    name: str
    operator: Operator
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """Steps in an order in which each comes after those that it takes values from.

    Attributes:
        steps: all of them.
        output: the value that the network returns.
    """

    steps: tuple[Step, ...]
    output: int

    def values(self, x: Tensor) -> list[Tensor]:
        """The input ``[n, ...]`` and the value of each step, differentiably."""
        values = [x]
        for step in self.steps:
            values.append(step.operator.value(*(values[place] for place in step.inputs)))
        return values

    def __call__(self, x: Tensor) -> Tensor:
        """What the network returns for ``x`` ``[n, ...]``."""
        return self.values(x)[self.output]

    @property
    def is_settled(self) -> bool:
        """Whether no step depends on the batch that the network learns from."""
        return not any(isinstance(step.operator, Settles) for step in self.steps)

    def settled(self, x: Tensor) -> tuple[Graph, Tensor]:
        """The graph whose batch norms normalise by the batch ``x``, and what the network returns for it.

        In training mode batch norms also learn their running statistics from the batch, as in any forward pass.
        Gradients flow through the statistics. In evaluation mode this is the graph itself.
        """
        values, steps = [x], []
        for step in self.steps:
            taken = [values[place] for place in step.inputs]
            if isinstance(step.operator, Settles):
                operator, value = step.operator.settled(*taken)
                step = replace(step, operator=operator)
            else:
                value = step.operator.value(*taken)
            values.append(value)
            steps.append(step)
        return replace(self, steps=tuple(steps)), values[self.output]

    def before(self, kind: type[Operator]) -> Sequence[int]:
        """The values that operators of this ``kind`` are applied to, each once."""
        places = [place for step in self.steps if isinstance(step.operator, kind) for place in step.inputs]
        return tuple(dict.fromkeys(places))


@dataclass(frozen=True, eq=False)
class Kept:
    """Units of a value that the quick graph of a network has.

    Attributes:
        place: the value that holds them there.
        units: int64 ``[n, u]``, or ``[1, u]`` where all inputs have the same: which they are among all.
    """

    place: int
    units: Tensor

    def of(self, values: Tensor) -> Tensor:
        """``[n, u]``: those of all units ``[n, ...]``."""
        return values.flatten(1).gather(1, self.units.expand(len(values), -1))

    def into(self, values: Tensor, kept: Tensor) -> Tensor:
        """``[n, S, ...]``: all units, ``values`` ``[n, ...]`` with ``kept`` ``[n, S, u]`` in their places."""
        n, count = kept.shape[:2]
        rows = values.flatten(1).unsqueeze(1).repeat(1, count, 1)
        rows.scatter_(2, self.units.unsqueeze(1).expand(n, count, -1), kept)
        return rows.view(n, count, *values.shape[1:])


@dataclass(frozen=True, eq=False)
class Network:
    """One network as two graphs.

    Attributes:
        exact: in float64: what is proven is proven with it.
        quick: in float32: where a search proposes what is computed again.
        kept: by value before units, where the quick graph has only some of them; else both have the same steps.
    """

    exact: Graph
    quick: Graph
    kept: Mapping[int, Kept] = field(default_factory=dict)
