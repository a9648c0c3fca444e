"""Where settings come from: the command line before the environment before the file before the defaults."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from hardpoint.cli.config import (
    PATH_LISTS,
    PATHS,
    SECTIONS,
    Settings,
    Table,
    ThreatSettings,
    keys_of,
    read_words,
)
from hardpoint.cli.defence_text import seen_from
from hardpoint.cli.threat_text import read_threat
from hardpoint.core.errors import ConfigError
from hardpoint.core.suggest import did_you_mean

FILE = Path("hardpoint.toml")
PROJECT = Path("pyproject.toml")
_PREFIX = "HARDPOINT_"
# package.module:factory is no path; FILE.py:factory is one
_NO_PATH = re.compile(
    r"[a-z][a-z0-9+.-]*://.*|sklearn:.*|(?!.*\.py:)[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*"
)


class Entry(NamedTuple):
    """A value and who said it."""

    value: Any
    origin: str


Layer = dict[str, Entry]
"""``section.key`` (or ``threats``) to what was said about it."""


@dataclass(frozen=True)
class Resolved:
    """All settings, where each came from, and the file among the sources.

    Attributes:
        settings: checked.
        origins: ``section.key`` to a file, a variable, an option or ``default``.
        file: the configuration file, where there is one.
    """

    settings: Settings
    origins: dict[str, str]
    file: Path | None

    @property
    def base(self) -> Path:
        """The folder that the file's paths are relative to."""
        return self.file.parent if self.file is not None else Path()


def resolve(said: Layer, file: Path | None, environ: Mapping[str, str]) -> Resolved:
    """The settings that follow from the command line, the environment and the file.

    Args:
        said: what the command line says.
        file: the configuration file; ``hardpoint.toml`` or ``pyproject.toml`` of this folder by default.
        environ: variables named ``HARDPOINT_SECTION_KEY`` count.

    Raises:
        ConfigError: naming file and key, variable or option, and what to write instead.
    """
    found = file if file is not None else find_file()
    layer: Layer = {}
    for part in (_from_file(found) if found is not None else {}, _from_environment(environ), said):
        layer |= part
    return Resolved(_checked(layer), _origins(layer), found)


def resolve_models(path: Path, said: Layer) -> list[Resolved]:
    """The settings for each of the ``[[models]]`` in a benchmark file, which else is like any other.

    Args:
        path: the file.
        said: what the command line says.

    Raises:
        ConfigError: naming file and key, and what to write instead.
    """
    values, where = _read(path), str(path)
    models = values.pop("models", None)
    if not isinstance(models, list) or not models or not all(isinstance(m, dict) for m in models):
        raise ConfigError(
            f"{where} has no [[models]]", "write one [[models]] table per model, with load and name"
        )
    if "model" in values:
        raise ConfigError(f"{where} has both [model] and [[models]]", "keep [[models]]")
    names = [str(m.get("name") or m.get("load")) for m in models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: two models are called {name!r}", "give each its own name")
    layers = [_layer({**values, "model": m}, where, path.parent) | said for m in models]
    return [Resolved(_checked(layer), _origins(layer), path) for layer in layers]


def resolved_alone(layer: Layer) -> Resolved:
    """The settings that ``layer`` alone gives."""
    return Resolved(_checked(layer), _origins(layer), None)


def find_file() -> Path | None:
    """The configuration file of the working folder."""
    if FILE.is_file():
        return FILE
    if PROJECT.is_file() and "hardpoint" in _table(_read(PROJECT), "tool", PROJECT):
        return PROJECT
    return None


# --- the sources ------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", "write one with: hardpoint init") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "give a readable TOML file") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "correct that line") from None


def _table(values: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {key} is not a table", f"write [{key}] and its keys below it")
    return table


def _from_file(path: Path) -> Layer:
    values, where = _read(path), str(path)
    if path.name == PROJECT.name:
        tools = _table(values, "tool", path)
        if "hardpoint" not in tools:
            raise ConfigError(f"{path} has no [tool.hardpoint]", "add it, or give another file")
        values, where = _table(tools, "hardpoint", path), f"{path} [tool.hardpoint]"
    return _layer(values, where, path.parent)


def _layer(values: dict[str, Any], where: str, folder: Path) -> Layer:
    """What a file's tables say; ``folder`` is what its paths are relative to."""
    layer: Layer = {}
    _refuse_unknown(where, "it", values, [*SECTIONS, "threats"])
    for section, table in SECTIONS.items():
        entries = _table(values, section, Path(where))
        _refuse_unknown(where, f"[{section}]", entries, keys_of(table))
        for key, value in entries.items():
            layer[f"{section}.{key}"] = Entry(value, where)
    if "threats" in values:
        layer["threats"] = Entry(_threat_tables(values["threats"], where), where)
    return _beside(layer, folder)


def _threat_tables(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(v, dict | str) for v in value):
        raise ConfigError(f"{where}: threats is no list of tables", "write one [[threats]] table per threat")
    tables = [read_threat(v) if isinstance(v, str) else v for v in value]
    for number, table in enumerate(tables):
        _refuse_unknown(where, f"threats[{number}]", table, keys_of(ThreatSettings))
    return tables


def _from_environment(environ: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for name, text in sorted(environ.items()):
        section, _, key = name.removeprefix(_PREFIX).lower().partition("_")
        if not name.startswith(_PREFIX):
            continue
        if (section, key) == ("threats", ""):
            layer["threats"] = Entry([read_threat(word) for word in text.split()], name)
        elif section in SECTIONS and key:
            _refuse_unknown(name, f"[{section}]", {key: text}, keys_of(SECTIONS[section]))
            layer[f"{section}.{key}"] = Entry(_value(name, text), name)
    return layer


def _value(name: str, text: str) -> Any:
    """Lists and tables are written as in the file; all else is taken as it stands."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{name} is no TOML value: {error}", 'write it as in the file: ["a", "b"]'
        ) from None


def _refuse_unknown(where: str, what: str, entries: Mapping[str, Any], known: list[str]) -> None:
    for key in entries:
        if key not in known:
            raise ConfigError(f"{where}: {what} has an unknown key {key!r}", did_you_mean(key, known))


def _beside(layer: Layer, folder: Path) -> Layer:
    """The layer with its paths seen from the working folder."""
    if folder == Path():
        return layer
    moved = dict(layer)
    for key in PATHS:
        if key in layer and isinstance(layer[key].value, str):
            moved[key] = Entry(_from(folder, layer[key].value), layer[key].origin)
    for key in PATH_LISTS:
        value = layer[key].value if key in layer else None
        if isinstance(value, str | list):  # anything else is refused where settings are checked
            words = [_from(folder, word) if isinstance(word, str) else word for word in read_words(value)]
            moved[key] = Entry(words, layer[key].origin)
    if "defence.stages" in layer and isinstance(layer["defence.stages"].value, str | list):
        stages = [
            seen_from(folder, word) if isinstance(word, str) else word
            for word in read_words(layer["defence.stages"].value)
        ]
        moved["defence.stages"] = Entry(stages, layer["defence.stages"].origin)
    if "threats" in layer:
        threats = [
            {**t, "schema": str(folder / t["schema"])} if isinstance(t.get("schema"), str) else t
            for t in layer["threats"].value
        ]
        moved["threats"] = Entry(threats, layer["threats"].origin)
    return moved


def _from(folder: Path, text: str) -> str:
    return text if _NO_PATH.fullmatch(text) else str(folder / text)


# --- the check ---------------------------------------------------------------------------------------------------


def _checked(layer: Layer) -> Settings:
    values: dict[str, Any] = {}
    for name, entry in layer.items():
        section, _, key = name.partition(".")
        if key:
            values.setdefault(section, {})[key] = entry.value
        else:
            values[section] = entry.value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
    raise _explained(first["loc"], first["msg"], first.get("input"), layer)


def _explained(where: tuple[int | str, ...], message: str, value: Any, layer: Layer) -> ConfigError:
    """What pydantic found, with the origin and the key as the user wrote it."""
    if where[0] == "threats":
        entry, key = (
            layer["threats"],
            "threats" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where[1:]),
        )
    else:
        key = ".".join(str(part) for part in where[:2])
        entry = layer[key]
        value = entry.value
    shown = f" = {value!r}" if not isinstance(value, dict) else ""
    cure = (
        message.replace("Value error, ", "give ")
        .replace("Input should be", "give")
        .replace("a valid tuple", "a list")
    )
    cure = cure[0].lower() + cure[1:]
    return ConfigError(f"{entry.origin}: {key}{shown}"[:200], cure)


def _origins(layer: Layer) -> dict[str, str]:
    keys = [f"{section}.{key}" for section, table in SECTIONS.items() for key in keys_of(table)]
    return {key: layer[key].origin if key in layer else "default" for key in [*keys, "threats"]}


def flat(settings: Settings) -> dict[str, Any]:
    """``section.key`` (and ``threats``) to value, as written in a file.

    >>> flat(Settings())["run.mode"]
    'fast'
    """
    values = settings.model_dump(mode="json", by_alias=True)
    out: dict[str, Any] = {}
    for section in SECTIONS:
        table: Table = getattr(settings, section)
        out |= {f"{section}.{key}": values[section][key] for key in keys_of(type(table))}
    out["threats"] = [{k: v for k, v in t.items() if v is not None} for t in values["threats"]]
    return out
