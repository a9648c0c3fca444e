"""Writing to the terminal: results on stdout, all else on stderr. A reader that went away is no error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from hardpoint.core.errors import RunError


def say(text: str = "") -> None:
    """One or more lines of the result."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """Something about the run, not part of its result."""
    _write(sys.stderr, text)


def say_json(value: Mapping[str, Any]) -> None:
    """The result as one JSON object."""
    say(json.dumps(value, indent=1, allow_nan=False, default=str))


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters, which names and messages may hold.

    >>> one_line("a\\n  b\\x1b[2J")
    'a b?[2J'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _write(stream: TextIO, text: str) -> None:
    safe = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    try:
        stream.write(safe + "\n")
        stream.flush()
    except UnicodeEncodeError:
        stream.write(safe.encode("ascii", "backslashreplace").decode("ascii") + "\n")
        stream.flush()
    except BrokenPipeError:
        _discard(stream)
    except OSError as error:
        _discard(stream)
        raise RunError(
            f"cannot write the result: {error.strerror or error}", "give it another way out"
        ) from None


def _discard(stream: TextIO) -> None:
    """Send what follows, and what the interpreter flushes at exit, nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
