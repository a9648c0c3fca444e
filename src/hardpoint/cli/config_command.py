"""``hardpoint config show``: the settings that hold here, and where each comes from."""

from __future__ import annotations

import os
from pathlib import Path

from hardpoint.cli.console import say, say_json
from hardpoint.cli.exits import Exit
from hardpoint.cli.layers import flat, resolve


def show(config: Path | None, *, origin: bool, json_out: bool) -> int:
    """Print every setting; with ``origin`` also the file, variable or ``default`` that says so."""
    resolved = resolve({}, config, os.environ)
    values = flat(resolved.settings)
    if values["http.headers"] is not None:
        values["http.headers"] = dict.fromkeys(values["http.headers"], "(hidden)")
    if json_out:
        said = {key: {"value": value, "origin": resolved.origins[key]} for key, value in values.items()}
        say_json({"exit_code": 0, "file": str(resolved.file or ""), "settings": said})
        return Exit.PASS
    width = max(len(key) for key in values)
    for key, value in values.items():
        shown = "" if value is None else value
        say(f"{key:<{width}} = {shown}" + (f"    # {resolved.origins[key]}" if origin else ""))
    return Exit.PASS
