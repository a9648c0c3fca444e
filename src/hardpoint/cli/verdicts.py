"""The lines a command ends with, and the exit code they amount to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hardpoint.cli.exits import Exit
from hardpoint.evidence import Assessment, Verdict
from hardpoint.report.reading import weaknesses


def verdict_word(record: Assessment) -> str:
    """``PASS``, ``FAIL``, ``WARN`` (the number cannot be relied on), or ``NO GATE``: nothing was asked for."""
    if record.verdict is Verdict.PASS and record.gate is None:
        return "NO GATE"
    return record.verdict.word.upper()


def verdict_lines(record: Assessment) -> Iterator[str]:
    """One line per assessment, and one per reason to doubt it."""
    gate = "no gate" if record.gate is None else f"gate {100 * record.gate:g} %"
    count = len(record.findings)
    yield (
        f"{verdict_word(record)}  {record.name}  robust {record.robust_accuracy}, "
        f"clean {100 * record.clean_accuracy.value:.1f} %, {gate}, {count} finding{'' if count == 1 else 's'}"
    )
    for reason in weaknesses(record):
        yield f"      {reason}"


def exit_code(records: Sequence[Assessment], planned: int) -> Exit:
    """A missed gate weighs most; anything that voids a number, or did not run, is inconclusive."""
    verdicts = [record.verdict for record in records]
    if Verdict.FAIL in verdicts:
        return Exit.GATE_FAILED
    if len(records) < planned or any(verdict is not Verdict.PASS for verdict in verdicts):
        return Exit.INCONCLUSIVE
    return Exit.PASS
