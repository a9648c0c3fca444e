"""Comma-separated tables, read one line at a time.

Format: RFC 4180, UTF-8, with or without a byte-order mark.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import torch

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.data.mapped import Block
from hardpoint.data.npy import npy_block
from hardpoint.data.spool import SpoolFolder
from hardpoint.data.streams import open_stream
from hardpoint.data.table import CHUNK_CELLS, Columns, TableOptions, TableWriter, choose_columns, label_number

_MOST_LINE = 1 << 22


def csv_blocks(
    path: Path, options: TableOptions, spool: SpoolFolder, dtype: torch.dtype, limit: int | None
) -> tuple[Block, Block, tuple[str, ...]]:
    """Features, labels and the names of the features.

    Raises:
        NothingToTest: when there is no row.
        DataError: naming the row and the column of the first value that cannot be used.
    """
    separator = "\t" if ".tsv" in path.suffixes else ","
    with open_stream(path) as stream:
        reader = csv.reader(_lines(stream, path), delimiter=separator, strict=True)
        try:
            return _spool_rows(reader, path, options, spool, dtype, limit)
        except csv.Error as error:
            raise DataError(
                f"line {reader.line_num} of {path} cannot be read ({error})",
                "quote and separate it as in RFC 4180",
            ) from None


def _lines(stream: BinaryIO, path: Path) -> Iterator[str]:
    number = 0
    # The limit keeps a file without line ends from being read whole.
    while raw := stream.readline(_MOST_LINE):
        number += 1
        if len(raw) == _MOST_LINE:
            raise DataError(f"line {number} of {path} is longer than {_MOST_LINE} bytes", "is it a CSV file?")
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"line {number} of {path} is not UTF-8 text (byte {raw[error.start]:#04x})",
                "save it as UTF-8",
            ) from None


def _spool_rows(
    reader: Iterator[list[str]],
    path: Path,
    options: TableOptions,
    spool: SpoolFolder,
    dtype: torch.dtype,
    limit: int | None,
) -> tuple[Block, Block, tuple[str, ...]]:
    filled = (cells for cells in reader if cells)  # blank lines are no rows
    first = next(filled, None)
    if first is None:
        raise NothingToTest(f"{path} is empty", "give a table with a header and at least one row")
    names = _column_names(first, path) if options.header else [str(i) for i in range(len(first))]
    columns = choose_columns(names, options, path)
    writer = TableWriter(columns, options, dtype, path, spool)
    step = max(1, CHUNK_CELLS // len(names))
    x: list[list[float]] = []
    y: list[float] = []
    held = [] if options.header else [first]
    for row, cells in enumerate(islice(chain(held, filled), limit)):
        place = f"row {row} of {path}"
        if len(cells) != len(names):
            raise DataError(
                f"{place} has {len(cells)} values, the table has {len(names)} columns",
                "fill in or quote the values of that row",
            )
        x.append(_numbers(cells, columns, place))
        y.append(label_number(columns.label, options.classes, cells[columns.label.at], place))
        if len(x) >= step:
            writer.append(x, y)
            x, y = [], []
    writer.append(x, y)
    inputs, labels = writer.close()
    return npy_block(inputs, path), npy_block(labels, path), columns.names


def _numbers(cells: list[str], columns: Columns, place: str) -> list[float]:
    chosen = [cells[column.at] for column in columns.features]
    if not columns.have_text and "_" not in "".join(chosen):
        try:
            return list(map(float, chosen))
        except ValueError:
            pass  # read again below, to name the column
    return [column.number(text, place) for column, text in zip(columns.features, chosen, strict=True)]


def _column_names(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise DataError(f"{path} is not separated by commas", "write it with commas, or with tabs as .tsv")
    if all(_is_number(name) for name in names):
        raise DataError(
            f"the first line of {path} holds numbers, not the names of columns", "pass header=False"
        )
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
