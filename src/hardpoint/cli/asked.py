"""How a command that works in a run folder was called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardpoint.cli.layers import Layer


@dataclass(frozen=True)
class Asked:
    """How the command was called.

    Attributes:
        said: what the command line says about settings.
        config: the configuration file it names.
        out: the run folder it names.
        resume: go on with that run, or with the newest unfinished one; starts it where there is none.
        json_out: print one JSON object instead of lines.
        quiet: no progress and no hints.
        words: the command as typed, for the record.
    """

    said: Layer
    config: Path | None
    out: Path | None
    resume: bool
    json_out: bool
    quiet: bool
    words: Sequence[str]
