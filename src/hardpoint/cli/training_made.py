"""From a word in the settings to a recipe, or to a change of a batch."""

from __future__ import annotations

from hardpoint.cli.defence_kinds import Kind, Reader, flag, number, whole, word
from hardpoint.cli.defence_text import Part, read_part
from hardpoint.cli.training_kinds import CHANGES
from hardpoint.harden import augment
from hardpoint.harden.names import DEFAULT, NAMED, recipe_named
from hardpoint.harden.recipes import Recipe

_READERS: dict[type, Reader] = {int: whole, float: number, bool: flag, str: word}


def made_change(text: str) -> augment.Augmentation:
    """The change of a batch that ``text`` names; raises ``ConfigError`` where none is.

    >>> made_change("crop:pad=2")
    Crop(pad=2)
    """
    part = read_part(text, CHANGES, "change")
    made: augment.Augmentation = getattr(augment, part.kind.name)(**part.options)
    return made


def read_recipe(text: str) -> Part:
    """What ``text`` says of a recipe and its options; raises ``ConfigError`` where there is none such.

    >>> dict(read_recipe("grad_align:weight=0.5:inner=n_fgsm").options)
    {'weight': 0.5, 'inner': 'n_fgsm'}
    """
    kinds = {DEFAULT: Kind(DEFAULT)}
    for name, named in NAMED.items():
        kinds[name] = Kind(name, {key: _READERS[kind] for key, kind in named.options().items()})
    return read_part(text, kinds, "recipe")


def made_recipe(text: str) -> Recipe | str:
    """The recipe that ``text`` names, or ``"default"``; raises ``ConfigError`` where none is.

    >>> made_recipe("trades:beta=3")
    Trades(beta=3.0, steps=10, length=0.25)
    """
    part = read_recipe(text)
    return DEFAULT if part.word == DEFAULT else recipe_named(part.word, part.options)
