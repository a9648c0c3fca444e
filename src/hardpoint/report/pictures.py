"""Adversarial examples as people can look at them: pictures, tables of features, or series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from hardpoint.evidence import Assessment, Examples
from hardpoint.report import charts
from hardpoint.report.png import data_uri
from hardpoint.report.reading import class_name
from hardpoint.report.words import number

MAX_EXAMPLES = 12
MAX_FEATURES = 24  # rows of one feature table
_TABLE_WIDTH = 128  # longer inputs without feature names are drawn as series
_FACTORS = (1, 2, 3, 5, 10, 20, 30, 50, 100)


@dataclass(frozen=True)
class FeatureChange:
    """One row of a feature table, as text."""

    feature: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class Example:
    """One broken input ready to show; ``images`` are data addresses, ``plot`` is SVG."""

    index: int
    label: str
    before: str
    after: str
    distance: str
    images: tuple[Markup, ...] = ()
    changes: tuple[FeatureChange, ...] = ()
    changed: int = 0
    features: int = 0
    plot: Markup | None = None


@dataclass(frozen=True)
class Gallery:
    """The examples of an assessment: ``kind`` is ``image``, ``table`` or ``series``.

    ``factor`` is how much the perturbation is enlarged in the third picture.
    """

    kind: str
    examples: tuple[Example, ...]
    factor: int = 1
    left_out: int = 0


def gallery(assessment: Assessment, limit: int = MAX_EXAMPLES) -> Gallery | None:
    """The examples that needed the smallest change, at most ``limit``; None where there are none."""
    examples = assessment.examples
    if examples is None or len(examples.index) == 0:
        return None
    order = np.argsort(np.nan_to_num(examples.distance.astype(np.float64), nan=np.inf), kind="stable")
    chosen = order[: min(limit, MAX_EXAMPLES)]
    kind = kind_of(examples, assessment.data.get("features"))
    factor = 1
    low, high = _range(assessment, examples) if kind == "image" else (0.0, 1.0)
    if kind == "image" and len(chosen):
        factor = _factor(examples.original[chosen], examples.adversarial[chosen], high - low)
    shown = []
    for i in (int(i) for i in chosen):
        before, after = examples.original[i], examples.adversarial[i]
        example = Example(
            index=int(examples.index[i]),
            label=class_name(assessment, int(examples.label[i])),
            before=class_name(assessment, int(examples.clean_prediction[i])),
            after=class_name(assessment, int(examples.final_prediction[i])),
            distance=number(float(examples.distance[i])),
        )
        if kind == "image":
            example = replace(example, images=_images(before, after, low, high, factor))
        elif kind == "table":
            rows, changed = _changes(before, after, assessment.data.get("features"))
            example = replace(example, changes=rows, changed=changed, features=before.size)
        else:
            flat = [[float(v) for v in np.ravel(values)] for values in (before, after)]
            text = f"input {example.index} before and after the attack"
            example = replace(example, plot=Markup(charts.series(flat[0], flat[1], text)))
        shown.append(example)
    return Gallery(kind, tuple(shown), factor, len(order) - len(chosen))


def kind_of(examples: Examples, features: Sequence[str] | None) -> str:
    """How inputs of this shape are shown: ``image``, ``table`` or ``series``."""
    shape = examples.original.shape[1:]
    if len(shape) == 2 and min(shape) > 1 and examples.original.dtype.kind in "fiub":
        return "image"
    if len(shape) == 3 and shape[0] in (1, 3) and examples.original.dtype.kind in "fiub":
        return "image"
    if len(shape) <= 1 and (features or math.prod(shape) <= _TABLE_WIDTH):
        return "table"
    return "series" if examples.original.dtype.kind in "fiub" else "table"


def _range(assessment: Assessment, examples: Examples) -> tuple[float, float]:
    declared = assessment.model.get("input_range")
    if isinstance(declared, list | tuple) and len(declared) == 2:
        low, high = declared
        if isinstance(low, int | float) and isinstance(high, int | float) and -1e30 < low < high < 1e30:
            return float(low), float(high)
    finite = examples.original[np.isfinite(examples.original)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _factor(original: NDArray[Any], adversarial: NDArray[Any], span: float) -> int:
    """The largest round factor at which the largest change still fits half of the range."""
    change = np.abs(_difference(original, adversarial))
    largest = float(np.nan_to_num(change, posinf=0.0).max()) if change.size else 0.0
    return max((k for k in _FACTORS if largest * k <= span / 2), default=1) if largest else 1


def _images(
    before: NDArray[Any], after: NDArray[Any], low: float, high: float, factor: int
) -> tuple[Markup, ...]:
    change = _difference(before, after) * factor + (low + high) / 2
    return tuple(Markup(data_uri(_pixels(values, low, high))) for values in (before, after, change))


def _difference(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # infinite in both: NaN, drawn as the lowest value
        return np.asarray(after.astype(np.float64) - before.astype(np.float64))


def _pixels(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    unit = (np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low)
    image = np.rint(255 * np.clip(unit, 0.0, 1.0)).astype(np.uint8)
    return np.moveaxis(image, 0, -1) if image.ndim == 3 else image


def _changes(
    before: NDArray[Any], after: NDArray[Any], features: Sequence[str] | None
) -> tuple[tuple[FeatureChange, ...], int]:
    """The changed features, the largest change first, and how many there are."""
    old, new = np.ravel(before), np.ravel(after)
    is_number = old.dtype.kind in "fiub"
    changed = np.flatnonzero(old != new)
    if is_number:
        size = np.abs(_difference(old[changed], new[changed]))
        changed = changed[np.argsort(-size, kind="stable")]
    rows = []
    for i in (int(i) for i in changed[:MAX_FEATURES]):
        name = str(features[i]) if features and i < len(features) else f"feature {i}"
        step = float(new[i]) - float(old[i]) if is_number else 0.0
        sign = "+" if step > 0 else ""
        change = sign + number(step) if is_number else "changed"
        rows.append(FeatureChange(name, _value(old[i]), _value(new[i]), change))
    return tuple(rows), len(changed)


def _value(value: Any) -> str:
    return number(value.item() if hasattr(value, "item") else value)
