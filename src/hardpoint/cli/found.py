"""What lies in a folder that could be a model, weights or data. Nothing is executed and nothing is read in full."""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator
from pathlib import Path

_DEPTH = 2
_MOST = 5000
_SKIPPED = {"node_modules", "__pycache__", "runs", "build", "dist", "site-packages", "venv", "env"}
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
    files = [*_files(folder, (".npz", ".csv", ".tsv", ".parquet")), *_files(folder, ("",), _is_idx_images)]
    return [str(p) for p in sorted(files, key=lambda p: (_rank(p.name.lower()), str(p)))]


def label_column(path: Path) -> str | None:
    """The label column of a CSV file: one with a usual name, else the last; None where ``label`` is it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    lowered = {name.strip().lower(): name for name in reversed(names)}
    known = next((lowered[word] for word in _LABELS if word in lowered), names[-1] if names else "label")
    return None if known == "label" else known


def _rank(name: str) -> int:
    return 0 if any(w in name for w in ("test", "t10k", "val")) else 2 if "train" in name else 1


def _is_idx_images(path: Path) -> bool:
    return "idx3-ubyte" in path.name or "idx4-ubyte" in path.name


def _files(folder: Path, suffixes: tuple[str, ...], fits: object = None) -> list[Path]:
    paths = [p.relative_to(folder) for p in _walk(folder, _DEPTH)][:_MOST]
    if callable(fits):
        return sorted(p for p in paths if fits(p))
    return sorted((p for p in paths if p.suffix.lower() in suffixes), key=lambda p: (len(p.parts), str(p)))


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
