"""Reading weights without executing anything: safetensors, and PyTorch files that hold tensors only."""

from __future__ import annotations

import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.errors import ModelError, UnreadableModelFile, UnsafeModelFile

MAX_HEADER_BYTES = 100_000_000
"""The longest header a safetensors file may have (the format's own limit)."""

_DAMAGED = "save or download the file again"
_NESTED = ("state_dict", "model_state_dict", "model")


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a ``.safetensors``, ``.pt`` or ``.pth`` file by name, on the CPU.

    No code in the file is run: whole pickled modules and TorchScript archives are refused. A checkpoint that
    holds its weights under ``state_dict``, ``model_state_dict`` or ``model`` is opened there.

    Raises:
        UnsafeModelFile: when the file would have to execute code to load; the cure converts it.
        UnreadableModelFile: when it is missing, empty, truncated, malformed or larger unpacked than stored.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UnreadableModelFile(f"{path} is not a file", "give the path of an existing weights file")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UnreadableModelFile(
            f"cannot read {path}: {error.strerror or error}", "check the path and its permissions"
        ) from None
    if not size:
        raise UnreadableModelFile(f"{path} is empty", _DAMAGED)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, size, start)
    if path.suffix not in (".pt", ".pth"):
        raise refuse_file(path)
    return _read_torch(path, size, start)


def weights_content(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> bytes:
    """``tensors`` by name as a safetensors file, with the words ``about`` in its header."""
    from safetensors.torch import save

    apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return save(apart, None if about is None else dict(about))


def weights_metadata(path: str | Path) -> dict[str, str]:
    """The words in the header of a safetensors file; none in files of other kinds. Raises ``UnreadableModelFile``."""
    from safetensors import safe_open

    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # safetensors has its own type for damage
        problem = " ".join(str(error).split())[:200] or type(error).__name__
    raise UnreadableModelFile(f"{path} is malformed ({problem})", _DAMAGED)


def load_into(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy ``weights`` into ``module``; every tensor must find its place.

    A ``module.`` prefix on all names, which ``DataParallel`` leaves, is removed.

    Raises:
        ModelError: naming the missing, unexpected and differently shaped tensors.
    """
    state = module.state_dict()
    weights = dict(weights)
    if weights and all(name.startswith("module.") for name in weights) and not set(weights) & set(state):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    check_fit(module, weights, source)
    module.load_state_dict(weights, strict=True)


def check_fit(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Raise ``ModelError``, naming the missing, unexpected and differently shaped tensors, where ``weights`` are not
    those of ``module``."""
    state = module.state_dict()
    shapes = {
        name: f"{name} {tuple(weights[name].shape)} instead of {tuple(state[name].shape)}"
        for name in state
        if name in weights and weights[name].shape != state[name].shape
    }
    wrong = {
        "lacks": [name for name in state if name not in weights],
        "has unexpected": [name for name in weights if name not in state],
        "has shapes": list(shapes.values()),
    }
    if any(wrong.values()):
        parts = [f"{verb} {_some(names)}" for verb, names in wrong.items() if names]
        raise ModelError(
            f"{source} does not fit {type(module).__name__}: it {'; '.join(parts)}",
            "build the architecture that these weights were saved from",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def refuse_file(path: Path) -> ModelError:
    if path.suffix in (".pkl", ".pickle", ".joblib", ".dill", ".bin", ".ckpt"):
        return UnsafeModelFile(
            f"{path} is of a kind that can execute code when loaded ({path.suffix})",
            "convert it where you trust it: " + _conversion(path),
        )
    return ModelError(
        f"{path} holds no weights that can be read ({path.suffix or 'no suffix'})",
        "give a .safetensors, .pt or .pth file with a state dict",
    )


def _conversion(path: Path) -> str:
    return (
        f"model = torch.load({path.name!r}, weights_only=False); "
        f"safetensors.torch.save_file(model.state_dict(), {path.with_suffix('.safetensors').name!r})"
    )


def _unsafe(path: Path, why: str) -> UnsafeModelFile:
    return UnsafeModelFile(
        f"{path} {why}, which can execute code when loaded; it was not loaded",
        "if you trust where it comes from, convert it once: " + _conversion(path),
    )


def _read_safetensors(path: Path, size: int, start: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise UnreadableModelFile(f"{path} is truncated: its header is longer than the file", _DAMAGED)
    if length > MAX_HEADER_BYTES:
        raise UnreadableModelFile(
            f"{path} has a header of {length} bytes, more than {MAX_HEADER_BYTES}", _DAMAGED
        )
    try:
        return load_file(path, device="cpu")
    except Exception as error:  # safetensors has its own type for damage, and memory may run out
        problem = " ".join(str(error).split())[:200] or type(error).__name__
    raise UnreadableModelFile(f"{path} is malformed ({problem})", _DAMAGED)


def _read_torch(path: Path, size: int, start: bytes) -> dict[str, Tensor]:
    if start.startswith(b"PK"):
        _check_archive(path, size)
    elif tarfile.is_tarfile(path):
        raise _unsafe(path, "is an archive of the oldest PyTorch format")
    elif not start.startswith(b"\x80"):
        raise UnreadableModelFile(f"{path} is not a PyTorch file", _DAMAGED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols: the outcome says it all
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler meets hostile bytes: anything can come out of it
        text = str(error)
        found = re.search(r"(?:Unsupported global: GLOBAL|GLOBAL) ([\w.]+)", text)
        if found is None and ("weights_only" not in text.lower() or "eof" in text.lower()):
            short = " ".join(text.split())[:200] or type(error).__name__
            raise UnreadableModelFile(f"{path} is truncated or malformed ({short})", _DAMAGED) from None
        why = f"refers to {found.group(1)}" if found else "holds pickled objects"
        raise _unsafe(path, why) from None
    return _state_dict(content, path, size)


def _check_archive(path: Path, size: int) -> None:
    """Refuse archives that hold programs or unpack to more than they store."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        raise UnreadableModelFile(f"{path} is truncated or malformed (a damaged archive)", _DAMAGED) from None
    names = {member.filename.partition("/")[2] for member in members}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise UnsafeModelFile(
            f"{path} is a TorchScript program, not weights; it was not loaded",
            "if you trust it, convert it once: model = torch.jit.load("
            f"{path.name!r}); safetensors.torch.save_file(dict(model.state_dict()), "
            f"{path.with_suffix('.safetensors').name!r})",
        )
    unpacked = sum(member.file_size for member in members)
    if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise UnreadableModelFile(
            f"{path} unpacks to {unpacked} bytes from {size}; PyTorch never compresses weights", _DAMAGED
        )


def _state_dict(content: Any, path: Path, size: int) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in _NESTED:
            inner = content.get(key)
            if isinstance(inner, Mapping):
                content = inner
                break
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds {type(content).__name__}, no state dict", "save model.state_dict() instead"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path} holds {type(value).__name__} under {name!r}, no tensor",
                "save model.state_dict() alone, or under the key 'state_dict'",
            )
        if value.numel() * value.element_size() > max(size, 1 << 20):
            # A view with stride 0 claims any size from one stored number.
            raise UnreadableModelFile(
                f"{path}: tensor {name!r} claims {value.numel()} elements, more than the file holds", _DAMAGED
            )
    return dict(content)
