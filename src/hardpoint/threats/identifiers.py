"""Where a threat stands in the public catalogues of threats.

Identifiers only, no catalogue text: MITRE ATLAS (data release 5.6), NIST AI 100-2e2025 (NISTAML numbers),
OWASP Machine Learning Security Top Ten (2023 draft), MITRE CWE.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hardpoint.core.access import Access


@dataclass(frozen=True)
class Identifiers:
    """Catalogue entries of one threat and of the mitigations that address it."""

    atlas: tuple[str, ...]
    nist: tuple[str, ...]
    owasp: tuple[str, ...]
    cwe: tuple[str, ...]
    mitigations: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {key: list(value) for key, value in asdict(self).items()}


_WHITE_BOX_EVASION = Identifiers(
    atlas=("AML.T0015", "AML.T0043.000"),
    nist=("NISTAML.022",),
    owasp=("ML01:2023",),
    cwe=("CWE-1039",),
    mitigations=("AML.M0003", "AML.M0006", "AML.M0010", "AML.M0015"),
)
_BLACK_BOX_EVASION = Identifiers(
    atlas=("AML.T0015", "AML.T0043.001"),
    nist=("NISTAML.025",),
    owasp=("ML01:2023",),
    cwe=("CWE-1039", "CWE-799"),
    mitigations=("AML.M0002", "AML.M0004", "AML.M0015", "AML.M0024"),
)


def evasion_identifiers(access: Access) -> Identifiers:
    """The entries for evasion by an attacker with this access.

    >>> evasion_identifiers(Access.GRADIENTS).nist
    ('NISTAML.022',)
    """
    return _WHITE_BOX_EVASION if access is Access.GRADIENTS else _BLACK_BOX_EVASION
