"""The application that the commands belong to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hardpoint import __version__
from hardpoint.cli.console import say
from hardpoint.cli.exits import Exit

_EPILOG = (
    "Exit codes: 0 pass, 1 gate failed, 2 usage or configuration, 3 nothing to test, 4 internal error, "
    "5 inconclusive, 130 interrupted."
)
STYLE: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"]}, "epilog": _EPILOG}
"""How every command's help looks."""
WORDS: list[str] = []
"""The command line after ``hardpoint``; ``words_of`` gives it to records."""

app = typer.Typer(
    name="hardpoint",
    help="Tells you how a model breaks under attack, with evidence that can be checked.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    **STYLE,
)
config_app = typer.Typer(help="Settings: what holds here, and why.", rich_markup_mode=None)
app.add_typer(config_app, name="config")


def words_of(verb: str) -> tuple[str, ...]:
    """The command line after ``hardpoint``; the verb alone where a command was called without one."""
    return tuple(WORDS) or (verb,)


@app.callback(invoke_without_command=True)
def hardpoint(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> int | None:
    if version:
        say(f"hardpoint {__version__}")
        raise typer.Exit(Exit.PASS)
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(Exit.USAGE)
    return None
