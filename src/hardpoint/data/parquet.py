"""Parquet tables, read a batch of rows at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hardpoint.core.errors import DataError, MissingExtra, NothingToTest
from hardpoint.data.mapped import Block
from hardpoint.data.npy import npy_block
from hardpoint.data.spool import SpoolFolder
from hardpoint.data.streams import read_errors, refuse_bomb
from hardpoint.data.table import CHUNK_CELLS, Column, TableOptions, TableWriter, choose_columns, label_number


def parquet_blocks(
    path: Path, options: TableOptions, spool: SpoolFolder, dtype: torch.dtype, limit: int | None
) -> tuple[Block, Block, tuple[str, ...]]:
    """Features, labels and the names of the features.

    Raises:
        NothingToTest: when there is no row.
        DataError: naming the row and the column of the first value that cannot be used.
        MissingExtra: without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("parquet", "reading Parquet tables") from None
    with read_errors(path):
        try:
            with pq.ParquetFile(path) as file:
                return _spool_rows(file, path, options, spool, dtype, limit)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"{path} is damaged or no Parquet file ({error})", "write it again") from None


def _spool_rows(
    file: Any, path: Path, options: TableOptions, spool: SpoolFolder, dtype: torch.dtype, limit: int | None
) -> tuple[Block, Block, tuple[str, ...]]:
    total = int(file.metadata.num_rows)
    if total == 0:
        raise NothingToTest(f"{path} holds no rows", "give at least one row")
    columns = choose_columns(file.schema_arrow.names, options, path)
    groups = range(file.metadata.num_row_groups)
    unpacked = sum(int(file.metadata.row_group(i).total_byte_size) for i in groups)
    refuse_bomb(path, max(unpacked, min(total, limit or total) * len(columns.features) * 4))
    writer = TableWriter(columns, options, dtype, path, spool)
    used = [*columns.names, columns.label.name]
    batches = file.iter_batches(batch_size=max(1, CHUNK_CELLS // len(used)), columns=used)
    for batch in batches:
        row = writer.count
        if limit is not None:
            batch = batch.slice(0, limit - row)
        x = [_numbers(batch.column(c.name), c, row, path) for c in columns.features]
        writer.append(
            np.stack(x, axis=1), _labels(batch.column(columns.label.name), columns.label, options, row, path)
        )
        if limit is not None and writer.count >= limit:
            break
    inputs, labels = writer.close()
    return npy_block(inputs, path), npy_block(labels, path), columns.names


def _labels(
    values: Any, column: Column, options: TableOptions, first_row: int, path: Path
) -> NDArray[np.float64]:
    if not _is_text(values):
        return _numbers(values, column, first_row, path)
    numbers = [
        label_number(column, options.classes, text, f"row {first_row + i} of {path}")
        for i, text in enumerate(values.to_pylist())
    ]
    return np.array(numbers, np.float64)


def _numbers(values: Any, column: Column, first_row: int, path: Path) -> NDArray[np.float64]:
    if _is_text(values):
        words = enumerate(values.to_pylist(), first_row)
        return np.array([column.number(word, f"row {row} of {path}") for row, word in words], np.float64)
    if column.codes is not None:
        raise DataError(
            f"column {column.name!r} of {path} holds {values.type}, not text", "take it out of categories"
        )
    if values.null_count:
        row = first_row + int(np.argmax(np.asarray(values.is_null().to_pylist())))
        column.number(None, f"row {row} of {path}")
    numbers = values.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "buif":
        raise DataError(
            f"column {column.name!r} of {path} holds {values.type}",
            "leave it out with columns=…, or store numbers",
        )
    return np.asarray(numbers, np.float64)


def _is_text(values: Any) -> bool:
    import pyarrow.types as kinds

    kind = values.type.value_type if kinds.is_dictionary(values.type) else values.type
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind))
