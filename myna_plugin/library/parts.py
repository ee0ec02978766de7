"""Results while a library is being embedded: files that are written whole and never changed.

The tracks are divided into units of some dozens. A unit's rows, its failures among them, become one
file beside the library, named by what they depend on: model, options, and every file's path, size
and time of change. So a run that is killed at any instant goes on with the units that have no file,
however the folder has changed since, and several machines may work on one library.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from myna_plugin.common.files import replacing
from myna_plugin.common.locks import locked
from myna_plugin.library.decoding_pool import LibraryError
from myna_plugin.library.table import (
    Facts,
    embedding_array,
    schema_of,
    write_library,
)

UNIT_TRACKS = 64
"""Tracks of a unit, on average; half of it at least."""

UNIT_BYTES = 512 << 20
"""A unit ends where its files are as large as this together."""

PLAN = "plan.json"


@dataclass(frozen=True)
class Unit:
    """Tracks whose rows become one file.

    Attributes:
        key: digest of all that the rows depend on.
        start: number of its first track.
        paths: of its tracks.
    """

    key: str
    start: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A track's result: an embedding or a fault.

    Attributes:
        path: of the track.
        duration_s: seconds; None for a fault.
        embedding: float32, shape (D,) or (T, D); None for a fault.
        fault: why there is none.
        warning: what is odd about a track that has one.
    """

    path: str
    duration_s: float | None = None
    embedding: np.ndarray | None = None
    fault: str | None = None
    warning: str | None = None


class Merged(NamedTuple):
    """What a library was made of.

    Attributes:
        n_rows: its rows.
        failed: path and reason of the tracks that have none.
        warned: path and warning of those that have one, with something odd about it.
    """

    n_rows: int
    failed: list[tuple[str, str]]
    warned: list[tuple[str, str]]


def plan_units(paths: Sequence[str], facts: Facts) -> list[Unit]:
    """Divide tracks into units.

    Where a unit ends depends on the paths around there alone, so files that are added or taken
    away leave all other units as they are.
    """
    units, start, size, states = [], 0, 0, list[tuple[str, int, int]]()
    for number, path in enumerate(paths):
        states.append(_state(path))
        size += max(states[-1][1], 0)
        is_end = _draw(path) % (UNIT_TRACKS // 2) == 0 and number + 1 - start >= UNIT_TRACKS // 2
        if is_end or size >= UNIT_BYTES or number + 1 == len(paths):
            text = json.dumps([schema_of(facts).names, facts, states], sort_keys=True)
            key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
            units.append(Unit(key, start, tuple(paths[start : number + 1])))
            start, size, states = number + 1, 0, []
    return units


def printable(path: str) -> str:
    """A path as text: bytes that are no UTF-8 become the replacement character."""
    return os.fsencode(path).decode(errors="replace")


def _draw(path: str) -> int:
    """A number that looks random and depends on the path alone."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big")


def _state(path: str) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return path, -1, -1
    return path, status.st_size, status.st_mtime_ns


def encode_part(rows: Sequence[Row], facts: Facts) -> bytes:
    """A unit's rows, in the order of its tracks, as the content of a Parquet file."""
    table = pa.Table.from_pydict(
        {
            "path": [printable(row.path) for row in rows],
            "duration_s": pa.array([row.duration_s for row in rows], pa.float64()),
            "embedding": embedding_array(
                [row.embedding for row in rows], facts["width"], facts["timestamps"]
            ),
            "warning": pa.array([row.warning for row in rows], pa.string()),
            "fault": pa.array([row.fault for row in rows], pa.string()),
        },
        schema_of(facts).append(pa.field("fault", pa.string())),
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


class Parts:
    """The folder of results beside a library that is being made.

    Args:
        library: the file that will be made.
    """

    def __init__(self, library: Path) -> None:
        self.library = library
        self.folder = library.with_name(f"{library.name}.parts")
        self.report = library.with_name(f"{library.name}.failed.csv")

    def begin(self, facts: Facts, units: Sequence[Unit], *, shared: bool) -> None:
        """Make the folder and write down the plan.

        Args:
            facts: what the rows are made with.
            units: all of the library's.
            shared: whether other machines work by the same plan.

        Raises:
            LibraryError: they work by another one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = {"facts": facts, "units": [unit.key for unit in units]}
        file = self.folder / PLAN
        if shared and file.exists() and json.loads(file.read_text()) != plan:
            raise LibraryError(
                f"{self.folder}: begun with other options, or where other files were seen; all "
                "shards need the same ones. Delete the folder to begin anew"
            )
        self._write(file, json.dumps(plan).encode())

    def path(self, key: str) -> Path:
        """The file of a unit."""
        return self.folder / f"{key}.parquet"

    def has(self, unit: Unit) -> bool:
        """Whether a unit is done."""
        return self.path(unit.key).exists()

    def write(self, unit: Unit, content: bytes) -> None:
        """Keep what `encode_part` has made of a unit's rows."""
        self._write(self.path(unit.key), content)

    def _write(self, path: Path, content: bytes) -> None:
        with replacing(path) as partial:
            partial.write_bytes(content)

    def merge(self) -> Merged:
        """Make the library of all units, in order; what failed goes into the report. Tidy up.

        Returns:
            What the library holds, and what it does not.

        Raises:
            LibraryError: there is no plan, or units are missing.
        """
        try:
            plan = json.loads((self.folder / PLAN).read_text())
        except FileNotFoundError:
            raise LibraryError(
                f"{self.folder}: no such folder, or nothing in it; it is what myna embed --shard "
                "leaves for merging"
            ) from None
        files = [self.path(key) for key in plan["units"]]
        missing = [i for i, file in enumerate(files) if not file.exists()]
        if missing:
            raise LibraryError(
                f"{self.folder}: {len(missing)} of {len(files)} parts are missing; let all shards "
                "end (the same command goes on where it stopped), or copy their folders into one"
            )

        columns = schema_of(plan["facts"]).names
        tables = (_rows(file).select(columns) for file in files)
        failed = [row for file in files for row in _texts(file, "fault")]
        warned = [row for file in files for row in _texts(file, "warning")]
        # Unfinished it lies among the parts, so that a killed run leaves nothing elsewhere.
        n_rows = write_library(self.library, tables, plan["facts"], self.folder)
        self._report(failed)
        shutil.rmtree(self.folder)
        return Merged(n_rows, failed, warned)

    def texts(self, units: Sequence[Unit], column: str) -> list[tuple[str, str]]:
        """Path and text of the tracks of some units, all done, with a "fault" or a "warning"."""
        return [row for unit in units for row in _texts(self.path(unit.key), column)]

    def _report(self, failed: Sequence[tuple[str, str]]) -> None:
        """Write the report, or remove that of an earlier run."""
        if not failed:
            self.report.unlink(missing_ok=True)
            return
        text = io.StringIO()
        csv.writer(text).writerows([("path", "reason"), *failed])
        self._write(self.report, text.getvalue().encode())

    def locked(self, name: str) -> AbstractContextManager[None]:
        """While the block runs no other process does the same work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = f"{self.library}: another process is making it; wait for its end"
        return locked(self.folder / f"{name}.lock", busy, LibraryError)


def _rows(file: Path) -> pa.Table:
    table = pq.read_table(file, partitioning=None)
    return table.filter(pc.is_null(table["fault"]))


def _texts(file: Path, column: str) -> list[tuple[str, str]]:
    table = pq.read_table(file, columns=["path", column], partitioning=None)
    rows = table.filter(pc.is_valid(table[column]))
    return list(zip(rows["path"].to_pylist(), rows[column].to_pylist(), strict=True))
