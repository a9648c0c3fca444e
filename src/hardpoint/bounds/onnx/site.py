"""A node of an ONNX graph while it is read, and the graph of operators that grows by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hardpoint.bounds.graph import Step
from hardpoint.bounds.operators import FUNCTIONS
from hardpoint.bounds.operators.call import Call, Wire
from hardpoint.bounds.operators.operator import Live, Operator, UnknownOperator
from hardpoint.models.onnx.graph import Node


@dataclass
class Built:
    """The steps so far.

    Attributes:
        shapes: of one input's value before all steps, and after each.
        steps: all of them.
    """

    shapes: list[tuple[int, ...]]
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step, shape: tuple[int, ...]) -> Wire:
        """One more step, whose value has this shape."""
        self.steps.append(step)
        self.shapes.append(shape)
        return Wire(len(self.steps))


@dataclass
class Site:
    """One node where it stands.

    Attributes:
        built: what it becomes a part of.
        node: the node; its attributes are taken one by one, and what is left is refused.
        inputs: a ``Wire``, a ``Live`` constant, or None where an optional one is absent.
        values: what they are for a batch.
        shapes: of one input's value of each output.
        is_alone: whether no other node takes its first input.
        is_rounding: whether its value is of another type than its first input.
    """

    built: Built
    node: Node
    inputs: list[Wire | Live | None]
    values: list[Tensor | None]
    shapes: list[tuple[int, ...]]
    is_alone: bool
    is_rounding: bool
    _taken: set[str] = field(default_factory=set)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input's value after it."""
        return self.shapes[0]

    def attribute(self, name: str, default: Any = None) -> Any:
        """What the file says, or the standard's default."""
        self._taken.add(name)
        return self.node.attributes.get(name, default)

    def attributes(self) -> Mapping[str, Any]:
        """Everything that the file says, for operators that are given all of it."""
        self._taken.update(self.node.attributes)
        return self.node.attributes

    def settled(self) -> None:
        """Raise ``UnknownOperator`` for an attribute that nobody asked for."""
        for name in self.node.attributes:
            if name not in self._taken:
                raise self.unknown(f"its attribute {name} is not known")

    def wire(self, place: int = 0) -> Wire:
        """The input at ``place``, which must depend on the network's input."""
        found = self.inputs[place]
        if not isinstance(found, Wire):
            raise self.unknown(f"its input {place} is a constant")
        return found

    def constant(self, place: int) -> Live | None:
        """The input at ``place``, which must not; None where it is absent."""
        found = self.inputs[place] if place < len(self.inputs) else None
        if isinstance(found, Wire):
            raise self.unknown(f"its input {place} depends on the network's input")
        return found

    def size(self, wire: Wire) -> tuple[int, ...]:
        """The shape of one input's value."""
        return self.built.shapes[wire.step]

    def call(
        self, function: Callable[..., Any] | str, *args: Any, shape: tuple[int, ...] | None = None
    ) -> Wire:
        """What a torch function makes of wires, constants and settings, by the operator that is known for it.

        Args:
            function: a key of ``FUNCTIONS``.
            args: what it is called with.
            shape: of one input's value after it; the node's by default.
        """
        shape = self.shape if shape is None else shape
        wires = [
            part
            for given in args
            for part in (given if isinstance(given, tuple) else (given,))
            if isinstance(part, Wire)
        ]
        read = FUNCTIONS.get(function)
        if read is None:
            raise self.unknown()
        return self.step(read(self._call(args, shape, wires)), *wires, shape=shape)

    def step(self, operator: Operator, *wires: Wire, shape: tuple[int, ...] | None = None) -> Wire:
        """The value of an operator of these wires."""
        shape = self.shape if shape is None else shape
        return self.built.add(Step(str(self.node), operator, tuple(wire.step for wire in wires)), shape)

    def described(self, wire: Wire, shape: tuple[int, ...] | None = None) -> Call:
        """A call that takes ``wire`` alone, for readers that need its shapes."""
        return self._call((wire,), self.shape if shape is None else shape, [wire])

    def replaced(self, wire: Wire, operator: Operator) -> Wire:
        """The same wire, made by another operator."""
        steps = self.built.steps
        steps[wire.step - 1] = dataclasses.replace(steps[wire.step - 1], operator=operator)
        return wire

    def maker(self, wire: Wire) -> Operator | None:
        """What makes the wire's value; None for the network's input."""
        return self.built.steps[wire.step - 1].operator if wire.step else None

    def unknown(self, why: str = "") -> UnknownOperator:
        """The refusal."""
        return self._call((), (), []).unknown(why)

    def _call(self, args: tuple[Any, ...], shape: tuple[int, ...], wires: list[Wire]) -> Call:
        taken = self.size(wires[0]) if wires else ()
        return Call(str(self.node), "in the ONNX graph", args, {}, shape, taken)
