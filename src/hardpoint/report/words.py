"""Records in plain English: numbers, threats and verdicts as a person would say them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hardpoint.evidence import Assessment, Rate, Verdict
from hardpoint.report.reading import class_name, counts, refused, weaknesses

_NARROW = "\u202f"  # no-break space of the width that belongs before a per-cent sign
_HARMLESS = re.compile(r"[\t\n\x20-\x7e]*")


def printable(text: object) -> str:
    """``text`` without characters that break a page, an XML file or the reading order.

    Control, surrogate and bidirectional-override characters become U+FFFD.

    >>> printable("cat" + chr(0) + "dog") == "cat\\N{REPLACEMENT CHARACTER}dog"
    True
    """
    plain = str(text)
    if _HARMLESS.fullmatch(plain):
        return plain
    return "".join("\ufffd" if _is_harmful(c) else c for c in plain)


def _is_harmful(char: str) -> bool:
    if char in "\t\n":
        return False
    is_noncharacter = ord(char) & 0xFFFE == 0xFFFE
    is_override = char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return is_noncharacter or is_override or unicodedata.category(char) in ("Cc", "Cs")


def percent(share: float) -> str:
    """A share as a percentage; never rounded to none or all when it is neither.

    >>> [percent(v).replace(chr(0x202F), " ") for v in (0.0, 0.0001, 0.425, 0.6, 0.9999, 1.0)]
    ['0 %', 'under 0.1 %', '42.5 %', '60 %', 'over 99.9 %', '100 %']
    """
    if not math.isfinite(share):
        return "unknown"
    if 0 < share < 0.0005:
        return f"under 0.1{_NARROW}%"
    if 0.9995 < share < 1:
        return f"over 99.9{_NARROW}%"
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text}{_NARROW}%"


def interval(rate: Rate) -> str:
    """The interval of a rate, in per cent.

    >>> interval(Rate.of(95, 100))
    '88.8 to 97.8'
    """
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}"


def points(share: float) -> str:
    """A difference of shares in percentage points, signed.

    >>> points(0.042), points(-0.1), points(0.0001)
    ('+4.2', '−10.0', '0.0')
    """
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def number(value: object) -> str:
    """A number as people write it; a dash where there is none.

    >>> number(None), number(1234567), number(0.031372549), number(-3.0)
    ('–', '1,234,567', '0.03137', '−3')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if math.isinf(value):
        return "unlimited" if value > 0 else "−unlimited"
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{int(value):,}"
    else:
        text = f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """A time span.

    >>> duration(0.42), duration(42), duration(5000)
    ('0.4 s', '42 s', '1 h 23 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(value: object) -> str:
    """A time stamp as people read it; anything else as it is.

    >>> moment("2025-06-01T12:00:00+00:00"), moment("yesterday")
    ('1 June 2025, 12:00 UTC', 'yesterday')
    """
    try:
        when = datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    zone = f" {when.tzname()}" if when.tzname() else ""
    return f"{when.day} {when:%B %Y, %H:%M}{zone}"


def eps_of(threat: Mapping[str, Any]) -> float | None:
    """The budget as a number; infinite where the record says so, None where there is none."""
    try:
        return float(_perturbation(threat).get("eps"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def eps_text(threat: Mapping[str, Any]) -> str:
    """The budget as the threat writes it, for example ``8/255``."""
    text = str(_perturbation(threat).get("text") or "")
    return text.split("≤", 1)[1].strip() if "≤" in text else number(eps_of(threat))


def perturbation_text(threat: Mapping[str, Any]) -> str:
    """What may change, for headings: ``Linf ≤ 8/255``."""
    shape = _perturbation(threat)
    return str(shape.get("text") or shape.get("kind") or threat.get("name") or "unknown change")


def _perturbation(threat: Mapping[str, Any]) -> Mapping[str, Any]:
    value = threat.get("perturbation")
    return value if isinstance(value, Mapping) else {}


_SEES = {
    "gradients": "sees the model's gradients",
    "scores": "sees only the model's scores",
    "labels": "sees only the model's answers",
}


def unit_word(assessment: Assessment) -> str:
    """What one coordinate of an input is called."""
    if assessment.data.get("features"):
        return "feature"
    shape = tuple(assessment.data.get("shape") or ())
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
    return "pixel" if is_image else "value"


def attacker(assessment: Assessment) -> str:
    """Who attacks: ``An attacker who sees … and changes every pixel by at most 8/255``."""
    threat, unit = assessment.threat, unit_word(assessment)
    kind, eps, text = _perturbation(threat).get("kind"), eps_of(threat), eps_text(threat)
    if eps == 0:
        change = "may change nothing"
    elif eps is not None and math.isinf(eps) and kind != "FeatureEdits":
        change = f"may change {unit}s without limit"
    elif kind == "Linf":
        change = f"changes every {unit} by at most {text}"
    elif kind == "L2":
        change = f"changes each input by at most {text} in Euclidean distance"
    elif kind == "L1":
        change = f"makes changes that sum to at most {text}"
    elif kind == "L0":
        change = f"changes at most {text} {'value' if unit == 'pixel' else unit}{'' if eps == 1 else 's'}"
    elif kind == "FeatureEdits":
        change = _edits(_perturbation(threat), eps, text)
    else:
        change = f"makes changes within “{perturbation_text(threat)}”"
    access = str(threat.get("access"))
    sees = _SEES.get(access, f"has {access} access")
    queries = threat.get("queries")
    if queries is not None:
        sees += f", asks at most {number(queries)} times per input"
    return f"An attacker who {sees} and {change}"


def _edits(perturbation: Mapping[str, Any], eps: float | None, text: str) -> str:
    """What an attacker on a table does."""
    norm, most = perturbation.get("norm"), perturbation.get("max_changed")
    few = f"up to {most} features" if most is not None else "features"
    if eps is None or math.isinf(eps):
        return f"edits {few} in any way that the table's constraints allow"
    by = {
        "linf": f"edits {few}, each by at most {percent(eps)} of its range",
        "l0": f"edits at most {text} feature{'' if eps == 1 else 's'}",
    }.get(str(norm), f"edits {few}, by at most {text} of their ranges in all ({str(norm).capitalize()})")
    return f"{by}, within the table's constraints"


def sentence(assessment: Assessment) -> str:
    """The result in one sentence."""
    count = counts(assessment)
    if count.right == 0:
        return "The model gets none of these inputs right, so there is nothing left for an attacker to break."
    goal = assessment.threat.get("goal")
    verb, stem = "breaks", "break"
    if isinstance(goal, Mapping) and goal.get("kind") == "targeted":
        target = class_name(assessment, int(goal.get("label", -1)))
        verb, stem = f"gets the answer “{target}” for", f"get the answer “{target}” for"
    if count.right == 1:
        deed = verb if count.broken else f"does not {stem}"
        return f"{attacker(assessment)} {deed} the one input the model gets right."
    share = {0: "none", count.right: "all"}.get(count.broken, percent(count.broken / count.right))
    return f"{attacker(assessment)} {verb} {share} of the {number(count.right)} inputs the model gets right."


def refusals(assessment: Assessment) -> str:
    """How many inputs a model that can refuse did refuse without an attack; empty for one that always answers."""
    rate = refused(assessment)
    if rate is None:
        return ""
    return (
        f"{number(rate.count)} of {number(rate.n)} clean inputs {'was' if rate.count == 1 else 'were'} refused. "
        "Broken means answered wrong and accepted: to be refused is no success for an attacker."
    )


@dataclass(frozen=True)
class Headline:
    """A verdict for people: ``tone`` is ``pass``, ``warn``, ``fail`` or ``none``."""

    tone: str
    word: str
    reason: str


def headline(assessment: Assessment) -> Headline:
    """The verdict on an assessment with its reason; without a gate nothing can pass."""
    gate, rate, verdict = assessment.gate, assessment.robust_accuracy, assessment.verdict
    reasons = weaknesses(assessment)
    doubt = f" Besides: {'; '.join(reasons)}." if reasons else ""
    if gate is not None and rate.low <= gate <= rate.high:
        doubt = (
            f" The gate lies inside the interval: another sample of {rate.n} could decide otherwise." + doubt
        )
    if verdict is Verdict.FAIL and gate is not None:
        return Headline("fail", "Fail", f"Robust accuracy is below the gate of {percent(gate)}.{doubt}")
    if verdict is Verdict.NOT_RUN:
        return Headline("warn", "Not run", "This check did not run.")
    if verdict is not Verdict.PASS:
        why = "; ".join(reasons) or "no gate was set"
        return Headline("warn", "Warning", f"The number cannot be relied on as it stands: {why}.")
    if gate is None:
        return Headline("none", "No gate", "No robust accuracy was asked for, so this is a measurement only.")
    return Headline("pass", "Pass", f"Robust accuracy reaches the gate of {percent(gate)}.{doubt}")
