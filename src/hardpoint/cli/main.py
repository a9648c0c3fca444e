"""The ``hardpoint`` command. Only words are parsed here: each command loads what it needs when it is called."""

from __future__ import annotations

import sys

import typer

from hardpoint.cli.app import WORDS, app
from hardpoint.cli.commands import attacking, hardening, proving, showing
from hardpoint.cli.console import one_line
from hardpoint.cli.exits import Exit, guarded
from hardpoint.core.errors import ConfigError

COMMANDS = (attacking, hardening, proving, showing)
"""Their commands are in ``app`` once they are imported."""


def main(words: list[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Args:
        words: the command line after ``hardpoint``; that of the process by default.
    """
    WORDS[:] = sys.argv[1:] if words is None else words
    return guarded(_parsed)


def _parsed() -> int:
    """Run the command in ``WORDS``; what cannot be parsed is an error like any other."""
    try:
        code = typer.main.get_command(app).main(list(WORDS), prog_name="hardpoint", standalone_mode=False)
    except SystemExit:  # the reader of the help text went away
        return Exit.PASS
    except Exception as error:
        told = getattr(error, "format_message", None)
        if told is None:
            raise
        raise ConfigError(
            one_line(told()).rstrip("."), f"see hardpoint {' '.join(WORDS[:1])} --help"
        ) from None
    return int(code or 0)
