"""Stages and detectors in one word, for the file, variables and options.

::

    KIND[:OPTION=VALUE ...]

    bit-depth:bits=3    median:size=2    mahalanobis:layer=features.3    layer-disagreement:layers=0+3

Which kinds there are, and the options of each: ``defence_kinds``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardpoint.cli.defence_kinds import Kind, path
from hardpoint.core.errors import ConfigError
from hardpoint.core.suggest import did_you_mean


@dataclass(frozen=True)
class Part:
    """One stage or detector as it was written.

    Attributes:
        text: as it was written.
        word: of its kind.
        kind: what that is.
        options: those given.
    """

    text: str
    word: str
    kind: Kind
    options: Mapping[str, Any]


def read_part(text: str, kinds: Mapping[str, Kind], what: str) -> Part:
    """What ``text`` stands for among ``kinds``; ``what``, as in "stage", says in errors what was read.

    Raises:
        ConfigError: naming the part that cannot be read.

    >>> from hardpoint.cli.defence_kinds import STAGES
    >>> dict(read_part("bit-depth:bits=3", STAGES, "stage").options)
    {'bits': 3}
    """
    head, *tail = text.strip().split(":")
    name = head.lower()
    if name not in kinds:
        raise ConfigError(f"{what} {text!r}: kind {head!r} is unknown", did_you_mean(name, kinds))
    kind, found = kinds[name], dict[str, Any]()
    while tail:
        option = tail.pop(0)
        key, equals, value = option.partition("=")
        if kind.known.get(key) is path:
            value, tail = ":".join([value, *tail]), []
        if key not in kind.known:
            cure = did_you_mean(key, kind.known) if kind.known else f"write {name} alone"
            raise ConfigError(f"{what} {text!r}: option {key!r} is unknown", cure)
        if key in found:
            raise ConfigError(f"{what} {text!r} says {key} twice", "say it once")
        if not equals or not value:
            raise ConfigError(f"{what} {text!r}: {key} has no value", f"write {name}:{key}=VALUE")
        try:
            found[key] = kind.known[key](value)
        except (ValueError, KeyError, ZeroDivisionError):
            kinds_of = kind.known[key].__doc__ or ""
            cure = f"give {kinds_of[0].lower()}{kinds_of[1:].splitlines()[0].rstrip('.')}"
            raise ConfigError(f"{what} {text!r}: {key} is {value!r}", cure) from None
    return Part(text, name, kind, found)


def seen_from(folder: Path, text: str) -> str:
    """A stage as it was written in a file in ``folder``, with the path that it names, if it does.

    >>> seen_from(Path("conf"), "denoiser:file=run/denoiser.safetensors"), seen_from(Path("conf"), "median:size=2")
    ('denoiser:file=conf/run/denoiser.safetensors', 'median:size=2')
    """
    stage, named, file = text.partition(":file=")
    return f"{stage}{named}{(folder / file).as_posix()}" if named else text
