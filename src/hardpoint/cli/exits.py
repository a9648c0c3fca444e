"""Exit codes, and the one place where errors become a line and a code."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from enum import IntEnum

from hardpoint.cli.console import note, one_line, say_json
from hardpoint.core.errors import HardpointError


class Exit(IntEnum):
    """What a command's exit code means; stable."""

    PASS = 0
    GATE_FAILED = 1
    USAGE = 2
    NOTHING_TO_TEST = 3
    INTERNAL = 4
    INCONCLUSIVE = 5
    INTERRUPTED = 130


def guarded(work: Callable[[], int], *, json_out: bool = False, debug: bool = False) -> int:
    """The exit code of ``work``; an error becomes one line on stderr, followed by its notes.

    With ``json_out`` the error is also one JSON object on stdout. ``debug`` or ``HARDPOINT_DEBUG=1`` show where
    it came from.

    >>> guarded(lambda: Exit.PASS)
    0
    """
    try:
        return int(work())
    except KeyboardInterrupt as error:
        _report(error, "interrupted", Exit.INTERRUPTED, json_out, debug)
        return Exit.INTERRUPTED
    except HardpointError as error:
        _report(error, f"error: {error}", error.exit_code, json_out, debug)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        line = f"error: {where}{error.strerror or error}; check the path, its permissions and the free space"
        _report(error, line, Exit.USAGE, json_out, debug)
        return Exit.USAGE
    except SystemExit as error:  # code that the run loaded wanted to end it: nothing was decided
        line = f"error: the model's code called exit({error.code}); take that out"
        _report(error, line, Exit.INTERNAL, json_out, debug)
        return Exit.INTERNAL
    except Exception as error:
        line = f"error: internal: {type(error).__name__}: {error}; run again with --debug and report it"
        _report(error, line, Exit.INTERNAL, json_out, debug)
        return Exit.INTERNAL


def _report(error: BaseException, line: str, code: int, json_out: bool, debug: bool) -> None:
    if debug or os.environ.get("HARDPOINT_DEBUG", "0") not in ("", "0"):
        note("".join(traceback.format_exception(error)).rstrip())
    note(one_line(line))
    hints = [str(hint) for hint in getattr(error, "__notes__", [])]
    for hint in hints:
        note(one_line(hint))
    if json_out:
        what, cure = (error.what, error.cure) if isinstance(error, HardpointError) else (line, "")
        said = {"type": type(error).__name__, "what": what, "cure": cure, "notes": hints}
        say_json({"exit_code": int(code), "error": said})
