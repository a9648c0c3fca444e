"""What the checks say together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hardpoint.evidence.assessment import Check, CurvePoint, StageRecord, Verdict
from hardpoint.evidence.finding import Finding, Severity, finding

_RED = (Verdict.FAIL, Verdict.WARN)


@dataclass(frozen=True)
class Strength:
    """The checks, the findings of those that did not pass, and robust accuracy against eps."""

    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    eps_curve: tuple[CurvePoint, ...] = ()

    @classmethod
    def of(cls, checks: Iterable[Check], eps_curve: tuple[CurvePoint, ...] = ()) -> Strength:
        """The checks with a finding for each that did not pass."""
        known = tuple(checks)
        return cls(known, _findings(known), eps_curve)

    @property
    def misleading(self) -> tuple[str, ...]:
        """Ids of the checks that say a stronger search would find more. That gradients miss a few inputs which a
        black-box attack found is worth a warning, but no reason to follow gradients for longer."""
        return tuple(c.id for c in self.checks if c.verdict in _RED and not _is_mere_warning(c))

    def after(self, first: Strength, reasons: tuple[str, ...], stages: tuple[StageRecord, ...]) -> Strength:
        """These checks of a widened search joined with those of the ``first``, and a finding that says why it was
        widened. A check that passes now but did not at first warns: gradients mislead here, whatever else was found."""
        known = {c.id: c for c in first.checks}
        checks = tuple(_joined(known[c.id], c) if c.id in known else c for c in self.checks)
        more, because = sum(s.broken for s in stages), ", ".join(dict.fromkeys(reasons))
        said = finding("HP307", f"because of {because}; that broke {more} more inputs", measured=float(more))
        return Strength(checks, (*_findings(checks), said), self.eps_curve)


def _is_mere_warning(check: Check) -> bool:
    return check.id == "HP317" and check.verdict is Verdict.WARN


def _joined(before: Check, now: Check) -> Check:
    if now.verdict in _RED or before.verdict not in _RED:
        return now
    words = f"{before.explanation}; after the search was widened: {now.explanation}"
    return replace(before, verdict=Verdict.WARN, explanation=words)


def _findings(checks: Iterable[Check]) -> tuple[Finding, ...]:
    return tuple(
        finding(
            c.id,
            c.explanation,
            severity=Severity.FAIL if c.verdict is Verdict.FAIL else Severity.WARNING,
            measured=c.measured,
            threshold=c.threshold,
        )
        for c in checks
        if c.verdict in _RED
    )
