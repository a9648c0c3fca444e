"""What options say, as a layer of settings."""

from __future__ import annotations

from collections.abc import Sequence

from hardpoint.cli.layers import Entry, Layer
from hardpoint.cli.threat_text import read_threat


def said_values(*options: tuple[str, str, str | None]) -> Layer:
    """A layer from (option, ``section.key``, value) where a value was given.

    >>> said_values(("--mode", "run.mode", "fast"), ("--seed", "run.seed", None))
    {'run.mode': Entry(value='fast', origin='--mode')}
    """
    return {key: Entry(value, option) for option, key, value in options if value is not None}


def said_threats(texts: Sequence[str]) -> Layer:
    """The threats given as options, which replace all others."""
    return {"threats": Entry([read_threat(text) for text in texts], "--threat")} if texts else {}
