"""Helping with a word that is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 12


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The cure for an unknown word: the nearest known one, and the first dozen of the list.

    >>> did_you_mean("moed", ["mode", "seed"])
    "did you mean 'mode'? known: mode, seed"
    """
    words = list(known)
    near = get_close_matches(word, words, n=1)
    listed = ", ".join(words[:_LISTED]) + (", …" if len(words) > _LISTED else "")
    return f"did you mean {near[0]!r}? known: {listed}" if near else f"use one of: {listed}"
