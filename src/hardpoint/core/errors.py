"""Errors a user can act on: each names the thing that is wrong and the cure.

The command line prints them in one line and exits with ``exit_code``; nothing else is printed.
"""

from __future__ import annotations


class HardpointError(Exception):
    """Base of every error a user can cause and cure.

    Args:
        what: what is wrong, naming the thing (layer, row, key, file).
        cure: what to do about it, in the imperative.

    >>> str(DataError("row 3 holds NaN", "drop or impute it"))
    'row 3 holds NaN; drop or impute it'
    """

    exit_code = 2

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what, cure)
        self.what = what
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}" if self.cure else self.what


class ConfigError(HardpointError):
    """A configuration file, an option or an environment variable is wrong."""


class ThreatError(HardpointError):
    """A threat is impossible or contradicts the model or the data."""


class DataError(HardpointError):
    """The inputs or labels cannot be used; names the first bad row."""


class NothingToTest(DataError):
    """There is no input left to test."""

    exit_code = 3


class ModelError(HardpointError):
    """The model cannot be assessed as it is."""


class ModelInTrainingMode(ModelError):
    """A layer whose behaviour depends on the mode is in training mode."""


class NonFiniteOutput(ModelError):
    """The model returned NaN or infinity."""


class BadModelOutput(ModelError):
    """The model returned something other than one row of at least two class scores per input."""


class AccessDenied(ModelError):
    """The model does not offer, or the threat does not allow, what was asked of it."""


class UnsafeModelFile(ModelError):
    """The file could execute code when loaded, so it was not loaded."""


class UnreadableModelFile(ModelError):
    """The file is truncated, malformed or points outside its folder."""


class EndpointError(ModelError):
    """A served model did not answer."""


class RunError(HardpointError):
    """A run folder cannot be written, read or resumed."""


class MissingExtra(HardpointError):
    """An optional dependency is needed.

    >>> str(MissingExtra("onnx", "reading ONNX models"))
    "reading ONNX models needs the 'onnx' extra; pip install 'hardpoint[onnx]'"
    """

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the {extra!r} extra", f"pip install 'hardpoint[{extra}]'")
