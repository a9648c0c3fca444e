"""What an attacker may see of a model, and what a model can show."""

from __future__ import annotations

from enum import IntEnum


class Access(IntEnum):
    """The access ladder ``labels < scores < gradients``: a higher rung includes the lower ones.

    >>> Access.parse("scores") < Access.GRADIENTS
    True
    """

    LABELS = 1
    SCORES = 2
    GRADIENTS = 3

    @property
    def word(self) -> str:
        """The word users write, for example ``"scores"``."""
        return self.name.lower()

    @classmethod
    def parse(cls, value: Access | str) -> Access:
        """The rung named ``value``; raises ``ThreatError`` for any other word."""
        if isinstance(value, Access):
            return value
        try:
            return cls[str(value).upper()]
        except KeyError:
            from hardpoint.core.errors import ThreatError

            raise ThreatError(
                f"access {value!r} is unknown", "use one of: labels, scores, gradients"
            ) from None
