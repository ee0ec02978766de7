"""A library on disk: one row a track, in Parquet, NumPy or HDF5, written piece by piece.

======== ===================================================================================
column   content
======== ===================================================================================
path     as it was given, or as it was found under the folder that was given
duration_s seconds
embedding float32, D numbers a track; for sequences T times D
======== ===================================================================================

`.npz` and `.h5` keep these columns as arrays; of sequences all vectors stand one under the other,
and track i has rows offsets[i] to offsets[i + 1]. What the rows were made with (model, weights,
options) is JSON: the Parquet schema's metadata under "myna", the array or attribute "about".
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
        ],
        metadata={ABOUT: json.dumps(facts, sort_keys=True)},
    )


Tables = Callable[[Sequence[str]], Iterator[pa.Table]]
"""Called with names of columns: the rows, some at a time, from the start."""


def write_library(path: Path, tables: Tables, facts: Facts, folder: Path | None = None) -> int:
    """Write a library atomically, in the format that the file's name ends in.

    Args:
        path: ends in .parquet, .npz or .h5.
        tables: the rows; gone through several times, never held together.
        facts: what the rows were made with.
        folder: where the unfinished file is kept, on the same disk; None for beside `path`.

    Returns:
        The number of rows.

    Raises:
        LibraryError: another ending, or h5py is missing.
    """
    check_format(path)
    with replacing(path, folder) as partial:
        return WRITERS[path.suffix](partial, tables, facts)


def check_format(path: Path) -> None:
    """LibraryError unless libraries can be written to and read from files named so."""
    if path.suffix not in WRITERS:
        raise LibraryError(f"{path}: a library's name ends in {', '.join(WRITERS)}")
    if path.suffix == ".h5":
        _h5py(path)


def _write_parquet(path: Path, tables: Tables, facts: Facts) -> int:
    schema, n_rows = schema_of(facts), 0
    # No dictionaries: of floats that hardly repeat they make a file half as large again.
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for table in tables(schema.names):
            n_rows += len(table)
            writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
    return n_rows


@dataclass
class _Totals:
    """What must be known of all rows before the first array is written."""

    paths: int = 0
    longest: int = 1
    vectors: int = 0


def _count(tables: Tables, facts: Facts) -> _Totals:
    totals = _Totals()
    columns = ["path", "embedding"] if facts["timestamps"] else ["path"]
    for table in tables(columns):
        paths = table["path"].to_pylist()
        totals.paths += len(paths)
        totals.longest = max([totals.longest, *map(len, paths)])
        totals.vectors += sum(map(len, _lists(table))) if facts["timestamps"] else len(paths)
    return totals


def _lists(table: pa.Table) -> Iterator[np.ndarray]:
    """Sequences (T, D) of a table with timestamps."""
    for chunk in table["embedding"].chunks:
        for row in chunk:
            yield _vectors(row.values)


def _vectors(array: pa.Array) -> np.ndarray:
    """A fixed-size list array as (N, D)."""
    width = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _matrices(table: pa.Table, facts: Facts) -> Iterator[np.ndarray]:
    """All vectors of a table, some (N, D) at a time."""
    if facts["timestamps"]:
        yield from _lists(table)
    else:
        yield from map(_vectors, table["embedding"].chunks)


def _columns(
    tables: Tables, facts: Facts, totals: _Totals
) -> Iterator[tuple[str, tuple[int, ...], np.dtype, Iterable[np.ndarray]]]:
    """The arrays of a library: name, shape, type and content block by block."""
    text = np.dtype(f"<U{totals.longest}")
    yield (
        "path",
        (totals.paths,),
        text,
        (np.array(t["path"].to_pylist(), text) for t in tables(["path"])),
    )
    yield (
        "duration_s",
        (totals.paths,),
        np.dtype("<f8"),
        (t["duration_s"].to_numpy() for t in tables(["duration_s"])),
    )
    if facts["timestamps"]:
        yield "offsets", (totals.paths + 1,), np.dtype("<i8"), _offsets(tables)
    yield (
        "embedding",
        (totals.vectors, facts["width"]),
        np.dtype("<f4"),
        (block for t in tables(["embedding"]) for block in _matrices(t, facts)),
    )


def _offsets(tables: Tables) -> Iterator[np.ndarray]:
    """Where sequences begin, and the last ends."""
    end = 0
    yield np.array([0])
    for table in tables(["embedding"]):
        ends = end + np.cumsum([len(sequence) for sequence in _lists(table)], dtype=np.int64)
        if len(ends):
            end = int(ends[-1])
            yield ends


def _write_npz(path: Path, tables: Tables, facts: Facts) -> int:
    totals = _count(tables, facts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, shape, dtype, blocks in _columns(tables, facts, totals):
            # ZipInfo's own date is 1980: the same rows then give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                _write_npy(file, shape, dtype, blocks)
        about = np.array(json.dumps(facts, sort_keys=True))
        with archive.open(zipfile.ZipInfo("about.npy"), "w") as file:
            _write_npy(file, (), about.dtype, [about])
    return totals.paths


def _write_npy(
    file: Any, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]
) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype).tobytes())


def _write_h5(path: Path, tables: Tables, facts: Facts) -> int:
    h5py = _h5py(path)
    totals = _count(tables, facts)
    with h5py.File(path, "w") as file:
        file.attrs["about"] = json.dumps(facts, sort_keys=True)
        for name, shape, dtype, blocks in _columns(tables, facts, totals):
            stored = h5py.string_dtype() if dtype.kind == "U" else dtype
            data, start = file.create_dataset(name, shape, stored), 0
            for block in blocks:
                data[start : start + len(block)] = (
                    block.astype(object) if dtype.kind == "U" else block
                )
                start += len(block)
    return totals.paths


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise LibraryError(
            f"{path}: HDF5 needs h5py; pip install 'myna-plugin[hdf5]', or use .parquet or .npz"
        ) from error
    return h5py


WRITERS: dict[str, Callable[[Path, Tables, Facts], int]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
    ".h5": _write_h5,
}


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
    check_format(path)
    try:
        return READERS[path.suffix](path)
    except (pa.ArrowException, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LibraryError(f"{path}: not a library, or damaged ({reason})") from error


def _read_parquet(path: Path) -> Library:
    with pq.ParquetFile(path) as file:
        facts = json.loads((file.schema_arrow.metadata or {})[ABOUT])
        paths: list[str] = []
        durations, blocks = [np.empty(0)], [np.empty((0, facts["width"]), np.float32)]
        for batch in file.iter_batches(ROW_GROUP, columns=["path", "duration_s", "embedding"]):
            table = pa.Table.from_batches([batch])
            paths += table["path"].to_pylist()
            durations.append(table["duration_s"].to_numpy())
            matrices = _matrices(table, facts)
            if facts["timestamps"]:
                matrices = (sequence.mean(0, keepdims=True) for sequence in matrices)
            blocks += matrices
    return Library(paths, np.concatenate(durations), np.concatenate(blocks), facts)


def _read_arrays(arrays: Any, about: str, paths: list[str]) -> Library:
    facts = json.loads(about)
    vectors = arrays["embedding"][()]
    if facts["timestamps"]:
        offsets = arrays["offsets"][()]
        means = [vectors[a:b].mean(0) for a, b in pairwise(offsets)]
        vectors = np.array(means, np.float32).reshape(len(paths), facts["width"])
    return Library(paths, arrays["duration_s"][()], vectors, facts)


def _read_npz(path: Path) -> Library:
    with np.load(path, allow_pickle=False) as file:
        return _read_arrays(file, str(file["about"]), file["path"].tolist())


def _read_h5(path: Path) -> Library:
    with _h5py(path).File(path) as file:
        return _read_arrays(file, file.attrs["about"], list(file["path"].asstr()[()]))


READERS: dict[str, Callable[[Path], Library]] = {
    ".parquet": _read_parquet,
    ".npz": _read_npz,
    ".h5": _read_h5,
}
