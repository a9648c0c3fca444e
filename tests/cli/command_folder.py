"""Small models and data that commands are run on, and what a command answers. (PYTEST_DONT_REWRITE)"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardpoint.cli.main import main

ZOO = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
            self.layer.bias.zero_()

    def forward(self, x):
        return self.layer(x)

def net():
    return Net()

def labels_only():
    from hardpoint.models import TorchModel
    return TorchModel(Net().eval(), access="labels")

def wide():
    from hardpoint.models import TorchModel
    return TorchModel(Net().eval(), input_range=(-1, 1))

def training():
    from hardpoint.models import TorchModel
    return TorchModel(nn.Sequential(nn.BatchNorm1d(4), Net()).train())

def overflows():
    class Bad(Net):
        def forward(self, x):
            return super().forward(x) / 0
    return Bad()

def leaves():
    raise SystemExit(0)

def interrupts():
    raise KeyboardInterrupt

def digits():
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    x, y = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=200).fit(x[:600] / 16, y[:600])
"""


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Run = Callable[..., Said]


def write_data(path: Path, n: int = 240) -> None:
    """Rows in [0, 1] with the label the net gives them, a tenth of them wrong."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 4, generator=generator)
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    y = (x @ weight.T).argmax(1)
    y[::10] = (y[::10] + 1) % 3
    np.savez(path, x=x.numpy(), y=y.numpy())


BASIC = ("assess", "--model", "zoo:net", "--data", "data.npz", "--threat", "linf:0.05@scores:50q")
"""An assessment that takes a moment."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with ``zoo.py`` and ``data.npz``."""
    (tmp_path / "zoo.py").write_text(ZOO)
    write_data(tmp_path / "data.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("HARDPOINT_DEBUG", raising=False)
    yield tmp_path
    sys.modules.pop("zoo", None)


@pytest.fixture
def hardpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command here: ``hardpoint("assess", "--gate", "0.5")``."""

    def run(*words: str) -> Said:
        capsys.readouterr()
        code = main(list(words))
        told = capsys.readouterr()
        return Said(code, told.out, told.err)

    return run
