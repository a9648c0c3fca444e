"""Schemas as files.

TOML, everything a schema can say; unknown keys are errors::

    relations = ["dots <= length", "at > 0 implies dots > 0"]

    [[feature]]
    name = "length"
    kind = "integer"        # real, integer, binary, one_hot, ordinal; default real
    low = 1                 # a number, or "dynamic": the row's own value
    high = 1641
    mutable = "increase"    # yes, no, increase, decrease; default yes
    cost = 2.0              # of crossing the whole range; default 1
    # group = "colour" for one_hot, levels = [1, 2, 5] for ordinal

CSV, the columns ``feature,type,mutable,min,max`` that the literature on constrained attacks uses, and optionally
``cost``, ``group`` and ``levels`` (separated by spaces). Types ``int`` and ``real``, the kinds above, and ``ohe`` with
a number, the one-hot groups of that format. A CSV file has no place for relations.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardpoint.core.errors import ConfigError, HardpointError
from hardpoint.core.suggest import did_you_mean
from hardpoint.threats.features.feature import DYNAMIC, Bound, Feature, Kind, Mutability
from hardpoint.threats.features.relations import Relation
from hardpoint.threats.features.schema import Schema

_FEATURE_KEYS = ("name", "kind", "low", "high", "mutable", "cost", "group", "levels")
_TOP_KEYS = ("feature", "relations")
_CSV_NEEDED = ("feature", "type", "mutable", "min", "max")
_CSV_COLUMNS = (*_CSV_NEEDED, "cost", "group", "levels")
_TYPES = {"int": Kind.INTEGER, "integer": Kind.INTEGER, "real": Kind.REAL, "float": Kind.REAL} | {
    kind.value: kind for kind in Kind
}
_MUTABLE = {"true": Mutability.YES, "false": Mutability.NO} | {word.value: word for word in Mutability}


def read_schema(path: Path, relations: Sequence[Relation | str] = ()) -> Schema:
    """The schema in a file, with ``relations`` added; see ``Schema.load``."""
    if path.suffix.lower() not in (".toml", ".csv"):
        raise ConfigError(
            f"the schema {path} is neither .toml nor .csv", "give a file of one of these formats"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the schema {path} cannot be read: {error}", "give a readable UTF-8 file"
        ) from error
    try:
        schema = _parse_toml(text) if path.suffix.lower() == ".toml" else _parse_csv(text)
        return schema.with_relations(*relations) if relations else schema
    except HardpointError as error:
        raise ConfigError(f"the schema {path}: {error.what}", error.cure) from error


def _parse_toml(text: str) -> Schema:
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"it is not valid TOML: {error}", "correct the line it names") from error
    _known_keys("the top level", table, _TOP_KEYS)
    features, relations = table.get("feature", []), table.get("relations", [])
    if not isinstance(features, list) or not all(isinstance(entry, dict) for entry in features):
        raise ConfigError("'feature' is not a list of tables", "write one [[feature]] table per column")
    if not isinstance(relations, list) or not all(isinstance(entry, str) for entry in relations):
        raise ConfigError("'relations' is not a list of texts", 'write relations = ["a <= b"]')
    return Schema([_toml_feature(number, entry) for number, entry in enumerate(features, 1)], relations)


def _known_keys(where: str, table: dict[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{where} has an unknown key {key!r}", did_you_mean(key, known))


def _toml_feature(number: int, entry: dict[str, Any]) -> Feature:
    who = f"feature {entry['name']!r}" if isinstance(entry.get("name"), str) else f"feature number {number}"
    _known_keys(who, entry, _FEATURE_KEYS)
    for key in ("name", "kind", "group"):
        if key in entry and not isinstance(entry[key], str):
            raise ConfigError(f"{who}: {key} is {entry[key]!r}", "give a text in quotes")
    if "name" not in entry:
        raise ConfigError(f"{who} has no name", "give each feature the name of its column")
    for key in ("low", "high", "cost"):
        if key in entry and entry[key] != DYNAMIC and not _is_number(entry[key]):
            raise ConfigError(f"{who}: {key} is {entry[key]!r}", "give a number, or 'dynamic' for a bound")
    levels = entry.get("levels", [])
    if not isinstance(levels, list) or not all(map(_is_number, levels)):
        raise ConfigError(f"{who}: levels is {levels!r}", "list numbers, from low to high")
    kind = _word(who, "kind", entry.get("kind", "real"), {kind.value: kind for kind in Kind})
    if kind in (Kind.REAL, Kind.INTEGER):
        _needs_bounds(who, "low" in entry and "high" in entry)
    given = {key: entry[key] for key in ("low", "high", "cost", "group") if key in entry}
    mutable = _word(who, "mutable", entry.get("mutable", "yes"), _MUTABLE)
    return Feature(entry["name"], kind, mutable=mutable, levels=tuple(levels), **given)


def _needs_bounds(who: str, given: bool) -> None:
    if not given:
        raise ConfigError(f"{who} has no bounds", "give low and high, or propose them with Schema.learn")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _word(who: str, key: str, value: object, known: dict[str, Any]) -> Any:
    word = str(value).strip().lower()
    if word not in known:
        raise ConfigError(f"{who}: {key} is {value!r}", did_you_mean(word, list(known)))
    return known[word]


def _parse_csv(text: str) -> Schema:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise ConfigError(
            f"it is not valid CSV: {error}", "quote texts that hold commas or quotes"
        ) from error
    header = [column.strip() for column in lines[0]] if lines else []
    _known_keys("the header", dict.fromkeys(header), _CSV_COLUMNS)
    missing = [column for column in _CSV_NEEDED if column not in header]
    if missing:
        raise ConfigError(f"it has no column {missing[0]!r}", f"give the columns {','.join(_CSV_NEEDED)}")
    features = []
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise ConfigError(
                f"line {number} has {len(line)} fields, the header {len(header)}",
                "give every field, empty or not",
            )
        features.append(_csv_feature(dict(zip(header, line, strict=True))))
    return Schema(features)


def _csv_feature(line: dict[str, str]) -> Feature:
    name = line["feature"]
    who = f"feature {name!r}"
    kind_word, group = line["type"].strip().lower(), line.get("group") or None
    if re.fullmatch(r"ohe\d*", kind_word):
        kind, group = Kind.ONE_HOT, kind_word
    else:
        kind = _word(who, "type", kind_word, _TYPES)
    mutable = _word(who, "mutable", line["mutable"], _MUTABLE)
    levels = tuple(_number(who, "levels", level) for level in line.get("levels", "").split())
    cost = _number(who, "cost", line["cost"]) if line.get("cost") else 1.0
    low, high = (_bound(who, end, line[end]) for end in ("min", "max"))
    return Feature(name, kind, low, high, mutable, cost, group, levels)


def _bound(who: str, key: str, value: str) -> Bound:
    return DYNAMIC if value.strip() == DYNAMIC else _number(who, key, value)


def _number(who: str, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{who}: {key} is {value!r}", "give a number, or 'dynamic' for a bound") from None


def write_schema(schema: Schema, path: Path) -> None:
    """Writes a schema; see ``Schema.save``."""
    suffix = path.suffix.lower()
    if suffix == ".csv" and schema.relations:
        raise ConfigError("a CSV schema has no place for relations", "save the schema as .toml")
    if suffix not in (".toml", ".csv"):
        raise ConfigError(f"the schema {path} is neither .toml nor .csv", "save it in one of these formats")
    if suffix == ".toml":
        path.write_text(_toml_text(schema), encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_CSV_COLUMNS)
        for f in schema.features:
            ends = [end if isinstance(end, str) else repr(end) for end in (f.low, f.high)]
            levels = " ".join(map(repr, f.levels))
            writer.writerow(
                [f.name, f.kind.value, f.mutable.value, *ends, repr(f.cost), f.group or "", levels]
            )


def _toml_text(schema: Schema) -> str:
    lines = []
    if schema.relations:
        lines += ["relations = [", *(f"  {_toml_value(r.text)}," for r in schema.relations), "]", ""]
    for feature in schema.features:
        lines += ["[[feature]]", *(f"{k} = {_toml_value(v)}" for k, v in feature.describe().items()), ""]
    return "\n".join(lines)


def _toml_value(value: str | float | list[float]) -> str:
    if isinstance(value, str):
        # JSON escapes what TOML asks to escape, all but DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
