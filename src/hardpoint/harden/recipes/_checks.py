"""Refusing settings that make no sense."""

from __future__ import annotations

import math

from hardpoint.core.errors import ConfigError


def positive(value: float, word: str) -> None:
    """Raise ``ConfigError`` for anything but a finite number above 0."""
    if not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ConfigError(f"{word} is {value!r}", "give a finite number above 0")


def at_least(least: float, value: float, word: str) -> None:
    """Raise ``ConfigError`` for anything but a finite number of ``least`` or more."""
    if not (isinstance(value, int | float) and least <= value < math.inf):
        raise ConfigError(f"{word} is {value!r}", f"give a finite number of {least:g} or more")


def count(value: int, word: str) -> None:
    """Raise ``ConfigError`` for anything but a whole number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{word} is {value!r}", "give a whole number of 1 or more")


def share(value: float, word: str) -> None:
    """Raise ``ConfigError`` for anything but a number between 0 and 1."""
    if not (isinstance(value, int | float) and 0 <= value <= 1):
        raise ConfigError(f"{word} is {value!r}", "give a number between 0 and 1")
