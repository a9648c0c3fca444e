"""The kinds of perturbation that a command line or a file of settings can name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        name: of the class in ``hardpoint.threats``.
        size: the argument that ``eps`` gives; None where there is no such number.
        options: further arguments, each under its own name.
        example: of ``eps``.
        words: what it allows.
    """

    name: str
    size: str | None
    example: str
    words: str
    options: tuple[str, ...] = ()


KINDS = {
    "linf": Kind("Linf", "eps", "8/255", "every number changes by at most eps"),
    "l2": Kind("L2", "eps", "0.5", "a change of length eps"),
    "l1": Kind("L1", "eps", "12", "changes that sum to eps"),
    "l0": Kind("L0", "eps", "24", "eps numbers change"),
    "snr": Kind("SNR", "db", "30", "noise at least eps decibels below the signal"),
    "perceptual": Kind("Perceptual", "eps", "3", "no pixel looks more than eps CIEDE2000 units different"),
    "patch": Kind("Patch", "area", "0.02", "a square of the share eps of the image"),
    "spatial": Kind("Spatial", "rotation", "30", "turns of eps degrees, and shifts", ("translation",)),
    "flow": Kind("Flow", "eps", "1", "pixels move by at most eps", ("spacing",)),
    "colour": Kind(
        "Colour", None, "", "limits of the image's colours", ("hue", "saturation", "contrast", "brightness")
    ),
}
"""Tables have their own kind, ``features``, whose constraints come from a schema."""

OPTIONS = tuple(dict.fromkeys(option for kind in KINDS.values() for option in kind.options))
