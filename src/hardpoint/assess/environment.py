"""What a run ran on, so that it can be run again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

import torch

from hardpoint import __version__

_NAMED = ("torch", "numpy", "scipy", "scikit-learn", "onnx", "onnxruntime")


def describe_environment() -> dict[str, Any]:
    """JSON-ready: versions, processor, cores, threads; nothing that names a user or a host."""
    versions = {}
    for name in _NAMED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "hardpoint": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": versions,
    }
