"""A property: where the inputs lie, which answers there are unsafe, and whether a point shows one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from hardpoint.core.errors import DataError


@dataclass(frozen=True, eq=False)
class Case:
    """One way to be unsafe: an input in a box whose scores ``y`` have ``rows @ y + offset <= 0`` in every row.

    What is proven for the box and the rows holds for the property as it was written: where its decimals are no
    float64, the box is wider and the offsets are lower by less than one unit in the last place.

    Args:
        low, high: float64 ``[d]``, the box.
        rows: float64 ``[m, K]``.
        offset: float64 ``[m]``.
        strict: bool ``[m]``, which rows must be below 0 and not at it; none by default. Proofs need not look at it.
        closest: ``low`` and ``high`` rounded to nearest, where witnesses must lie; the box itself by default.
        exact: the offsets as they were written; ``offset`` by default.

    Raises:
        DataError: for shapes that do not fit, ends that are not finite, or an empty box.
    """

    low: Tensor
    high: Tensor
    rows: Tensor
    offset: Tensor
    strict: Tensor | None = None
    closest: tuple[Tensor, Tensor] | None = None
    exact: tuple[Fraction, ...] | None = None

    def __post_init__(self) -> None:
        tensors = {"low": self.low, "high": self.high, "rows": self.rows, "offset": self.offset}
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float64 or not bool(tensor.isfinite().all()):
                raise DataError(f"{name} of a case is not finite float64", "give finite numbers as float64")
        fits = self.low.dim() == 1 and self.low.shape == self.high.shape and self.rows.dim() == 2
        if not fits or self.offset.shape != self.rows.shape[:1]:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
            raise DataError(f"the parts of a case have shapes {shapes}", "give [d], [d], [m, K] and [m]")
        if bool((self.low > self.high).any()):
            raise DataError("the box of a case is empty", "leave the case out: nothing in it is unsafe")


@dataclass(frozen=True, eq=False)
class Property:
    """What a network must not do: be unsafe in any of the cases. With no case at all nothing is unsafe.

    Args:
        inputs: how many numbers the network takes, in the order of its flattened input.
        outputs: how many it answers.
        cases: every way to be unsafe.

    Raises:
        DataError: for a case over another number of inputs or outputs.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        for case in self.cases:
            if (len(case.low), case.rows.shape[1]) != (self.inputs, self.outputs):
                raise DataError(
                    f"a case is over {len(case.low)} inputs and {case.rows.shape[1]} outputs, "
                    f"the property over {self.inputs} and {self.outputs}",
                    "give cases of one network",
                )

    def grouped(self) -> tuple[tuple[Case, ...], ...]:
        """The cases, those that share a box together."""
        groups: dict[tuple[bytes, bytes], list[Case]] = {}
        for case in self.cases:
            groups.setdefault((case.low.numpy().tobytes(), case.high.numpy().tobytes()), []).append(case)
        return tuple(tuple(group) for group in groups.values())

    def hull(self) -> tuple[Tensor, Tensor]:
        """``(low, high)`` ``[d]`` of the smallest box that holds the boxes of all cases.

        Raises:
            DataError: without a case.
        """
        if not self.cases:
            raise DataError("a property without cases has no box", "take it as proven: nothing is unsafe")
        low, high = self.cases[0].low, self.cases[0].high
        for group in self.grouped()[1:]:
            low, high = torch.minimum(low, group[0].low), torch.maximum(high, group[0].high)
        return low, high


def holds(wanted: Property, x: Tensor, y: Tensor) -> bool:
    """Whether an input ``x`` with the answer ``y`` is unsafe, without any tolerance.

    Box ends are compared as the nearest float64, as other checkers read them; rows are summed exactly.

    Args:
        wanted: the property.
        x: ``[d]``, or of any shape with as many elements; float32 or float64.
        y: ``[K]``, likewise; what the network answers for ``x``.

    Raises:
        DataError: for other sizes, and for values that are not finite.

    >>> unit = torch.tensor([1.0], dtype=torch.float64)
    >>> never = Property(1, 1, (Case(-unit, unit, unit.view(1, 1), -unit),))  # unsafe: y <= 1 for an x in [-1, 1]
    >>> holds(never, torch.tensor([0.5]), torch.tensor([1.0])), holds(never, torch.tensor([0.5]), torch.tensor([1.1]))
    (True, False)
    """
    point, answer = _flat(x, wanted.inputs, "x"), _flat(y, wanted.outputs, "y")
    return any(_inside(case, point) and _violates(case, answer) for case in wanted.cases)


def _flat(values: Tensor, size: int, name: str) -> Tensor:
    if values.numel() != size or not values.is_floating_point():
        raise DataError(
            f"{name} holds {values.numel()} {values.dtype} values, the property needs {size} floats",
            "give one input and its answer",
        )
    if not bool(values.isfinite().all()):
        raise DataError(f"{name} holds NaN or infinity", "give finite values")
    return values.detach().flatten().to("cpu", torch.float64)


def _inside(case: Case, x: Tensor) -> bool:
    low, high = case.closest or (case.low, case.high)
    return bool(((x >= low) & (x <= high)).all())


def _violates(case: Case, y: Tensor) -> bool:
    exact: Sequence[Fraction] = case.exact or [Fraction(value) for value in case.offset.tolist()]
    strict = [False] * len(exact) if case.strict is None else case.strict.tolist()
    answers = [Fraction(value) for value in y.tolist()]
    for row, offset, below in zip(case.rows.tolist(), exact, strict, strict=True):
        total = sum((Fraction(a) * b for a, b in zip(row, answers, strict=True) if a), offset)
        if total > 0 or (below and total == 0):
            return False
    return True


def witness_text(x: Tensor, y: Tensor) -> str:
    """An input and its answer as tools of the verification competition print them; digits as many as they need.

    Args:
        x, y: any shape, taken in order.

    >>> print(witness_text(torch.tensor([0.5, 1.0]), torch.tensor([-2.0])))
    ((X_0 0.5)
     (X_1 1.0)
     (Y_0 -2.0))
    """
    pairs = [("X", x), ("Y", y)]
    lines = [
        f"({letter}_{i} {value!r})"
        for letter, values in pairs
        for i, value in enumerate(values.detach().flatten().to("cpu", torch.float64).tolist())
    ]
    return "(" + "\n ".join(lines) + ")"
