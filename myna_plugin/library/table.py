"""A library on disk: one row a track, in Parquet, written piece by piece.

======== ===================================================================================
column   content
======== ===================================================================================
path     as it was given, or as it was found under the folder that was given
duration_s seconds
embedding float32, D numbers a track; for sequences T times D
warning  what is odd about the file: "silent: …", "cancelled: …", "read short: …"; null for nothing
======== ===================================================================================

What the rows were made with (model, weights, options) is JSON in the schema's metadata, under
"myna".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from myna_plugin.common.files import replacing
from myna_plugin.library.decoding_pool import LibraryError

ABOUT = b"myna"

ROW_GROUP = 4096

Facts = dict[str, Any]


def embedding_type(width: int, sequences: bool) -> pa.DataType:
    """Arrow type of the column `embedding`."""
    vector = pa.list_(pa.float32(), width)
    return pa.list_(vector) if sequences else vector


def embedding_array(rows: Sequence[np.ndarray | None], width: int, sequences: bool) -> pa.Array:
    """Embeddings as an Arrow array of `embedding_type`.

    None, for a track without, becomes zeros or an empty sequence: no pyarrow before 26 keeps null
    vectors of a fixed size in Parquet.
    """
    absent = np.zeros((0 if sequences else 1, width), np.float32)
    values = [absent if row is None else row.reshape(-1, width) for row in rows]
    flat = np.concatenate([np.empty((0, width), np.float32), *values]).reshape(-1)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    if not sequences:
        return vectors
    ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), vectors)


def schema_of(facts: Facts) -> pa.Schema:
    """Schema of a library file, from what it was made with."""
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("duration_s", pa.float64()),
            pa.field("embedding", embedding_type(facts["width"], facts["timestamps"])),
            pa.field("warning", pa.string()),
        ],
        metadata={ABOUT: json.dumps(facts, sort_keys=True)},
    )


def write_library(
    path: Path, tables: Iterable[pa.Table], facts: Facts, folder: Path | None = None
) -> int:
    """Write a library whole or not at all.

    Args:
        path: ends in .parquet.
        tables: the rows, some at a time.
        facts: what the rows were made with.
        folder: where the unfinished file is kept, on the same disk; None for beside `path`.

    Returns:
        The number of rows.

    Raises:
        LibraryError: another ending.
    """
    check_name(path)
    schema, n_rows = schema_of(facts), 0
    with (
        replacing(path, folder) as partial,
        # No dictionaries: of floats that hardly repeat they make a file half as large again.
        pq.ParquetWriter(partial, schema, use_dictionary=False) as writer,
    ):
        for table in tables:
            n_rows += len(table)
            writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
    return n_rows


def check_name(path: Path) -> None:
    """LibraryError unless a file is named as libraries are."""
    if path.suffix != ".parquet":
        raise LibraryError(f"{path}: a library's name ends in .parquet")


@dataclass(frozen=True)
class Library:
    """A library in memory, one vector a track.

    Attributes:
        paths: of the tracks.
        duration_s: float64, shape (N,).
        embeddings: float32, shape (N, D); of sequences their means over time.
        facts: what the rows were made with: model, weights, options.
    """

    paths: list[str]
    duration_s: np.ndarray
    embeddings: np.ndarray
    facts: Facts


def read_library(path: Path) -> Library:
    """Read a library that `write_library` wrote.

    Raises:
        LibraryError: there is none, or it is damaged or of another kind.
    """
    if not path.is_file():
        raise LibraryError(f"{path}: no such file; make it: myna embed FOLDER --out {path}")
    check_name(path)
    try:
        return _read(path)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LibraryError(f"{path}: not a library, or damaged ({reason})") from error


def _read(path: Path) -> Library:
    with pq.ParquetFile(path) as file:
        facts = json.loads((file.schema_arrow.metadata or {})[ABOUT])
        paths: list[str] = []
        durations, blocks = [np.empty(0)], [np.empty((0, facts["width"]), np.float32)]
        for batch in file.iter_batches(ROW_GROUP, columns=["path", "duration_s", "embedding"]):
            paths += batch["path"].to_pylist()
            durations.append(batch["duration_s"].to_numpy(zero_copy_only=False))
            if facts["timestamps"]:
                sequences = (_vectors(row.values) for row in batch["embedding"])
                blocks += [sequence.mean(0, keepdims=True) for sequence in sequences]
            else:
                blocks.append(_vectors(batch["embedding"]))
    return Library(paths, np.concatenate(durations), np.concatenate(blocks), facts)


def _vectors(array: pa.Array) -> np.ndarray:
    """A fixed-size list array as (N, D)."""
    width = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
