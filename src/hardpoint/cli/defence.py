"""From ``[defence]`` to a defended model, and the benign inputs that it is fitted and calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint import defenses
from hardpoint.cli.build import build_benign
from hardpoint.cli.config import Settings
from hardpoint.cli.console import note
from hardpoint.cli.defence_kinds import DETECTORS, STAGES
from hardpoint.cli.defence_text import Part, read_part
from hardpoint.core.errors import ConfigError, DataError, ModelError
from hardpoint.core.rng import Rng, split_rows
from hardpoint.core.rows import chunks
from hardpoint.data import Dataset
from hardpoint.data.subset import Subset
from hardpoint.defenses import detectors as every_detector
from hardpoint.defenses.defended import DefendedAnswers, DefendedModel, defended
from hardpoint.defenses.hidden_layer import last_hidden_layer
from hardpoint.defenses.seen import Detector
from hardpoint.defenses.stage import InputStage
from hardpoint.models.base import Model

_FITTED = 0.5  # the share of the benign inputs that stages and detectors are fitted on; the rest calibrates
_PER_NEIGHBOUR = 1000  # inputs in the bank; Sun et al. take the 50th neighbour among 50 000
_BITS, _MEDIAN = 5, 2  # squeezers for photographs (Xu, Evans and Qi)


@dataclass(frozen=True)
class Prepared:
    """A defence that is fitted and not yet calibrated.

    Attributes:
        model: behind its stages; as it came where there are none.
        detectors: fitted.
        benign: inputs that nothing was fitted on.
        data: what is left to attack.
    """

    model: Model
    detectors: list[Detector]
    benign: Tensor
    data: Dataset


def with_defence(settings: Settings, model: Model, data: Dataset, *, quiet: bool) -> tuple[Model, Dataset]:
    """The model behind the defence that the settings name, and the data that are left to attack.

    Raises:
        HardpointError: where the defence does not fit the model or the data, or benign inputs are too few.
    """
    said = settings.defence
    if not said.stages and not said.detectors:
        return model, data
    made = prepare_defence(settings, model, data, said.detectors, quiet=quiet)
    if not made.detectors:
        return made.model, made.data
    whole = defenses.calibrated(_network(made.model), made.detectors, made.benign, alpha=said.alpha)
    return whole, made.data


def prepare_defence(
    settings: Settings, model: Model, data: Dataset, detectors: Sequence[str], *, quiet: bool
) -> Prepared:
    """Stages and ``detectors`` fitted on one part of the benign inputs; the other is left to calibrate with.

    Raises:
        HardpointError: as ``with_defence``.
    """
    stages = [read_part(text, STAGES, "stage") for text in settings.defence.stages]
    looking = [read_part(text, DETECTORS, "detector") for text in detectors]
    is_fitted = any(part.kind.is_fitted for part in (*stages, *looking))
    if not is_fitted and not looking:
        return Prepared(
            _behind(model, [_stage(part, model, None) for part in stages]), [], torch.empty(0), data
        )
    if looking:
        _network(defended(model))
    rows, left, where = _benign(settings, data)
    share = 1.0 - _FITTED if is_fitted else 1.0
    first, second = split_rows(len(rows[0]), share, Rng(settings.data.seed).fork("fit"))
    if is_fitted and len(first) < 2:
        raise DataError(
            f"there are {len(rows[0])} benign inputs to fit and calibrate the defence on", "give more of them"
        )
    if not quiet:
        fitting = f"{len(first)} fit and " if is_fitted else ""
        note(f"defence:  {where}: {fitting}{len(second)} calibrate")
    x, y = rows[0][first], rows[1][first]
    behind = _behind(model, [_stage(part, model, x) for part in stages])
    found = _fitted(_network(behind), looking, x, y) if looking else []
    return Prepared(behind, found, rows[0][second], left)


def _network(model: Any) -> DefendedModel:
    if not isinstance(model, DefendedModel):
        raise ModelError(
            "detectors look into the network, and this model shows answers only",
            "leave detectors out of [defence], or give a torch module",
        )
    return model


def _behind(model: Model, stages: Sequence[InputStage]) -> DefendedModel | DefendedAnswers:
    return defended(model, stages)


def _benign(settings: Settings, data: Dataset) -> tuple[tuple[Tensor, Tensor], Dataset, str]:
    """Benign inputs with labels, the data left to attack, and where the benign ones are from, in words."""
    given = build_benign(settings)
    if given is not None:
        if given.shape != data.shape:
            raise DataError(
                f"the benign inputs have shape {tuple(given.shape)}, the data {tuple(data.shape)}",
                "give benign inputs like the data",
            )
        if given.sha256() == data.sha256():
            raise ConfigError(
                "defence.benign holds the inputs that are attacked",
                "give others, or leave it out: a part of the data is then held out",
            )
        return given.rows(torch.arange(len(given))), data, f"{len(given)} benign inputs of {given.name}"
    if len(data) < 2:
        raise DataError("of one input none can be held out", "give more, or set benign in [defence]")
    draws = Rng(settings.data.seed).fork("benign")
    attacked, held = split_rows(len(data), settings.defence.held_out, draws)
    if len(attacked) == 0:
        raise DataError(
            f"of {len(data)} inputs all would be held out", "give more, or set benign in [defence]"
        )
    where = f"{len(held)} of {len(data)} inputs are held out as benign and not attacked"
    return data.rows(held), Subset(data, attacked, f"all but {len(held)} held out as benign"), where


# --- making the parts --------------------------------------------------------------------------------------------


def _stage(part: Part, model: Model, x: Tensor | None) -> InputStage:
    kind: Any = getattr(defenses, part.kind.name)
    if part.kind.is_loaded:
        if "file" not in part.options:
            raise ConfigError(f"{part.text!r} does not say which", f"write {part.word}:file=PATH")
        loaded: InputStage = kind.load(part.options["file"])
        return loaded
    options = _ranged(part, model)
    made: InputStage = kind.fit(x, **options) if part.kind.is_fitted else kind(**options)
    return made


def _ranged(part: Part, model: Model) -> dict[str, Any]:
    """The options, with the range of the model's inputs where the part wants to know it and nobody said it."""
    options = dict(part.options)
    if not part.kind.has_range or {"low", "high"} <= set(options):
        return options
    if not model.box.is_bounded and part.word != "noise":
        raise ConfigError(
            f"{part.text!r} needs the lowest and the highest value of an input",
            f"set input_range in [model], or write {part.word}:low=0:high=1",
        )
    low, high = model.box.describe()
    return {"low": low, "high": high, **options}


def _fitted(model: DefendedModel, parts: Sequence[Part], x: Tensor, y: Tensor) -> list[Detector]:
    """The detectors; those that read features, of the last hidden layer where none is named."""
    reading = [part for part in parts if {"layer", "layers"} & set(part.kind.known)]
    named = [_layers_named(part) for part in reading]
    usual = ""
    if not all(named):
        shown = model.look(x[:2]).x.to(model.device)
        usual = last_hidden_layer(model.module.network, shown)
    layers = tuple(dict.fromkeys(name for names in named for name in names or (usual,)))
    seen = model.look(x, layers) if reading else None
    return [_detector(part, model, seen, x, y, usual) for part in parts]


def _layers_named(part: Part) -> tuple[str, ...]:
    one = part.options.get("layer")
    return (one,) if one is not None else part.options.get("layers", ())


def _detector(part: Part, model: DefendedModel, seen: Any, x: Tensor, y: Tensor, usual: str) -> Detector:
    special: Mapping[str, Callable[..., Detector]] = {
        "feature-squeezing": _squeezing,
        "reconstruction-error": lambda **options: _reconstruction(model, x, options),
    }
    kind: Any = special.get(part.word, getattr(every_detector, part.kind.name))
    options = _ranged(part, model)
    if part.word in special or not part.kind.is_fitted:
        made: Detector = kind(**options)
        return made
    if "layer" in part.kind.known:
        options.setdefault("layer", usual)
    else:
        options.setdefault("layers", (usual,))
    if part.word == "nearest-neighbours":
        options.setdefault("k", max(1, round(len(seen) / _PER_NEIGHBOUR)))
    fitted: Detector = kind.fit(seen, y, **options)
    return fitted


def _squeezing(low: float, high: float, bits: int = _BITS, median: int = _MEDIAN) -> Detector:
    squeezers = (defenses.BitDepth(bits, low, high), defenses.MedianSmoothing(median))
    return every_detector.FeatureSqueezing(squeezers)


def _reconstruction(model: DefendedModel, x: Tensor, options: Mapping[str, Any]) -> Detector:
    shown = torch.cat([model.look(part).x for part in chunks(x, 256)])
    return every_detector.ReconstructionError(defenses.DenoisingAutoencoder.fit(shown, **options))
