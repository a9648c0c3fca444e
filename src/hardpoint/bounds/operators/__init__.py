"""The operators that bounds are known for, a file per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from hardpoint.bounds.operators import (
    activation,
    affine,
    arithmetic,
    curves,
    limits,
    matrix,
    moves,
    norm,
    padding,
    pool,
    shape,
)
from hardpoint.bounds.operators.call import Call
from hardpoint.bounds.operators.operator import Operator

_FAMILIES = (
    affine.READERS,
    norm.READERS,
    activation.READERS,
    curves.READERS,
    pool.READERS,
    shape.READERS,
    arithmetic.READERS,
    moves.READERS,
    padding.READERS,
    matrix.READERS,
    limits.READERS,
)
LAYERS: dict[type[nn.Module], Callable[[Call, Any], Operator]] = {
    kind: read for family in _FAMILIES for kind, read in family.layers.items()
}
"""How each kind of layer is read."""
FUNCTIONS: dict[Callable[..., Any] | str, Callable[[Call], Operator]] = {
    function: read for family in _FAMILIES for function, read in family.functions.items()
}
"""How each function, and each tensor method by its name, is read."""
KNOWN = tuple(
    sorted(
        {kind.__name__ for kind in LAYERS}
        | {function if isinstance(function, str) else function.__name__ for function in FUNCTIONS}
    )
)
"""Names of all layers, functions and tensor methods that bounds are known for."""
