"""What options say, as a layer of settings."""

from __future__ import annotations

from collections.abc import Sequence

from hardpoint.cli.layers import Entry, Layer
from hardpoint.cli.threat_text import read_threat

_SECTIONS = {
    "model": ("weights", "input_range", "access"),
    "data": ("label", "limit", "sample"),
    "run": ("mode", "seed", "workers", "batch_size", "passes", "queries", "seconds", "surrogates"),
    "harden": (
        "train",
        "recipe",
        "teacher",
        "teacher_weights",
        "epochs",
        "lr",
        "optimiser",
        "augment",
        "devices",
    ),
    "search": ("trials",),
    "certify": ("method", "soundness", "seconds_per_input"),
    "defence": ("benign", "detectors"),
}
_KEYS = {name: f"{section}.{name}" for section, names in _SECTIONS.items() for name in names} | {
    "model": "model.load",
    "data": "data.load",
    "gate": "gate.robust_accuracy",
}
"""Where each option's value belongs."""


def said_values(section: str | None = None, /, **options: str | None) -> Layer:
    """A layer of what was given for options, by their names with ``_`` for ``-``; arguments are in capitals.

    Args:
        section: where they belong, if not where the like of them do.

    >>> said_values(batch_size="64", seed=None)
    {'run.batch_size': Entry(value='64', origin='--batch-size')}
    """
    return {
        f"{section}.{name}" if section else _KEYS[name.lower()]: Entry(value, _origin(name))
        for name, value in options.items()
        if value is not None
    }


def _origin(name: str) -> str:
    return name if name.isupper() else f"--{name.replace('_', '-')}"


def said_threats(texts: Sequence[str]) -> Layer:
    """The threats given as options, which replace all others."""
    return {"threats": Entry([read_threat(text) for text in texts], "--threat")} if texts else {}
