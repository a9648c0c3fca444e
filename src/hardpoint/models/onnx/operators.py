"""The ONNX operators that can be differentiated: name to torch function.

A function takes the operator's inputs in order (None where an optional one is absent) and its attributes by
their ONNX names; it returns a tensor, or a tuple for several outputs. Meanings follow the ONNX operator
standard (https://onnx.ai/onnx/operators/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hardpoint.models.onnx.elementwise import ELEMENTWISE
from hardpoint.models.onnx.layers import LAYERS
from hardpoint.models.onnx.shapes import SHAPES
from hardpoint.models.onnx.windows import WINDOWS

Operator = Callable[..., Any]

OPERATORS: Mapping[str, Operator] = {**ELEMENTWISE, **LAYERS, **WINDOWS, **SHAPES}
