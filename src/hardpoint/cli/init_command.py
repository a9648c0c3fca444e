"""``hardpoint init``: at most five questions, and a ``hardpoint.toml`` that runs as it is."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardpoint.cli.build import build_data, build_model, build_threats, check_together
from hardpoint.cli.console import note, say, say_json
from hardpoint.cli.exits import Exit
from hardpoint.cli.found import found_data, found_models, found_weights, table_options
from hardpoint.cli.layers import FILE, Entry, Layer, resolved_alone
from hardpoint.cli.threat_text import read_threat
from hardpoint.core.box import UNBOUNDED
from hardpoint.core.errors import ConfigError, RunError
from hardpoint.data import Dataset, check_dataset
from hardpoint.evidence.store import write_atomically
from hardpoint.models.base import Model
from hardpoint.threats.features import Schema

_EXAMPLE_MODEL, _EXAMPLE_DATA = "hardpoint.cli.example:digits", "sklearn:digits"
_SAMPLE = 1000
_ORIGIN = "init"
_SCHEMA = Path("schema.toml")
_ROWS = 200_000
_DIFFERENT = 10.0
_TABLE_HINT = (
    "# Columns that differ in scale or may not change need a schema:",
    '# kind = "features", schema = "schema.toml", eps = 0.1, norm = "linf"',
)


@dataclass(frozen=True)
class Answers:
    """What is to be in the file; None is not known yet."""

    model: str | None = None
    weights: str | None = None
    data: str | None = None
    threat: str | None = None
    gate: str | None = None


def run(answers: Answers, *, yes: bool, force: bool, json_out: bool) -> int:
    """Ask what ``answers`` leaves open, check that it fits together, and write the file.

    Raises:
        HardpointError: when a file is there already, or what was named cannot be used; then nothing is written.
    """
    if FILE.exists() and not force:
        raise RunError(f"{FILE} is there already", "edit it, or replace it with --force")
    answers = _asked_for_files(answers, yes)
    plan = _Plan.of(answers)
    answers = replace(
        answers,
        threat=answers.threat or _ask("What may the attacker change?", plan.suggested_threat(), yes),
        gate=answers.gate
        if answers.gate is not None
        else _ask("Which robust accuracy do you ask for, from 0 to 1? (empty: none)", "", yes),
    )
    made = plan.write_schema(str(answers.threat))
    try:
        write_atomically(FILE, plan.text(answers).encode("utf-8"))
    except BaseException:
        if made:
            _SCHEMA.unlink(missing_ok=True)
        raise
    if json_out:
        say_json({"exit_code": 0, "file": str(FILE), "next": "hardpoint assess"})
        return Exit.PASS
    say(f"wrote:    {FILE}  ({plan.summary()})")
    if made:
        say(
            f"wrote:    {_SCHEMA}  (what an attacker may change in a row, proposed from the data: read and correct it)"
        )
    say("next:     hardpoint assess")
    return Exit.PASS


def _ask(question: str, suggestion: str, yes: bool) -> str:
    if yes:
        return suggestion
    sys.stderr.write(f"{question} [{suggestion}] ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise ConfigError("there is nobody to answer", "pass --yes to take what is suggested")
    return line.strip() or suggestion


def _asked_for_files(answers: Answers, yes: bool) -> Answers:
    here = Path()
    models, weights, data = found_models(here), found_weights(here), found_data(here)
    if not yes:
        for what, found in (("models", models), ("weights", weights), ("data", data)):
            if found:
                note(f"found {what}: {', '.join(found[:8])}")
    if answers.model is None and not models and yes and (weights or data):
        found_files = ", ".join((weights + data)[:3])
        raise ConfigError(
            f"found {found_files} here, but no model",
            "name it: hardpoint init --model package.module:factory",
        )
    suggested = models[0] if models else _EXAMPLE_MODEL
    model = answers.model or _ask("Which model? (file.onnx, package.module:factory or URL)", suggested, yes)
    is_file = model.endswith(".onnx") or "://" in model or model == _EXAMPLE_MODEL
    chosen_weights = answers.weights
    if chosen_weights is None and not is_file and weights:
        chosen_weights = _ask("Which weights? (none: the factory loads them)", weights[0], yes)
    if chosen_weights == "none":
        chosen_weights = None
    suggested_data = _EXAMPLE_DATA if model == _EXAMPLE_MODEL or not data else data[0]
    chosen_data = answers.data or _ask(
        "Which data? (.npz, .csv, idx, folder of images, sklearn:NAME)", suggested_data, yes
    )
    return replace(answers, model=model, weights=chosen_weights, data=chosen_data)


@dataclass(frozen=True)
class _Plan:
    """Model and data that fit together, and the settings that make them."""

    layer: Layer
    data: Dataset
    model: Model
    low: float
    high: float

    @classmethod
    def of(cls, answers: Answers) -> _Plan:
        said: dict[str, Any] = {
            "model.load": answers.model,
            "model.weights": answers.weights,
            "data.load": answers.data,
            **_data_options(str(answers.data), answers.model == _EXAMPLE_MODEL),
        }
        layer = {key: Entry(value, _ORIGIN) for key, value in said.items() if value is not None}
        resolved = resolved_alone(layer)
        data = build_data(resolved.settings)
        check = check_dataset(data, UNBOUNDED)
        model = build_model(resolved)
        ends = model.box.describe()
        if not ends[0] <= check.low <= check.high <= ends[1]:
            ends = [float(math.floor(check.low)), float(math.ceil(check.high))]
            layer["model.input_range"] = Entry(ends, _ORIGIN)
            model = build_model(resolved_alone(layer))
        check_together(model, data, [])
        if len(data) > _SAMPLE:
            layer["data.sample"] = Entry(_SAMPLE, _ORIGIN)
        return cls(layer, data, model, check.low, check.high)

    def suggested_threat(self) -> str:
        """8/255 of the range of images, a twentieth of that of tables, a tenth of each column's where they differ."""
        low, high = self.model.box.describe() if self.model.box.is_bounded else (self.low, self.high)
        width = high - low
        if len(self.data.shape) == 1 and self._columns_differ():
            return f"features:0.1@schema={_SCHEMA}:norm=linf"
        if len(self.data.shape) > 1:
            return "linf:8/255" if width == 1 else f"linf:{8 / 255 * width:.3g}"
        return f"linf:{0.05 * width:.3g}"

    def _rows(self) -> Tensor:
        return self.data.rows(torch.arange(min(len(self.data), _ROWS)))[0]

    def _columns_differ(self) -> bool:
        """Whether one change means much in one column and nothing in another."""
        rows = self._rows()
        widths = rows.amax(0) - rows.amin(0)
        widths = widths[widths > 0]
        return len(widths) > 1 and float(widths.max()) > _DIFFERENT * float(widths.min())

    def write_schema(self, threat: str) -> bool:
        """Write the proposed schema where ``threat`` needs it and there is none; whether that was so."""
        if f"schema={_SCHEMA}" not in threat or _SCHEMA.exists() or len(self.data.shape) != 1:
            return False
        names = self.data.features or [f"c{number}" for number in range(self.data.shape[0])]
        Schema.learn(self._rows(), names).save(_SCHEMA)
        return True

    def summary(self) -> str:
        """What the file names, in a few words."""
        return f"{self.layer['model.load'].value}, {len(self.data)} inputs of {self.layer['data.load'].value}"

    def text(self, answers: Answers) -> str:
        """The file; what it says has been read back and checked."""
        threat = read_threat(str(answers.threat))
        layer = {**self.layer, "threats": Entry([threat], _ORIGIN)}
        if answers.gate:
            layer["gate.robust_accuracy"] = Entry(answers.gate, _ORIGIN)
        build_threats(resolved_alone(layer), self.model)
        return _text(layer, with_hint=len(self.data.shape) == 1 and threat["kind"] != "features")


def _data_options(data: str, is_example: bool) -> dict[str, Any]:
    if is_example:
        return {"data.scale": 0.0625}
    if data.lower().endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        return {f"data.{key}": value for key, value in table_options(Path(data)).items()}
    return {}


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return (
        json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        if isinstance(value, str)
        else repr(value)
    )


def _number(text: Any) -> str:
    """A number as a number, anything else (8/255) as text."""
    try:
        float(text)
    except ValueError:
        return _toml(text)
    return str(text)


def _text(layer: Layer, with_hint: bool) -> str:
    values = {key: entry.value for key, entry in layer.items()}

    def line(key: str, comment: str, unset: str = "") -> list[str]:
        name = key.partition(".")[2]
        if key in values:
            return [f"# {comment}", f"{name} = {_toml(values[key])}"]
        return [f"# {comment}", f"# {name} = {unset}"] if unset else []

    threat = values["threats"][0]
    numbers = {"eps", "queries", "target", "gate", "max_changed"}
    gate = values.get("gate.robust_accuracy")
    return "\n".join(
        [
            "# What Hardpoint assesses. Run it with: hardpoint assess",
            "# For one run: an option (hardpoint assess --help), or a variable such as HARDPOINT_RUN_MODE=standard.",
            "# Paths are relative to this file. What holds, and why: hardpoint config show --origin",
            "",
            "[model]",
            *line(
                "model.load",
                "An .onnx file, package.module:factory (your code, called without arguments), or a URL.",
            ),
            *line(
                "model.weights",
                "A .safetensors, .pt or .pth file to copy into the module.",
                '"model.safetensors"',
            ),
            *line("model.input_range", "Valid inputs, [low, high]; no attack leaves them.", "[0, 1]"),
            *line(
                "model.access",
                "Show the attacker no more than this: gradients, scores or labels.",
                '"scores"',
            ),
            "",
            "[data]",
            *line(
                "data.load", "A .npz, .npy, .csv, .parquet or idx file, a folder of images, or sklearn:NAME."
            ),
            *line("data.header", "Whether the first line names the columns."),
            *line("data.label", "The label column, by name or position."),
            *line("data.scale", "A factor for the stored values."),
            *line("data.sample", "Take this many inputs at random; leave it out to take all.", "1000"),
            "",
            "# [defence]",
            "# What stands before the model and beside it; hardpoint calibrate shows what thresholds do.",
            '# stages = ["bit-depth:bits=4"]',
            '# detectors = ["energy", "mahalanobis"]',
            "# alpha = 0.05",
            "",
            "# One table per attacker. kind: linf, l2, l1, l0, snr, perceptual, patch, spatial, flow, colour,",
            "# or features (for tables: what may change in a row).",
            "[[threats]]",
            *(f"{key} = {_number(v) if key in numbers else _toml(v)}" for key, v in threat.items()),
            *(_TABLE_HINT if with_hint else ()),
            "# What this attacker sees, and how often it may ask about one input:",
            '# access = "scores"',
            "# queries = 1000",
            "",
            "[run]",
            "# fast, standard (the AutoAttack protocol) or thorough.",
            'mode = "fast"',
            "seed = 0",
            "# Run folders go here: runs/001-NAME and so on.",
            'dir = "runs"',
            "# workers = 2",
            "",
            "[gate]",
            "# The robust accuracy asked for: below it hardpoint assess exits with 1.",
            f"robust_accuracy = {gate}" if gate is not None else "# robust_accuracy = 0.45",
            "",
            "[report]",
            'formats = ["html", "json", "sarif", "junit"]',
            "",
        ]
    )
