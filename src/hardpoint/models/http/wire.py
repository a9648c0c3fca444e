"""How inputs and answers are written on the wire: plain JSON and the Open Inference Protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hardpoint.core.errors import BadModelOutput, ConfigError

_CURE = "check the protocol and its key names against what the endpoint documents"


@dataclass(frozen=True)
class Answer:
    """One response: class scores ``[n, K]``, or labels ``[n]``; exactly one of them."""

    scores: NDArray[np.float64] | None = None
    labels: NDArray[Any] | None = None


@runtime_checkable
class WireProtocol(Protocol):
    """How a batch becomes a request and a response an answer."""

    @property
    def path(self) -> str:
        """What is added to the endpoint's URL."""
        ...

    def encode(self, rows: NDArray[Any]) -> bytes:
        """The request's JSON body for ``rows`` ``[n, ...]``."""
        ...

    def decode(self, payload: Any, count: int) -> Answer:
        """The answer for ``count`` inputs in a parsed response; raises ``BadModelOutput``."""
        ...


@dataclass(frozen=True)
class PlainJson:
    """``{"inputs": [...]}`` answered by ``{"scores": [[...]]}``, ``{"outputs": [[...]]}`` or ``{"labels": [...]}``.

    Args:
        inputs: the request's key.
        scores: the response's keys that may hold class scores, in order of preference.
        labels: the response's keys that may hold labels.
        extra: further entries of every request.

    >>> PlainJson(inputs="x").encode(np.zeros((1, 2)))
    b'{"x":[[0.0,0.0]]}'
    """

    inputs: str = "inputs"
    scores: Sequence[str] = ("scores", "outputs")
    labels: Sequence[str] = ("labels",)
    extra: Mapping[str, Any] | None = None
    path: str = ""

    def encode(self, rows: NDArray[Any]) -> bytes:
        return _json({**(self.extra or {}), self.inputs: rows.tolist()})

    def decode(self, payload: Any, count: int) -> Answer:
        if not isinstance(payload, dict):
            raise BadModelOutput(f"the endpoint answered {type(payload).__name__}, no JSON object", _CURE)
        for key in self.scores:
            if key in payload:
                return _scores(payload[key], count, key)
        for key in self.labels:
            if key in payload:
                return Answer(labels=_labels(payload[key], count, key))
        keys = ", ".join(repr(k)[:40] for k in list(payload)[:8]) or "nothing"
        wanted = ", ".join((*self.scores, *self.labels))
        raise BadModelOutput(f"the endpoint answered {keys}; none of {wanted}", _CURE)


_DATATYPES = {
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "UINT8": np.uint8,
    "INT64": np.int64,
}


@dataclass(frozen=True)
class OpenInference:
    """The Open Inference Protocol, version 2 over HTTP with JSON tensors (KServe, Triton, MLServer and others).

    Args:
        model: the model's name on the server.
        version: the model's version; the server's choice by default.
        input: the name of the input tensor.
        output: the name of the output tensor; the first by default.
        datatype: the element type to send.
        labels: whether the output holds labels.

    >>> OpenInference("digits").path
    '/v2/models/digits/infer'
    """

    model: str
    version: str | None = None
    input: str = "input"
    output: str | None = None
    datatype: str = "FP32"
    labels: bool = False

    def __post_init__(self) -> None:
        if self.datatype not in _DATATYPES:
            raise ConfigError(
                f"datatype {self.datatype!r} is unknown", f"use one of: {', '.join(_DATATYPES)}"
            )
        for part in (self.model, self.version or "1"):
            if not part or any(c in part for c in "/?#\\") or part in (".", ".."):
                raise ConfigError(f"{part!r} is no name of a model or version", "give the name alone")

    @property
    def path(self) -> str:
        version = f"/versions/{self.version}" if self.version else ""
        return f"/v2/models/{self.model}{version}/infer"

    def encode(self, rows: NDArray[Any]) -> bytes:
        tensor: dict[str, Any] = {
            "name": self.input,
            "shape": list(rows.shape),
            "datatype": self.datatype,
            "data": rows.astype(_DATATYPES[self.datatype]).reshape(-1).tolist(),
        }
        request: dict[str, Any] = {"inputs": [tensor]}
        if self.output is not None:
            request["outputs"] = [{"name": self.output}]
        return _json(request)

    def decode(self, payload: Any, count: int) -> Answer:
        outputs = payload.get("outputs") if isinstance(payload, dict) else None
        if not isinstance(outputs, list) or not all(isinstance(o, dict) for o in outputs):
            raise BadModelOutput("the endpoint answered no list of outputs", _CURE)
        named = [o for o in outputs if self.output is None or o.get("name") == self.output]
        if not named:
            raise BadModelOutput(
                f"the endpoint answered {len(outputs)} outputs, none named {self.output!r}", _CURE
            )
        tensor = named[0]
        what = f"output {str(tensor.get('name'))[:40]!r}"
        shape, data = tensor.get("shape"), tensor.get("data")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise BadModelOutput(f"{what} has no valid shape", _CURE)
        if not shape or shape[0] != count:
            raise BadModelOutput(f"{what} has shape {shape[:8]} for {count} inputs", _CURE)
        if self.labels:
            return Answer(labels=_labels(_flat(data, what), count, what))
        flat = _numbers(_flat(data, what), what)
        try:
            return _scores(flat.reshape(shape), count, what)
        except ValueError:
            raise BadModelOutput(f"{what} has {flat.size} numbers for shape {shape[:8]}", _CURE) from None


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _flat(data: Any, what: str) -> list[Any]:
    """Tensor data may come nested; the standard allows both."""
    if not isinstance(data, list):
        raise BadModelOutput(f"{what} has no data", _CURE)
    flat: list[Any] = data
    while flat and all(isinstance(part, list) for part in flat):
        flat = [value for part in flat for value in part]
    return flat


def _numbers(values: Any, what: str) -> NDArray[np.float64]:
    """Finite float64 numbers; texts, truth values, ragged lists and NaN are refused."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        raise BadModelOutput(f"{what} is ragged", "answer one row of scores per input") from None
    if array.dtype.kind not in "iuf":
        raise BadModelOutput(f"{what} holds something other than numbers", "answer numbers") from None
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise BadModelOutput(f"{what} holds NaN or infinity in row {row}", "look at that input on the server")
    return array


def _scores(values: Any, count: int, what: str) -> Answer:
    array = _numbers(values, what)
    if array.ndim == 0 or array.ndim > 2 or array.shape[0] != count or array.size == 0:
        raise BadModelOutput(
            f"{what} has shape {array.shape} for {count} inputs", "answer one row of class scores per input"
        )
    return Answer(scores=array)


def _labels(values: Any, count: int, what: str) -> NDArray[Any]:
    if isinstance(values, list) and values and all(isinstance(v, str) for v in values):
        array: NDArray[Any] = np.array(values, dtype=object)
    else:
        numbers = _numbers(values, what)
        array = numbers.astype(np.int64)
        if (array != numbers).any():
            raise BadModelOutput(f"{what} holds labels that are not whole numbers", "answer class numbers")
    if array.shape != (count,):
        raise BadModelOutput(
            f"{what} has shape {array.shape} for {count} inputs", "answer one label per input"
        )
    return array
