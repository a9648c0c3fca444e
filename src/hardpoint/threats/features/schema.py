"""What a valid row of a table is: features with kinds and bounds, and relations between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import DataError, ThreatError
from hardpoint.core.suggest import did_you_mean
from hardpoint.threats.features.feature import DYNAMIC, Feature, Kind, Mutability
from hardpoint.threats.features.relations import Relation, Rows


@dataclass(frozen=True, repr=False)
class Schema:
    """The features of a table, in the order of its columns, and the relations every valid row satisfies.

    Args:
        features: one ``Feature`` per column.
        relations: ``Relation`` objects or their text.

    Raises:
        ThreatError: for duplicate names, half-mutable one-hot groups, relations on unknown features.

    >>> dots = Feature("dots", Kind.INTEGER, 0, 9)
    >>> schema = Schema([dots, Feature("length", Kind.INTEGER, 1, 99)], ["dots <= length"])
    >>> schema.check(torch.tensor([[2.0, 5.0], [2.5, 5.0], [6.0, 5.0]]))
    tensor([ True, False, False])
    """

    features: tuple[Feature, ...]
    relations: tuple[Relation, ...] = ()

    def __repr__(self) -> str:
        return f"<Schema of {len(self.features)} features, {len(self.relations)} relations>"

    def __init__(self, features: Sequence[Feature], relations: Sequence[Relation | str] = ()) -> None:
        parsed = tuple(r if isinstance(r, Relation) else Relation(r) for r in relations)
        object.__setattr__(self, "features", tuple(features))
        object.__setattr__(self, "relations", parsed)
        self._check_features()
        for relation in parsed:
            for name in relation.features:
                if name not in self._index:
                    raise ThreatError(
                        f"relation '{relation}' names an unknown feature {name!r}",
                        did_you_mean(name, self.names),
                    )

    def _check_features(self) -> None:
        if not self.features:
            raise ThreatError("the schema has no features", "give one feature per column")
        seen: set[str] = set()
        for feature in self.features:
            if feature.name in seen:
                raise ThreatError(
                    f"the feature {feature.name!r} appears twice", "give each column its own name"
                )
            seen.add(feature.name)
        for group, columns in self.groups.items():
            if len(columns) < 2:
                raise ThreatError(f"the one-hot group {group!r} has one member", "make it a binary feature")
            if len({self.features[column].mutable for column in columns}) > 1:
                raise ThreatError(
                    f"the one-hot group {group!r} is mutable in part",
                    "make all its members 'yes' or all 'no'",
                )

    # -- reading and writing

    @classmethod
    def load(cls, path: str | Path, relations: Sequence[Relation | str] = ()) -> Schema:
        """The schema in a ``.toml`` or ``.csv`` file; formats in ``hardpoint.threats.features.files``.

        Args:
            path: the file.
            relations: further relations, for example those a CSV file has no place for.

        Raises:
            ConfigError: for a file that cannot be read, an unknown key or a value of the wrong kind.
        """
        from hardpoint.threats.features.files import read_schema

        return read_schema(Path(path), relations)

    def save(self, path: str | Path) -> None:
        """Writes the schema as ``.toml`` or (without relations) ``.csv``; ``load`` gives it back."""
        from hardpoint.threats.features.files import write_schema

        write_schema(self, Path(path))

    @classmethod
    def learn(cls, x: Tensor, names: Sequence[str]) -> Schema:
        """A proposal for the schema of the rows ``x`` ``[n, d]``, to be read and corrected by a person."""
        from hardpoint.threats.features.learn import propose_schema

        return propose_schema(x, names)

    # -- looking things up

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features' names, in the order of the columns."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {feature.name: column for column, feature in enumerate(self.features)}

    def index(self, name: str) -> int:
        """The column of a feature; raises ``ThreatError`` for an unknown name."""
        if name not in self._index:
            raise ThreatError(f"there is no feature {name!r}", did_you_mean(name, self.names))
        return self._index[name]

    @cached_property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """The columns of each one-hot group."""
        found: dict[str, list[int]] = {}
        for column, feature in enumerate(self.features):
            if feature.group is not None:
                found.setdefault(feature.group, []).append(column)
        return {group: tuple(columns) for group, columns in found.items()}

    def mask(self, *kinds: Kind) -> Tensor:
        """Bool ``[d]``: the columns of these kinds."""
        return torch.tensor([feature.kind in kinds for feature in self.features])

    @cached_property
    def uses(self) -> Tensor:
        """float64 ``[relations, d]``: 1 where the relation looks at the feature or at its one-hot group."""
        table = torch.zeros(len(self.relations), len(self.features), dtype=torch.float64)
        for row, relation in zip(table, self.relations, strict=True):
            for name in relation.features:
                group = self.features[self._index[name]].group
                row[list(self.groups[group]) if group is not None else [self._index[name]]] = 1.0
        return table

    def with_relations(self, *relations: Relation | str) -> Schema:
        """The same features with further relations."""
        return Schema(self.features, [*self.relations, *relations])

    # -- rows

    def rows(self, x: Tensor) -> Rows:
        """``x`` ``[n, d]`` in float64 with named columns; raises ``DataError`` for another shape."""
        if x.dim() != 2 or x.shape[1] != len(self.features):
            raise DataError(
                f"the rows have shape {list(x.shape)}, the schema {len(self.features)} features",
                "give one row of feature values per input, columns in the order of the schema",
            )
        return Rows(x.double(), self._index)

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float64 ``(low, high)`` ``[n, d]``: the bounds of each row, its own value where they are dynamic.

        A bound includes the float32 nearest to it, so that a value at the bound stays inside when it is stored.
        """
        own = self.rows(x).values
        ends = []
        for bounds, outer in (
            ([f.low for f in self.features], torch.minimum),
            ([f.high for f in self.features], torch.maximum),
        ):
            fixed = torch.tensor(
                [torch.nan if b == DYNAMIC else float(b) for b in bounds], dtype=torch.float64
            )
            fixed = outer(fixed, fixed.float().double()).to(x.device)
            ends.append(torch.where(fixed.isnan(), own, fixed))
        return ends[0], ends[1]

    def freedom(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float64 ``(low, high)`` ``[n, d]``: where an attacker who starts at ``x`` can move each value."""
        low, high = self.limits(x)
        own = self.rows(x).values
        rises = torch.tensor([f.mutable in (Mutability.YES, Mutability.INCREASE) for f in self.features])
        falls = torch.tensor([f.mutable in (Mutability.YES, Mutability.DECREASE) for f in self.features])
        return torch.where(falls.to(x.device), low, own), torch.where(rises.to(x.device), high, own)

    def faults(self, x: Tensor) -> dict[str, Tensor]:
        """What is wrong with which rows: bool ``[n]`` per feature, one-hot group and relation that can be broken."""
        rows = self.rows(x)
        low, high = self.limits(x)
        values = rows.values
        found: dict[str, Tensor] = {}
        inside = (values >= low) & (values <= high)
        for column, feature in enumerate(self.features):
            value = values[:, column]
            found[f"{feature.name} is outside [{feature.low}, {feature.high}]"] = ~inside[:, column]
            if feature.whole:
                found[f"{feature.name} is not whole"] = value != value.round()
            elif feature.levels:
                levels = torch.tensor(feature.levels, dtype=torch.float64, device=value.device)
                # a level such as 0.1 may have been stored in float32
                known = (value.unsqueeze(1) == torch.cat([levels, levels.float().double()])).any(1)
                found[f"{feature.name} is none of its levels"] = ~known
        for group, columns in self.groups.items():
            found[f"one-hot group {group} has not exactly one 1"] = values[:, list(columns)].sum(1) != 1
        for relation in self.relations:
            found[f"relation '{relation}' is broken"] = ~relation.check(rows)
        return found

    def check(self, x: Tensor) -> Tensor:
        """Bool ``[n]``: whether each row is valid. Decided in float64 from the definition alone, exactly but for
        the tolerance of ``==``; a dynamic bound holds for any value. Rows with NaN or infinity never are."""
        faults = self.faults(x)
        return torch.isfinite(x).all(1) & ~torch.stack(list(faults.values())).any(0)

    def violations(self, x: Tensor) -> list[tuple[str, ...]]:
        """For each row, what is wrong with it; an empty tuple for a valid one.

        >>> Schema([Feature("a", Kind.INTEGER, 0, 9)]).violations(torch.tensor([[1.0], [9.5]]))
        [(), ('a is outside [0.0, 9.0]', 'a is not whole')]
        """
        faults = self.faults(x)
        table = torch.stack(list(faults.values()), dim=1).tolist()
        return [tuple(what for what, wrong in zip(faults, row, strict=True) if wrong) for row in table]

    def hinges(self, x: Tensor) -> Tensor:
        """float64 ``[n, relations]``: how far each row is from satisfying each relation, differentiable;
        0 exactly where it does."""
        rows = self.rows(x)
        if not self.relations:
            return rows.values.new_zeros(len(x), 0)
        return torch.stack([relation.hinge(rows) for relation in self.relations], dim=1)

    # -- identity

    def describe(self) -> dict[str, Any]:
        """JSON-ready: the features and the relations as text."""
        return {
            "features": [feature.describe() for feature in self.features],
            "relations": [relation.text for relation in self.relations],
        }

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the description."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()
