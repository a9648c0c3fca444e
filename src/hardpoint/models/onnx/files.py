"""Reading an ONNX file without trusting it.

The result is self-contained: tensors kept in other files are checked, read and put in place, so nothing later
opens a path that the file names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hardpoint.core.errors import MissingExtra, UnreadableModelFile

MAX_BYTES = (1 << 31) - (1 << 20)
"""The most that a file and its external tensors may hold together: what one protobuf message can."""

_DAMAGED = "export or download the model again"


def read_onnx(path: Path) -> tuple[Any, str]:
    """The ``ModelProto`` in ``path`` with all its tensors, and the SHA-256 of what was read.

    Raises:
        UnreadableModelFile: when the file is missing, empty, truncated, too large or no ONNX model, or names
            external tensors outside its folder or beyond the end of their file.
        MissingExtra: without the ``onnx`` package.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtra("onnx", "reading ONNX models") from None
    content = _read(path, 0, None, MAX_BYTES)
    if not content:
        raise UnreadableModelFile(f"{path} is empty", _DAMAGED)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception:  # protobuf raises its own types, which depend on its build
        raise UnreadableModelFile(f"{path} is truncated or not an ONNX model", _DAMAGED) from None
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        raise UnreadableModelFile(f"{path} holds no network: no nodes, no outputs or no opset", _DAMAGED)
    digest = hashlib.sha256(content)
    room = MAX_BYTES - len(content)
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        data = _external_data(path, tensor, room)
        room -= len(data)
        digest.update(data)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data
    return proto, digest.hexdigest()


def _read(path: Path, offset: int, length: int | None, room: int) -> bytes:
    try:
        if not path.is_file():
            raise UnreadableModelFile(f"{path} is not a file", "give the path of an existing .onnx file")
        size = path.stat().st_size
        wanted = size - offset if length is None else length
        if wanted < 0 or offset + wanted > size:
            raise UnreadableModelFile(
                f"{path} has {size} bytes, the model needs bytes {offset} to {offset + wanted}", _DAMAGED
            )
        if wanted > room:
            raise UnreadableModelFile(
                f"{path} and its external tensors hold more than {MAX_BYTES} bytes",
                "assess the PyTorch module it was exported from, or serve it and give its URL",
            )
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(wanted)
    except OSError as error:
        raise UnreadableModelFile(
            f"cannot read {path}: {error.strerror or error}", "check the path and its permissions"
        ) from None


def _external_data(model: Path, tensor: Any, room: int) -> bytes:
    """The bytes of one tensor that the file keeps beside itself."""
    name = f"external tensor {tensor.name!r} of {model}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    windows = PureWindowsPath(location)
    if (
        not location
        or "\0" in location
        or PurePosixPath(location).is_absolute()
        or windows.drive
        or windows.root
        or ".." in windows.parts  # splits at both kinds of slash
    ):
        raise UnreadableModelFile(
            f"{name} points outside the model's folder ({location!r})",
            "do not trust this file; or export it again with its tensors in the same folder",
        )
    folder = model.parent.resolve()
    target = (folder / location).resolve()
    if not target.is_relative_to(folder):
        raise UnreadableModelFile(
            f"{name} follows a link out of the model's folder ({location!r})",
            "copy the tensors' file itself next to the model",
        )
    if not target.is_file():
        raise UnreadableModelFile(
            f"{name} needs the file {location!r}, which does not exist", "copy it next to the model"
        )
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise UnreadableModelFile(f"{name} has an offset or a length that is no number", _DAMAGED) from None
    if offset < 0 or (length is not None and length < 0):
        raise UnreadableModelFile(f"{name} has a negative offset or length", _DAMAGED)
    return _read(target, offset, length, room)


def _tensors(proto: Any) -> Iterator[Any]:
    """Every tensor of a model, those inside attributes, subgraphs and functions included."""
    graphs = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    for info in proto.training_info:
        graphs += [info.initialization, info.algorithm]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
        else:
            for attribute in nodes.pop().attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)


def parameter_count(proto: Any) -> int:
    """How many numbers the file's floating-point tensors hold."""
    return sum(math.prod(t.dims) for t in proto.graph.initializer if t.data_type in (1, 10, 11, 16))
