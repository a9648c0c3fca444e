"""What lies in a folder that could be a model, weights or data. Nothing is executed and nothing is read in full."""

from __future__ import annotations

import ast
import csv
import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DEPTH = 2
_MOST = 5000
_SKIPPED = {"node_modules", "__pycache__", "runs", "build", "dist", "site-packages", "venv", "env"}
_TABLES = (".npz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_FACTORIES = ("load_model", "load", "make_model", "build_model", "create_model", "get_model", "model", "net")
_LABELS = ("label", "class", "target", "y")


def found_models(folder: Path) -> list[str]:
    """ONNX files, then functions of Python files here that look as if they made a model."""
    onnx = [str(p) for p in _files(folder, (".onnx",))]
    return onnx + [spec for path in sorted(folder.glob("*.py")) for spec in _factories(path)]


def found_weights(folder: Path) -> list[str]:
    """Weights files."""
    return [str(p) for p in _files(folder, (".safetensors", ".pt", ".pth"))]


def found_data(folder: Path) -> list[str]:
    """Files of labelled inputs, those named after a test set first."""
    files = [*_files(folder, _TABLES), *_files(folder, ("-ubyte", "-ubyte.gz"))]
    files = [p for p in files if "ubyte" not in p.name or _is_idx_images(p)]
    return [str(p) for p in sorted(files, key=lambda p: (_rank(p.name.lower()), str(p)))]


def table_options(path: Path) -> dict[str, Any]:
    """How a CSV file is read: whether its first line names the columns, and which of them is the label.

    The label is a column with a usual name, else the last. Nothing is said where the defaults hold.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            cells = next(csv.reader(file, delimiter="\t" if ".tsv" in path.suffixes else ","), [])
    except (OSError, EOFError, UnicodeDecodeError, csv.Error):
        return {}
    if not cells:
        return {}
    if all(_is_number(cell) for cell in cells):
        return {"header": False, "label": -1}
    lowered = {cell.strip().lower(): cell for cell in reversed(cells)}
    known = next((lowered[word] for word in _LABELS if word in lowered), cells[-1])
    return {} if known == "label" else {"label": known}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _rank(name: str) -> int:
    return 0 if any(w in name for w in ("test", "t10k", "val")) else 2 if "train" in name else 1


def _is_idx_images(path: Path) -> bool:
    return "idx3-ubyte" in path.name or "idx4-ubyte" in path.name


def _files(folder: Path, ends: tuple[str, ...]) -> list[Path]:
    paths = [p.relative_to(folder) for p in itertools.islice(_walk(folder, _DEPTH), _MOST)]
    return sorted((p for p in paths if p.name.lower().endswith(ends)), key=lambda p: (len(p.parts), str(p)))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SKIPPED or entry.is_symlink():
            continue
        if entry.is_file():
            yield entry
        elif depth > 1 and entry.is_dir():
            yield from _walk(entry, depth - 1)


def _factories(path: Path) -> list[str]:
    """``module:function`` for functions with a usual name that need no argument."""
    if not path.stem.isidentifier():
        return []
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    callable_here = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and len(node.args.args) <= len(node.args.defaults)
    }
    return [f"{path.stem}:{name}" for name in _FACTORIES if name in callable_here]
