"""What can be configured: the sections and keys of ``hardpoint.toml`` and of ``[tool.hardpoint]``."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hardpoint.cli.defence_kinds import DETECTORS, STAGES
from hardpoint.cli.defence_text import read_part
from hardpoint.cli.threat_kinds import KINDS, OPTIONS
from hardpoint.cli.training_kinds import CHANGES

Word = Literal["gradients", "scores", "labels"]
Format = Literal["html", "json", "sarif", "junit"]


def read_eps(value: Any) -> Any:
    """A radius as people write it: a number or a fraction.

    >>> read_eps("8/255") == 8 / 255, read_eps("0.5"), read_eps(2)
    (True, 0.5, 2)
    """
    if not isinstance(value, str):
        return value
    over, slash, under = value.partition("/")
    try:
        return float(over) / float(under) if slash else float(over)
    except (ValueError, ZeroDivisionError):
        raise ValueError("a number or a fraction such as 8/255") from None


def read_range(value: Any) -> Any:
    """``[low, high]``, or the text ``low,high`` of an option or variable."""
    return [end.strip() for end in value.split(",")] if isinstance(value, str) else value


def read_words(value: Any) -> Any:
    """A list of words, or the text ``a,b`` of an option or variable."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        return value
    stripped = [word.strip() if isinstance(word, str) else word for word in words]
    return [word for word in stripped if word != ""]


def _rising(value: tuple[Any, Any]) -> tuple[Any, Any]:
    low, high = value
    if isinstance(low, float) and isinstance(high, float) and not low < high:
        raise ValueError("low < high, for example [0, 1]")
    return value


def _stages(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(read_part(text, STAGES, "stage").text for text in texts)


def _changes(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(read_part(text, CHANGES, "change").text for text in texts)


def _recipe(text: str) -> str:
    if text == "default":
        return text
    from hardpoint.cli.training_made import (
        read_recipe,  # loads what trains, which other commands need not wait for
    )

    return read_recipe(text).text


def _detectors(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(read_part(text, DETECTORS, "detector").text for text in texts)


Eps = Annotated[float, BeforeValidator(read_eps)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, lt=math.inf)]
Between = Annotated[float, Field(gt=0, lt=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
End = float | list[float]
Words = Annotated[tuple[str, ...], BeforeValidator(read_words)]


class Table(BaseModel):
    """One table of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ModelSettings(Table):
    """``[model]``: what is assessed."""

    load: str | None = None
    weights: str | None = None
    input_range: Annotated[
        tuple[End, End] | None, BeforeValidator(read_range), AfterValidator(lambda v: v and _rising(v))
    ] = None
    access: Word | None = None
    probabilities: bool | None = None
    name: str | None = None
    output: str | None = None
    input_shape: tuple[int, ...] | None = None


class HttpSettings(Table):
    """``[http]``: how a served model is asked."""

    protocol: Literal["json", "open-inference"] | None = None
    wire: dict[str, Any] | None = None
    headers: dict[str, str] | None = None
    classes: Words | None = None
    batch_size: AtLeastOne | None = None
    concurrency: AtLeastOne | None = None
    rate_limit: float | None = None
    timeout: float | None = None
    retries: int | None = None
    max_response_bytes: AtLeastOne | None = None


class DataSettings(Table):
    """``[data]``: the labelled inputs, how they are read, and how many of them are taken."""

    load: str | None = None
    name: str | None = None
    dtype: Literal["float32", "float64"] | None = None
    scale: float | None = None
    limit: AtLeastOne | None = None
    sample: AtLeastOne | None = None
    seed: int = 0
    layout: str | None = None
    classes: Words | None = None
    labels: str | None = None
    keys: Annotated[tuple[str, str] | None, BeforeValidator(read_words)] = None
    label: str | int | None = None
    columns: Words | None = None
    categories: dict[str, list[str]] | None = None
    header: bool | None = None
    spool_dir: str | None = None


class ThreatSettings(Table):
    """``[[threats]]``: one attacker."""

    kind: Literal[
        "linf", "l2", "l1", "l0", "snr", "perceptual", "patch", "spatial", "flow", "colour", "features"
    ]
    eps: Eps | None = None
    access: Word | None = None
    queries: AtLeastOne | None = None
    target: Annotated[int, Field(ge=0)] | None = None
    gate: Share | None = None
    schema_file: str | None = Field(default=None, alias="schema")
    norm: Literal["linf", "l2", "l1", "l0"] | None = None
    max_changed: Annotated[int, Field(ge=0)] | None = None
    translation: Share | None = None
    spacing: AtLeastOne | None = None
    hue: Annotated[float, Field(ge=0, le=180)] | None = None
    saturation: Annotated[float, Field(ge=0)] | None = None
    contrast: Share | None = None
    brightness: Share | None = None

    @model_validator(mode="after")
    def _fits(self) -> ThreatSettings:
        if self.kind == "features":
            if self.schema_file is None:
                raise ValueError('schema = "FILE" for features')
        elif self.eps is None and KINDS[self.kind].size is not None:
            raise ValueError(f'eps, for example "{KINDS[self.kind].example}"')
        elif self.schema_file is not None or self.norm is not None or self.max_changed is not None:
            raise ValueError("schema, norm and max_changed with kind = 'features' only")
        known = () if self.kind == "features" else KINDS[self.kind].options
        if self.kind == "colour" and self.eps is not None:
            raise ValueError("no eps for colour: " + ", ".join(known))
        for option in OPTIONS:
            if getattr(self, option) is not None and option not in known:
                kinds = ", ".join(f"'{name}'" for name, kind in KINDS.items() if option in kind.options)
                raise ValueError(f"{option} with kind = {kinds} only")
        if self.kind == "colour" and all(getattr(self, option) is None for option in known):
            raise ValueError(f"a limit for colour: {', '.join(known)}")
        if self.queries is not None and self.access == "gradients":
            raise ValueError("queries with access = 'scores' or 'labels' only")
        return self


class DefenceSettings(Table):
    """``[defence]``: what stands before the model and beside it, and the benign inputs that calibrate it."""

    stages: Annotated[Words, AfterValidator(_stages)] = ()
    detectors: Annotated[Words, AfterValidator(_detectors)] = ()
    alpha: Between = 0.05
    benign: str | None = None
    held_out: Between = 0.5


class HardenSettings(Table):
    """``[harden]``: what and whom is learned from, by which recipe, how long and how fast."""

    train: str | None = None
    recipe: Annotated[str, AfterValidator(_recipe)] = "default"
    teacher: str | None = None
    teacher_weights: str | None = None
    teacher_temperature: Positive | None = None
    teacher_share: Share | None = None
    craft_mode: Literal["eval", "train"] = "eval"
    epochs: AtLeastOne = 15
    batch_size: AtLeastOne = 128
    lr: Positive = 1e-3
    optimiser: Literal["adamw", "sgd"] = "adamw"
    pace: Literal["cosine", "cycle", "steps", "constant"] = "cosine"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    l1: Annotated[float, Field(ge=0, lt=math.inf)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: Positive | None = None
    ramp: Annotated[float, Field(ge=0, lt=1)] = 0.2
    augment: Annotated[Words, AfterValidator(_changes)] = ()
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.05
    patience: AtLeastOne | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    devices: AtLeastOne = 1


class SearchSettings(Table):
    """``[search]``: how many networks are tried, and how large they may be; training is as ``[harden]`` says."""

    trials: AtLeastOne = 20
    judged: AtLeastOne = 500
    passes: AtLeastOne = 300
    weights: AtLeastOne | None = None
    operations: AtLeastOne | None = None


class CertifySettings(Table):
    """``[certify]``: how proofs are sought, for which network they are to hold, and how long one may take."""

    method: Literal["auto", "interval", "crown", "alpha", "branch"] = "auto"
    soundness: Literal["real", "rigorous", "deployed"] = "real"
    seconds_per_input: Positive = 20.0


class RunSettings(Table):
    """``[run]``: how hard to try, through which other models too, and where the evidence goes."""

    mode: Literal["fast", "standard", "thorough"] = "fast"
    seed: int = 0
    dir: str = "runs"
    workers: AtLeastOne = 1
    batch_size: AtLeastOne | None = None
    passes: AtLeastOne | None = None
    queries: AtLeastOne | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None
    surrogates: Words = ()
    allow_training: Words = ()


class GateSettings(Table):
    """``[gate]``: what is asked for; below it the command fails."""

    robust_accuracy: Share | None = None


class ReportSettings(Table):
    """``[report]``: which forms of the report are written."""

    formats: Annotated[tuple[Format, ...], BeforeValidator(read_words)] = ("html", "json", "sarif", "junit")


class Settings(Table):
    """Everything."""

    model: ModelSettings = ModelSettings()
    http: HttpSettings = HttpSettings()
    data: DataSettings = DataSettings()
    defence: DefenceSettings = DefenceSettings()
    harden: HardenSettings = HardenSettings()
    search: SearchSettings = SearchSettings()
    certify: CertifySettings = CertifySettings()
    threats: tuple[ThreatSettings, ...] = ()
    run: RunSettings = RunSettings()
    gate: GateSettings = GateSettings()
    report: ReportSettings = ReportSettings()


SECTIONS: dict[str, type[Table]] = {
    "model": ModelSettings,
    "http": HttpSettings,
    "data": DataSettings,
    "defence": DefenceSettings,
    "harden": HardenSettings,
    "search": SearchSettings,
    "certify": CertifySettings,
    "run": RunSettings,
    "gate": GateSettings,
    "report": ReportSettings,
}
"""The tables that hold one value per key; ``threats`` is a list of tables."""

PATHS = (
    "model.load",
    "model.weights",
    "data.load",
    "data.labels",
    "data.spool_dir",
    "defence.benign",
    "harden.train",
    "harden.teacher",
    "harden.teacher_weights",
    "run.dir",
)
"""Keys that may hold a path, which is relative to the file it stands in."""

PATH_LISTS = ("run.surrogates",)
"""Keys that hold a list of such paths."""


def keys_of(table: type[Table]) -> list[str]:
    """The keys of a table as they are written.

    >>> keys_of(GateSettings)
    ['robust_accuracy']
    """
    return [field.alias or name for name, field in table.model_fields.items()]
