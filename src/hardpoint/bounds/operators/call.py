"""One step of a network as it was traced, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hardpoint.bounds.operators.operator import Operator, UnknownOperator


@dataclass(frozen=True)
class Wire:
    """The value of an earlier step, which depends on the network's input.

    Attributes:
        step: which.
    """

    step: int


@dataclass(frozen=True)
class Call:
    """A layer, function or method that is called.

    Attributes:
        what: what it is, in words.
        place: where in the network, and on which line of which file.
        args, kwargs: what it is called with: a ``Wire``, a ``Live`` tensor of the network, or a plain value.
        shape: of one input's value after it, without the batch axis.
        taken: of one input's value in the first wire, likewise.
    """

    what: str
    place: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...]
    taken: tuple[int, ...] = ()

    def bound(self, *names: str, **defaults: Any) -> list[Any]:
        """The arguments in the order of ``names``; raises ``UnknownOperator`` for others."""
        given = dict(zip(names, self.args, strict=False)) | dict(self.kwargs)
        strange = [name for name in given if name not in names]
        missing = [name for name in names if name not in given and name not in defaults]
        if len(self.args) > len(names) or strange or missing:
            raise self.unknown(f"called with {len(self.args)} arguments and {sorted(self.kwargs)}")
        return [given.get(name, defaults.get(name)) for name in names]

    def plain(self, *names: str, **defaults: Any) -> list[Any]:
        """As ``bound``, where only the first argument depends on the input and no other is a tensor."""
        first, *others = self.bound(*names, **defaults)
        if not isinstance(first, Wire) or any(isinstance(other, Wire) or callable(other) for other in others):
            raise self.unknown("its settings are tensors")
        return others

    def unknown(self, why: str = "") -> UnknownOperator:
        """The refusal."""
        reason = f" ({why})" if why else ""
        return UnknownOperator(
            f"no bound is known for {self.what}{reason}, {self.place}",
            "use layers that bounds are known for (linear, convolution, batch norm, ReLU, pooling ...: "
            "hardpoint.bounds.KNOWN), or leave this part out of the network",
        )


@dataclass(frozen=True)
class Readers:
    """How a family of operators is read from calls.

    Attributes:
        layers: by the exact class of the module; a subclass may compute something else.
        functions: by the function, or by the name of the tensor method.
    """

    layers: Mapping[type[nn.Module], Callable[[Call, Any], Operator]] = field(default_factory=dict)
    functions: Mapping[Callable[..., Any] | str, Callable[[Call], Operator]] = field(default_factory=dict)
