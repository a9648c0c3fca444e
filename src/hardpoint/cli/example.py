"""A model to try the command line with, where there is none yet."""

from __future__ import annotations

from torch import nn

from hardpoint.cli.demo.digits import trained_digits_network


def digits() -> nn.Module:
    """A small network for the rows of ``sklearn:digits``: ``[n, 64]`` in [0, 1] to ten scores."""
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), trained_digits_network("plain"))
