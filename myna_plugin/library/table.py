"""A library on disk: one row a track, in Parquet, written piece by piece.

=========== ==================================================================================
column      content
=========== ==================================================================================
path        as it was given, or as it was found under the folder that was given
duration_s  seconds
embedding   float32, D numbers a track; for sequences T times D
warning     what is odd about the file: "silent: …", "read short: …"; null for nothing
size        of the file, bytes
modified_ns time of its last change, nanoseconds since 1970
content     SHA-256 of its bytes
sound       SHA-256 of the sound as it is stored, which tags do not change
fingerprint of the sound as it is heard, by which copies in other formats are known
start_s     where a track begins in an album that is one file, seconds; null for a whole file
end_s       where it ends; null for the end of the file
title       by the file's tags, or the album's cue sheet; null where they do not say
artist      likewise
album       likewise
=========== ==================================================================================

What the rows were made with (model, weights, options) is JSON in the schema's metadata, under
"myna".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from myna_plugin.common.files import fault_of_place, replacing
from myna_plugin.common.options import LARGEST
from myna_plugin.library.tracks import LibraryError
from myna_plugin.model.chunks import TOKEN_SHARES
from myna_plugin.model.embedding import PRECISIONS
from myna_plugin.model.encoder import PATCHINGS, POOLINGS

ABOUT = b"myna"

ROW_GROUP = 4096


class Entry(NamedTuple):
    """What a library says of a track beside its embedding; see the columns above."""

    content: str | None = None
    fingerprint: bytes | None = None
    start_s: float | None = None
    end_s: float | None = None
    title: str | None = None
    artist: str | None = None
    album: str | None = None
    sound: str | None = None
    warning: str | None = None


COLUMNS = ["path", "duration_s", "embedding", *Entry._fields]
"""What is read of a library."""

LARGEST_VALUE = 1e8
"""No number of an embedding comes near; far beyond it a product of two lengths is infinite."""

DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, RecursionError)
"""What reading a damaged Parquet file, or one of another kind, raises here."""

Facts = dict[str, Any]


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST


FACTS: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, str),
    "weights": lambda value: isinstance(value, str),
    "patchings": lambda value: (
        isinstance(value, list) and value != [] and all(p in [*PATCHINGS] for p in value)
    ),
    "width": _is_count,
    "precision": lambda value: value in [*PRECISIONS],
    "timestamps": lambda value: isinstance(value, bool),
    "hop_ms": lambda value: value is None or (type(value) in (int, float) and 0 < value <= LARGEST),
    "timestamp_layer": lambda value: value is None or _is_count(value),
    "scene_layers": lambda value: (
        value is None or (isinstance(value, list) and value != [] and all(map(_is_count, value)))
    ),
    "scene_pooling": lambda value: value in [None, *POOLINGS],
    "tokens": lambda value: value in [None, *TOKEN_SHARES],
    "seconds": lambda value: value is None or (type(value) is float and 0 < value <= LARGEST),
}
"""What a library must say it was made with -> whether a value can be meant."""


def check_facts(facts: Any) -> Facts:
    """What a library says it was made with.

    Raises:
        ValueError: something else, or values that `myna embed` does not write.
    """
    if not isinstance(facts, dict):
        raise ValueError("its metadata are no JSON object")
    for name, is_meant in FACTS.items():
        if not is_meant(facts.get(name)):
            raise ValueError(f"{name} in its metadata is {str(facts.get(name))[:40]!r}")
    # Libraries of before there was a choice do not say.
    defaults = {"scene_pooling": "mean", "tokens": 1.0, "seconds": None}
    return {**(dict.fromkeys(defaults) if facts["timestamps"] else defaults), **facts}


def facts_of(schema: pa.Schema) -> Facts:
    """What a file was made with.

    Raises:
        KeyError, ValueError, RecursionError: it does not say, or nothing that can be meant.
    """
    return check_facts(json.loads((schema.metadata or {})[ABOUT]))


def is_library(path: Path) -> bool:
    """Whether a file says that `write_library` made it."""
    if fault_of_place(path):
        return False
    try:
        return ABOUT in (pq.read_schema(path).metadata or {})
    except DAMAGE:
        return False


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
            pa.field("size", pa.int64()),
            pa.field("modified_ns", pa.int64()),
            pa.field("content", pa.string()),
            pa.field("sound", pa.string()),
            pa.field("fingerprint", pa.binary()),
            pa.field("start_s", pa.float64()),
            pa.field("end_s", pa.float64()),
            pa.field("title", pa.string()),
            pa.field("artist", pa.string()),
            pa.field("album", pa.string()),
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
        pq.ParquetWriter(partial, schema, use_dictionary=False, write_page_checksum=True) as writer,
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
        entries: what else is said of the tracks.
    """

    paths: list[str]
    duration_s: np.ndarray
    embeddings: np.ndarray
    facts: Facts
    entries: list[Entry]


def read_library(path: Path) -> Library:
    """Read a library that `write_library` wrote.

    Raises:
        LibraryError: there is none, or it is damaged or of another kind.
    """
    if fault := fault_of_place(path):
        raise LibraryError(
            f"{path}: {fault}; name a file that myna embed wrote, or make it: "
            f"myna embed FOLDER --out {path}"
        )
    check_name(path)
    try:
        return _read(path)
    except DAMAGE as error:
        if isinstance(error, KeyError):
            is_lost = error.args == (ABOUT,)
            lost = "it has no metadata called myna; pandas drops them, pyarrow keeps them"
            error = ValueError(lost if is_lost else f"it has no {error}")
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LibraryError(
            f"{path}: not a library, or damaged ({reason}); name a file that myna embed wrote, or "
            "make it again"
        ) from error


def read_column(path: Path, name: str) -> list[Any]:
    """One column of a library, which its user may have added.

    Raises:
        LibraryError: it has none of this name, or one of vectors.
    """
    schema = pq.read_schema(path)
    plain = [field.name for field in schema if not pa.types.is_nested(field.type)]
    if name not in plain:
        raise LibraryError(f"{path}: no column {name!r}; there are {', '.join(plain)}")
    return pq.read_table(path, columns=[name], partitioning=None)[name].to_pylist()


def _read(path: Path) -> Library:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        facts = facts_of(file.schema_arrow)
        for name in COLUMNS:
            if name not in file.schema_arrow.names:
                raise ValueError(f"it has no column {name}, as those of earlier versions have none")
        schema = pa.schema([schema_of(facts).field(name) for name in COLUMNS])
        paths: list[str] = []
        entries: list[Entry] = []
        durations, blocks = [np.empty(0)], [np.empty((0, facts["width"]), np.float32)]
        for batch in file.iter_batches(ROW_GROUP, columns=COLUMNS):
            rows = pa.Table.from_batches([batch]).select(COLUMNS).cast(schema)
            paths += rows["path"].to_pylist()
            fields = (rows[name].to_pylist() for name in Entry._fields)
            entries += map(Entry, *fields)
            durations.append(rows["duration_s"].to_numpy())
            blocks.append(embeddings_of(rows))
    return Library(paths, np.concatenate(durations), np.concatenate(blocks), facts, entries)


def embeddings_of(rows: pa.Table) -> np.ndarray:
    """Embeddings of some rows, whose schema is a library's; of sequences their means.

    Returns:
        float32, shape (N, D).

    Raises:
        ValueError: a row has none, or one that is not finite.
    """
    column = rows["embedding"].combine_chunks()
    is_vector = pa.types.is_fixed_size_list(column.type)
    if column.null_count:
        raise ValueError("a track has no embedding")
    tracks = [_vectors(column)] if is_vector else [_vectors(row.values) for row in column]
    for track in tracks:
        if not (len(track) or is_vector) or not (np.abs(track) <= LARGEST_VALUE).all():
            raise ValueError("an embedding is empty or not finite")
    if is_vector:
        return tracks[0]
    empty = np.empty((0, column.type.value_type.list_size), np.float32)
    return np.concatenate([empty, *(track.mean(0, keepdims=True) for track in tracks)])


def _vectors(array: pa.Array) -> np.ndarray:
    """A fixed-size list array as (N, D)."""
    width = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
