"""``hardpoint doctor``: the pre-flight checks alone."""

from __future__ import annotations

import os
from pathlib import Path

from hardpoint.assess import doctor
from hardpoint.cli.build import build_data, build_model, check_together
from hardpoint.cli.console import say, say_json
from hardpoint.cli.defence import with_defence
from hardpoint.cli.exits import Exit
from hardpoint.cli.layers import Layer, resolve
from hardpoint.evidence import Severity
from hardpoint.report.reading import by_severity


def run(said: Layer, config: Path | None, *, json_out: bool, quiet: bool) -> int:
    """Print what would make a robustness number meaningless or weak, the gravest first."""
    resolved = resolve(said, config, os.environ)
    model = build_model(resolved)
    data = build_data(resolved.settings)
    check_together(model, data, [])
    model, data = with_defence(resolved.settings, model, data, quiet=quiet)
    findings = by_severity(doctor(model, data, allow_training=resolved.settings.run.allow_training))
    failing = sum(finding.severity is Severity.FAIL for finding in findings)
    code = Exit.GATE_FAILED if failing else Exit.PASS
    name = str(model.describe().get("name") or "model")
    if json_out:
        shown = [finding.describe() for finding in findings]
        say_json({"exit_code": int(code), "model": name, "inputs": len(data), "findings": shown})
        return code
    for finding in findings:
        say(f"{finding.severity.word.upper():<8} {finding.id}  {finding.title}: {finding.message}")
        if not quiet:
            say(f"{'':<15} cure: {finding.cure}")
    word = "FAIL" if failing else "PASS"
    say(
        f"{word}  {name}  {len(findings)} finding{'' if len(findings) == 1 else 's'}, {failing} that void a number"
    )
    if not quiet:
        say(f"next:     {'cure what fails, then run this again' if failing else 'hardpoint assess'}")
    return code
