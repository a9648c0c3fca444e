"""Threats in one word, for the command line.

::

    KIND[:EPS][@OPTION[:OPTION ...]]

    KIND     linf, l2, l1, l0, snr, perceptual, patch, spatial, flow, colour or features
    EPS      a number or a fraction: the budget; decibels for snr, the share of the image for patch, degrees for
             spatial, pixels for flow
    OPTION   gradients, scores, labels    what the attacker sees; all the model shows by default
             1000q                        how often it may ask about one input
             to=3                         the label it wants; any wrong one by default
             gate=0.45                    the robust accuracy asked for
             schema=FILE, norm=l2, max=3  for features: the schema, the norm of eps, the most changes
    translation=0.1              for spatial: the largest shift, as a share of the side
    spacing=4                    for flow: pixels between control points
    hue=30, saturation=0.3, contrast=0.2, brightness=0.1  for colour: degrees, and shares
"""

from __future__ import annotations

import re
from typing import Any

from hardpoint.cli.threat_kinds import KINDS, OPTIONS
from hardpoint.core.errors import ConfigError
from hardpoint.core.suggest import did_you_mean

_KINDS = [*KINDS, "features"]
_WORDS = ["gradients", "scores", "labels"]
_KEYS = {
    "to": "target",
    "gate": "gate",
    "schema": "schema",
    "norm": "norm",
    "max": "max_changed",
    **{option: option for option in OPTIONS},
}
_FORM = "write it as linf:8/255, l2:0.5@scores:1000q or features:0.3@schema=rows.toml"


def read_threat(text: str) -> dict[str, Any]:
    """The entries of a ``[[threats]]`` table that ``text`` stands for.

    Raises:
        ConfigError: naming the part that cannot be read.

    >>> read_threat("l2:0.5@scores:1000q")
    {'kind': 'l2', 'eps': '0.5', 'access': 'scores', 'queries': '1000'}
    """
    head, at, tail = text.strip().partition("@")
    kind, colon, eps = head.partition(":")
    if kind.lower() not in _KINDS:
        raise ConfigError(f"threat {text!r}: kind {kind!r} is unknown", did_you_mean(kind.lower(), _KINDS))
    if (colon and not eps) or (at and not tail):
        raise ConfigError(f"threat {text!r} ends too soon", _FORM)
    found: dict[str, Any] = {"kind": kind.lower(), **({"eps": eps} if eps else {})}
    for option in tail.split(":") if tail else []:
        key, value = _option(text, option)
        if key in found:
            raise ConfigError(f"threat {text!r} says {key} twice", "say it once")
        found[key] = value
    return found


def _option(text: str, option: str) -> tuple[str, str]:
    if option in _WORDS:
        return "access", option
    if re.fullmatch(r"\d+q", option):
        return "queries", option[:-1]
    key, equals, value = option.partition("=")
    if equals and key in _KEYS and value:
        return _KEYS[key], value
    known = [*_WORDS, "1000q", *(f"{key}=…" for key in _KEYS)]
    raise ConfigError(f"threat {text!r}: option {option!r} is unknown", did_you_mean(option, known))
