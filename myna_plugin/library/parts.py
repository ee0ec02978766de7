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
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from myna_plugin.common.files import read_json, write_text, write_whole
from myna_plugin.common.locks import locked
from myna_plugin.library.decoding_pool import Details
from myna_plugin.library.table import (
    DAMAGE,
    Facts,
    check_facts,
    embedding_array,
    embeddings_of,
    facts_of,
    is_library,
    schema_of,
    write_library,
)
from myna_plugin.library.tracks import LibraryError, Track, printable

UNIT_TRACKS = 64
"""Tracks of a unit, on average; half of it at least."""

UNIT_BYTES = 512 << 20
"""A unit ends where its files are as large as this together."""

PLAN = "plan.json"

MARKER = "made-by-myna-embed"
"""The file by which a folder of results is known as ours, so that it may be removed."""

KEY = re.compile("[0-9a-f]{32}")
"""What a unit's key looks like."""

OWN_NAMES = re.compile(rf"{KEY.pattern}\.parquet|plan\.json|.+\.lock|.+\.\d+\.tmp")
"""What lies in such a folder, beside the marker."""

STATES = ("size", "modified_ns", "start_s", "end_s")
"""Columns that a track has before it is decoded; its names are among `KEPT`."""

KEPT = Details._fields
"""Columns that come with a track's sound."""

REPORT_COLUMNS = ("path", "reason")


@dataclass(frozen=True)
class Unit:
    """Tracks whose rows become one file.

    Attributes:
        key: digest of all that the rows depend on.
        start: number of its first track.
        tracks: its tracks.
    """

    key: str
    start: int
    tracks: tuple[Track, ...]


@dataclass(frozen=True)
class Row:
    """A track's result: an embedding or a fault.

    Attributes:
        track: what was found.
        duration_s: seconds; None for a fault.
        embedding: float32, shape (D,) or (T, D); None for a fault.
        details: what is kept of its file; None for a fault.
        fault: why there is none.
        warning: what is odd about a track that has one.
    """

    track: Track
    duration_s: float | None = None
    embedding: np.ndarray | None = None
    details: Details | None = None
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


Arrange = Callable[[Iterator[pa.Table]], Iterator[pa.Table]]
"""Tables of new rows, in order, become those of a whole library."""


def plan_units(tracks: Sequence[Track], facts: Facts) -> list[Unit]:
    """Divide tracks into units.

    Where a unit ends depends on the paths around there alone, so files that are added or taken
    away leave all other units as they are.
    """
    units, start, size = [], 0, 0
    for end, track in enumerate(tracks, 1):
        size += max(track.size, 0)
        is_end = _draw(track.path) % (UNIT_TRACKS // 2) == 0 and end - start >= UNIT_TRACKS // 2
        if is_end or size >= UNIT_BYTES or end == len(tracks):
            inside = tuple(tracks[start:end])
            text = json.dumps([schema_of(facts).names, facts, inside], sort_keys=True)
            key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
            units.append(Unit(key, start, inside))
            start, size = end, 0
    return units


def _draw(path: str) -> int:
    """A number that looks random and depends on the path alone."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big")


def encode_part(rows: Sequence[Row], facts: Facts) -> bytes:
    """A unit's rows, in the order of its tracks, as the content of a Parquet file."""
    table = pa.Table.from_pydict(
        {
            "path": [printable(row.track.path) for row in rows],
            "duration_s": pa.array([row.duration_s for row in rows], pa.float64()),
            "embedding": embedding_array(
                [row.embedding for row in rows], facts["width"], facts["timestamps"]
            ),
            "warning": pa.array([row.warning for row in rows], pa.string()),
            **{name: [getattr(row.track, name) for row in rows] for name in STATES},
            **{name: [getattr(row.details, name, None) for row in rows] for name in KEPT},
            "fault": pa.array([row.fault for row in rows], pa.string()),
        },
        _part_schema(facts),
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def _part_schema(facts: Facts) -> pa.Schema:
    return schema_of(facts).append(pa.field("fault", pa.string()))


class Parts:
    """The folder of results beside a library that is being made.

    Args:
        library: the file that will be made; of a link, the file that it leads to.
    """

    def __init__(self, library: Path) -> None:
        if library.is_symlink() and library.is_file():  # which an update would replace by a file
            library = library.resolve()
        self.library = library
        self.folder = library.with_name(f"{library.name}.parts")
        self.report = library.with_name(f"{library.name}.failed.csv")

    def check(self) -> None:
        """See that no file or folder of others would be overwritten or removed.

        Raises:
            LibraryError: one would.
        """
        is_begun = (self.folder / MARKER).is_file()
        if os.path.lexists(self.library) and not is_library(self.library):
            raise LibraryError(
                f"{self.library}: was not made by myna embed; move it away, or give another --out"
            )
        is_folder = self.folder.is_dir() and not self.folder.is_symlink()
        foreign = {
            # Empty, it may be that of a run which was stopped before it wrote the marker.
            self.folder: not (is_folder and (is_begun or not any(self.folder.iterdir()))),
            self.report: not (self.report.is_file() and _is_report(self.report)),
        }
        for path, is_foreign in foreign.items():
            if is_foreign and os.path.lexists(path):
                raise LibraryError(
                    f"{path}: was not made by myna embed; move it away, or give another --out"
                )

    def begin(self, facts: Facts, units: Sequence[Unit], *, shared: bool) -> None:
        """Make the folder and write down the plan.

        Args:
            facts: what the rows are made with.
            units: all of the library's.
            shared: whether other machines work by the same plan.

        Raises:
            LibraryError: they work by another one.
        """
        self._make_folder()
        plan = {"facts": facts, "units": [unit.key for unit in units]}
        if shared and self._plan() not in (None, plan):
            raise LibraryError(
                f"{self.folder}: begun with other options, or where other files were seen; all "
                "shards need the same ones. Delete the folder to begin anew"
            )
        write_text(self.folder / PLAN, json.dumps(plan))

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MARKER).touch()

    def _plan(self) -> dict[str, Any] | None:
        """What `begin` has written down; None for nothing, or if it is damaged."""
        plan = read_json(self.folder / PLAN, None)
        try:
            check_facts(plan["facts"])
            # They become names of files.
            are_keys = all(KEY.fullmatch(key) for key in plan["units"])
        except (TypeError, KeyError, ValueError):
            return None
        return plan if are_keys else None

    def path(self, key: str) -> Path:
        """The file of a unit."""
        return self.folder / f"{key}.parquet"

    def has(self, unit: Unit) -> bool:
        """Whether a unit is done: its part is there, and whole."""
        return _read(self.path(unit.key)) is not None

    def write(self, unit: Unit, content: bytes) -> None:
        """Keep what `encode_part` has made of a unit's rows."""
        write_whole(self.path(unit.key), content)

    def merge(self, arrange: Arrange = iter) -> Merged:
        """Make the library of all units, in order; what failed goes into the report. Tidy up.

        Args:
            arrange: puts the rows of a former library between those of the units.

        Returns:
            What the library holds, and what it does not.

        Raises:
            LibraryError: there is no plan, units are missing, or something of others is in the way.
        """
        self.check()
        plan = self._plan()
        if plan is None and (self.folder / PLAN).exists():
            raise LibraryError(
                f"{self.folder / PLAN}: damaged; give the command of a shard again, which mends it"
            )
        if plan is None and self.library.exists():
            raise LibraryError(f"{self.library}: is finished; there is nothing to merge")
        if plan is None:
            raise LibraryError(
                f"{self.folder}: no such folder, or nothing in it; it is what myna embed --shard "
                "leaves for merging"
            )
        files = [self.path(key) for key in plan["units"]]
        columns = schema_of(plan["facts"]).names
        failed: list[tuple[str, str]] = []
        warned: list[tuple[str, str]] = []

        def tables() -> Iterator[pa.Table]:
            missing = 0
            for rows in map(_read, files):
                if rows is None:
                    missing += 1
                elif not missing:
                    failed.extend(_texts(rows, "fault"))
                    warned.extend(_texts(rows, "warning"))
                    yield _without_faults(rows).select(columns)
            if missing:
                raise LibraryError(
                    f"{self.folder}: {missing} of {len(files)} parts are missing or damaged; let "
                    "all shards end (the same command goes on where it stopped), or copy their "
                    "folders into one"
                )

        # Unfinished it lies among the parts, so that a killed run leaves nothing elsewhere.
        n_rows = write_library(self.library, arrange(tables()), plan["facts"], self.folder)
        self._report(failed)
        self.remove()
        return Merged(n_rows, failed, warned)

    def remove(self) -> None:
        """Remove what is ours in the folder, the marker last, and the folder if it is then empty.

        Something else may lie there: what a user put into it, or what NFS keeps of open files.
        """
        for path in list(self.folder.iterdir()):
            if OWN_NAMES.fullmatch(path.name) and not path.is_dir():
                path.unlink()
        (self.folder / MARKER).unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def texts(self, units: Sequence[Unit]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Path and text of the tracks of some units, all done, with a fault, and with a warning."""
        failed: list[tuple[str, str]] = []
        warned: list[tuple[str, str]] = []
        for unit in units:
            columns = ["path", "fault", "warning"]
            rows = pq.read_table(self.path(unit.key), columns=columns, partitioning=None)
            failed += _texts(rows, "fault")
            warned += _texts(rows, "warning")
        return failed, warned

    def failed_before(self) -> set[str]:
        """Paths that the report lists, from an earlier run."""
        if not self.report.is_file():
            return set()
        with self.report.open(newline="", encoding="utf-8", errors="replace") as file:
            return {row[REPORT_COLUMNS[0]] for row in csv.DictReader(file)}

    def _report(self, failed: Sequence[tuple[str, str]]) -> None:
        """Write the report, or remove that of an earlier run."""
        if not failed:
            self.report.unlink(missing_ok=True)
            return
        text = io.StringIO()
        csv.writer(text).writerows([REPORT_COLUMNS, *failed])
        write_whole(self.report, text.getvalue().encode())

    def locked(self, name: str) -> AbstractContextManager[None]:
        """While the block runs no other process does the same work."""
        self._make_folder()
        busy = f"{self.library}: another process is making it; wait for its end"
        return locked(self.folder / f"{name}.lock", busy, LibraryError)


def _is_report(path: Path) -> bool:
    head = ",".join(REPORT_COLUMNS).encode()
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _read(file: Path) -> pa.Table | None:
    """A part, checked; None if there is none, or no whole one."""
    try:
        table = pq.read_table(file, partitioning=None, page_checksum_verification=True)
        table = table.cast(_part_schema(facts_of(table.schema)))
        embeddings_of(_without_faults(table))
    except DAMAGE:
        return None
    return table


def _without_faults(part: pa.Table) -> pa.Table:
    return part.filter(pc.is_null(part["fault"]))


def _texts(rows: pa.Table, column: str) -> list[tuple[str, str]]:
    rows = rows.filter(pc.is_valid(rows[column]))
    return list(zip(rows["path"].to_pylist(), rows[column].to_pylist(), strict=True))
