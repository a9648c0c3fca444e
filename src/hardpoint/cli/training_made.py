"""From a word in the settings to a recipe, or to a change of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardpoint.cli.defence_text import read_part
from hardpoint.cli.training_kinds import CHANGES, RECIPES
from hardpoint.core.errors import ConfigError
from hardpoint.core.suggest import did_you_mean
from hardpoint.harden import augment
from hardpoint.harden.names import DEFAULT
from hardpoint.harden.recipes import (
    Atta,
    Awp,
    FgsmRs,
    Free,
    Mart,
    Mixed,
    NFgsm,
    Noise,
    Pgd,
    Plain,
    Recipe,
    Trades,
)

_CLASSES: dict[str, Callable[..., Recipe]] = {
    c.__name__: c for c in (Plain, FgsmRs, NFgsm, Atta, Free, Pgd, Trades, Mart, Awp, Mixed, Noise)
}


def made_change(text: str) -> augment.Augmentation:
    """The change of a batch that ``text`` names; raises ``ConfigError`` where none is.

    >>> made_change("crop:pad=2")
    Crop(pad=2)
    """
    part = read_part(text, CHANGES, "change")
    made: augment.Augmentation = getattr(augment, part.kind.name)(**part.options)
    return made


def made_recipe(text: str) -> Recipe | str:
    """The recipe that ``text`` names, or ``"default"``; raises ``ConfigError`` where none is.

    >>> made_recipe("trades:beta=3")
    Trades(beta=3.0, steps=10, length=0.25)
    """
    part = read_part(text, RECIPES, "recipe")
    if part.word == DEFAULT:
        return DEFAULT
    options: dict[str, Any] = dict(part.options)
    if "inner" in part.kind.known:
        options["inner"] = _inner(str(options.get("inner", "pgd")))
    if part.word == "noise" and "sigma" not in options:
        raise ConfigError(f"recipe {text!r} does not say how much", "write noise:sigma=0.25")
    made: Recipe = _CLASSES[part.kind.name](**options)
    return made


def _inner(name: str) -> Recipe:
    """A recipe inside another, by its name alone."""
    simple = [
        key for key, kind in RECIPES.items() if key not in (DEFAULT, "noise") and "inner" not in kind.known
    ]
    if name not in simple:
        raise ConfigError(f"recipe {name!r} cannot stand inside another", did_you_mean(name, simple))
    made: Recipe = _CLASSES[RECIPES[name].name]()
    return made
