"""From settings to a model, data and threats. Everything that can be refused is refused here, before a run begins."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from hardpoint import threats
from hardpoint.attacks.base import usable_threat
from hardpoint.attacks.transfer.surrogates import check_against, load_surrogates
from hardpoint.cli.config import DataSettings, HttpSettings, ModelSettings, Settings, ThreatSettings
from hardpoint.cli.layers import Resolved
from hardpoint.cli.threat_kinds import KINDS
from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError, DataError, HardpointError, ModelError, ThreatError
from hardpoint.core.suggest import did_you_mean
from hardpoint.data import Dataset, load_data, subset
from hardpoint.engine.guard import preserved_random_state
from hardpoint.models.base import Differentiable, Model
from hardpoint.models.http import OpenInference, PlainJson, WireProtocol
from hardpoint.models.loading import load_model
from hardpoint.threats import Perturbation, Targeted, Threat
from hardpoint.threats.features import FeatureEdits, Schema

_PROBE = 2  # some layers refuse a batch of one


@dataclass(frozen=True)
class Planned:
    """A threat as the model allows it, its name in the run, and what is asked for."""

    name: str
    threat: Threat | Perturbation
    gate: float | None


def build_model(resolved: Resolved) -> Model:
    """The model that the settings name.

    Raises:
        HardpointError: when none is named or it cannot be loaded.
    """
    said, http = resolved.settings.model, resolved.settings.http
    if said.load is None:
        raise ConfigError(
            "no model is named", "give --model, or set load in [model]; hardpoint init writes the file"
        )
    importable(resolved.base)
    return load_model(
        said.load,
        weights=said.weights,
        input_range=None if said.input_range is None else _range(said.input_range),
        access=said.access,
        **_options(said),
        **_http_options(http),
    )


def build_surrogates(resolved: Resolved) -> tuple[Differentiable, ...]:
    """The attacker's own models that the settings name.

    Raises:
        HardpointError: when one cannot be loaded, or has no gradients.
    """
    named = resolved.settings.run.surrogates
    return load_surrogates(named) if named else ()


def importable(folder: Path) -> None:
    """Let modules beside the configuration file be found; stays, as the user's code may import more later."""
    place = str(folder.resolve())
    if folder != Path() and place not in sys.path:
        sys.path.insert(0, place)


def _range(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    low, high = (torch.tensor(end) if isinstance(end, list) else end for end in ends)
    return low, high


def _options(said: ModelSettings) -> dict[str, Any]:
    names = ("probabilities", "name", "output", "input_shape")
    return {name: value for name in names if (value := getattr(said, name)) is not None}


def _http_options(said: HttpSettings) -> dict[str, Any]:
    given = {k: v for k, v in said.model_dump().items() if v is not None and k not in ("protocol", "wire")}
    if said.headers is not None:
        given["headers"] = {name: _secret(name, value) for name, value in said.headers.items()}
    if said.protocol is not None or said.wire is not None:
        given["protocol"] = _wire(said.protocol or "json", said.wire or {})
    return given


def _secret(header: str, value: str) -> str:
    """A header's value; ``env:NAME`` reads it from the environment, so that no file holds it."""
    name = value.removeprefix("env:")
    if name == value:
        return value
    if name not in os.environ:
        raise ConfigError(
            f"http.headers.{header} reads the variable {name}, which is not set", f"export {name}"
        )
    return os.environ[name]


def _wire(protocol: str, said: Mapping[str, Any]) -> WireProtocol:
    kind = PlainJson if protocol == "json" else OpenInference
    known = [f.name for f in fields(kind)]
    for key in said:
        if key not in known:
            raise ConfigError(f"http.wire has an unknown key {key!r}", did_you_mean(key, known))
    try:
        made: WireProtocol = kind(**said)
    except TypeError:
        raise ConfigError(
            "http.wire does not name the model on the server", 'write wire = { model = "NAME" }'
        ) from None
    return made


def build_data(settings: Settings) -> Dataset:
    """The labelled inputs that the settings name, a random ``sample`` of them where one is asked for.

    Raises:
        HardpointError: when none are named or they cannot be read.
    """
    said = settings.data
    if said.load is None:
        raise ConfigError(
            "no data is named", "give --data, or set load in [data]; hardpoint init writes the file"
        )
    data = load_data(said.load, **_reading(said))
    return data if said.sample is None else subset(data, said.sample, seed=said.seed)


def build_benign(settings: Settings) -> Dataset | None:
    """The benign inputs that ``[defence]`` names, all of them, read as the data are; None where it names none.

    Raises:
        HardpointError: when they cannot be read.
    """
    path = settings.defence.benign
    return None if path is None else _other_data(path, settings)


def build_training(settings: Settings) -> Dataset:
    """The inputs that ``[harden]`` names to learn from, all of them, read as the data are.

    Raises:
        HardpointError: when none are named or they cannot be read.
    """
    path = settings.harden.train
    if path is None:
        raise ConfigError("no training data is named", "give --train, or set train in [harden]")
    return _other_data(path, settings)


def _other_data(path: str, settings: Settings) -> Dataset:
    """Another file, read as the data are."""
    own = ("limit", "labels", "name")  # these belong to the one file
    return load_data(path, **{key: value for key, value in _reading(settings.data).items() if key not in own})


def _reading(said: DataSettings) -> dict[str, Any]:
    """How a file is read."""
    options = {
        k: v for k, v in said.model_dump().items() if v is not None and k not in ("load", "sample", "seed")
    }
    if said.dtype is not None:
        options["dtype"] = getattr(torch, said.dtype)
    if isinstance(said.label, str) and said.label.lstrip("-").isdigit():
        options["label"] = int(said.label)  # variables and options are texts
    return options


def build_threats(resolved: Resolved, model: Model) -> list[Planned]:
    """The threats in order, each on the rung of the access ladder that it and the model offer.

    Raises:
        ConfigError: when there is none, one is impossible, or two are the same.
    """
    settings = resolved.settings
    if not settings.threats:
        raise ConfigError("no threat is given", "give --threat linf:8/255, or a [[threats]] table")
    planned: list[Planned] = []
    for number, said in enumerate(settings.threats):
        try:
            threat = _threat(said, model)
            name = usable_threat(threat, model, Access.LABELS).name
        except ThreatError as error:
            where = f"{resolved.origins['threats']}: threats[{number}]"
            raise ConfigError(f"{where}: {error.what}", error.cure) from None
        if name in [p.name for p in planned]:
            raise ConfigError(f"the threat {name} is given twice", "give each threat once")
        planned.append(
            Planned(name, threat, said.gate if said.gate is not None else settings.gate.robust_accuracy)
        )
    return planned


def _threat(said: ThreatSettings, model: Model) -> Threat | Perturbation:
    perturbation = _perturbation(said)
    goal = None if said.target is None else Targeted(said.target)
    if said.access is None and goal is None and said.queries is None:
        return perturbation  # takes all the model shows, and a finding says what that is
    shown = Access.GRADIENTS if said.queries is None else Access.SCORES
    access = min(shown, model.access) if said.access is None else Access.parse(said.access)
    return Threat(perturbation, goal, access, said.queries)


def _perturbation(said: ThreatSettings) -> Perturbation:
    if said.schema_file is not None:
        eps = math.inf if said.eps is None else said.eps
        return FeatureEdits(Schema.load(said.schema_file), eps, said.norm or "l2", said.max_changed)
    kind = KINDS[said.kind]
    given = {option: getattr(said, option) for option in kind.options}
    if kind.size is not None:
        given[kind.size] = said.eps
    made: Perturbation = getattr(threats, kind.name)(**{k: v for k, v in given.items() if v is not None})
    return made


def check_together(
    model: Model, data: Dataset, threats: list[Planned], surrogates: tuple[Differentiable, ...] = ()
) -> None:
    """Whether model, data, threats and surrogates fit each other, by one small pass.

    Raises:
        ModelError: when the model fails on inputs of this shape.
        DataError: when a schema describes other columns than the data have.
        ThreatError: when a target is no label of the model, or a surrogate takes other inputs or has other classes.
    """
    rows = torch.arange(min(_PROBE, len(data)))
    with preserved_random_state():
        x, _ = data.rows(rows)
        try:
            classes = model.scores(x).shape[-1] if model.access > Access.LABELS else None
            if classes is None:
                model.predict(x)
        except HardpointError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model fails on inputs of shape {tuple(data.shape)}: {type(error).__name__}: {error}",
                "give inputs of the shape it takes, or correct its forward()",
            ) from error
        check_against(surrogates, x, model.box, classes)
    for planned in threats:
        threat = Threat.of(planned.threat)
        if isinstance(threat.perturbation, FeatureEdits):
            _check_columns(threat.perturbation.schema, data)
        if isinstance(threat.goal, Targeted) and classes is not None and threat.goal.label >= classes:
            raise ThreatError(
                f"{planned.name} wants label {threat.goal.label}, the model has {classes} classes",
                f"give a label from 0 to {classes - 1}",
            )


def _check_columns(schema: Schema, data: Dataset) -> None:
    names = [feature.name for feature in schema.features]
    if data.shape != (len(names),):
        raise DataError(
            f"the schema has {len(names)} features, the inputs of {data.name} have shape {tuple(data.shape)}",
            "describe every column the model takes, in its order",
        )
    for place, (described, held) in enumerate(zip(names, data.features or names, strict=True)):
        if described != held and not held.isdigit():
            raise DataError(
                f"the schema's feature {place} is {described!r}, the data's is {held!r}",
                "list the features in the order of the columns",
            )
