"""Where training stands, on disk: tensors and JSON in one file, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hardpoint.core.errors import RunError
from hardpoint.evidence.store import write_atomically

_FORMAT = "hardpoint training 1"


@dataclass(frozen=True)
class Checkpoint:
    """What goes on from here needs nothing else.

    Attributes:
        tensors: by name, the part that owns each before the first slash.
        facts: all else, JSON-ready.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the file; raises ``RunError`` where it cannot be written."""
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        told = {"format": _FORMAT, "facts": json.dumps(dict(self.facts))}
        write_atomically(path, save(_unshared(held), metadata=told))

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read the file; nothing in it is executed. Raises ``RunError`` for any other file."""
        try:
            content = path.read_bytes()
            size = int.from_bytes(content[:8], "little")
            told = json.loads(content[8 : 8 + size]).get("__metadata__", {})
            if told.get("format") != _FORMAT:
                raise RunError(f"{path} is no checkpoint of this version", "train anew in an empty folder")
            return cls(load(content), json.loads(told["facts"]))
        except (OSError, ValueError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
            raise RunError(f"cannot read {path}: {error}", "train anew in an empty folder") from None

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, by their own names."""
        start = f"{name}/"
        return {key[len(start) :]: value for key, value in self.tensors.items() if key.startswith(start)}


def under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` as the part ``name``."""
    return {f"{name}/{key}": value for key, value in tensors.items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers, by weight and kind."""
    return {
        f"{weight}/{kind}": torch.as_tensor(value)
        for weight, held in optimiser.state_dict()["state"].items()
        for kind, value in held.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser what ``optimiser_tensors`` told of another over the same weights."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        weight, _, kind = key.partition("/")
        state.setdefault(int(weight), {})[kind] = value.clone()
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory, as tied weights do, each with its own."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return out
