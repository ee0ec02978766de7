"""What of a library can stay when its music has changed, and what is to be embedded.

A file is the one that a row was made of if path, size and time of change are the row's, or if its
content is, or its sound as it is stored. So what was moved, copied, tagged or merely touched keeps
its embedding. Contents are compared, which means reading the file, only where a row has the same
size; sounds only of files that have changed, or may have been moved as well.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from myna_plugin.common.files import digest_path
from myna_plugin.common.progress import ProgressBar
from myna_plugin.library.decoding_pool import find_sound, read_names
from myna_plugin.library.parts import plan_units
from myna_plugin.library.table import DAMAGE, Facts, facts_of, schema_of
from myna_plugin.library.tracks import SHOWN_AFTER_S, LibraryError, Track, printable

State = tuple[str | float | None, ...]

STATE_COLUMNS = Track._fields
"""The columns that say what a row was made of, but for its file's content."""

NAMES = ("title", "artist", "album")

MAY_DIFFER = ("model", "version")
"""Facts that two libraries of equal rows may differ in: the weights' digest says what the name
means."""

HELD_GROUPS = 8
"""Row groups of the former library that are kept in memory: 64 tracks each, about."""

LARGEST_LOSS = 0.5
"""Share of a library's rows beyond which it is thought that a disk is missing."""


@dataclass(frozen=True)
class Known:
    """What rows of a library were made of, a value a row.

    Attributes:
        states: `Track.state`.
        contents: SHA-256 of the files.
        sounds: SHA-256 of their sound, as it is stored.
    """

    states: list[State]
    contents: list[str | None]
    sounds: list[str | None]

    def name(self, row: int) -> State:
        """`Track.name` of a row."""
        return (self.states[row][0], *self.states[row][3:])

    def piece(self, row: int) -> State:
        """Content and span."""
        return (self.contents[row], *self.states[row][3:5])


@dataclass
class Changes:
    """How a list of tracks compares with a library.

    Attributes:
        rows: for every track the row that it keeps; None if it is to be embedded.
        counts: tracks by what has become of them: "as they were", "moved", "copied", "with other
            tags", "changed", "new", "failed before"; and rows that are "gone".
        tagged: numbers of the tracks whose row is of the same sound in a file of other bytes.
    """

    rows: list[int | None]
    counts: Counter[str] = field(default_factory=Counter)
    tagged: set[int] = field(default_factory=set)


def compare(
    tracks: Sequence[Track],
    known: Known,
    failed_before: set[str],
    digest: Callable[[str], str | None],
    find_sound: Callable[[str], str | None],
) -> Changes:
    """Find each track's row.

    Args:
        tracks: as they are now.
        known: what the library's rows were made of.
        failed_before: paths of files that could not be used.
        digest: of a file's content; None if it cannot be read.
        find_sound: digest of its sound; likewise.
    """
    n_rows = len(known.states)
    row_of = {known.name(row): row for row in range(n_rows)}
    rows_with: dict[State, list[int]] = {}
    rows_like: dict[str | None, list[int]] = {}
    for place in range(n_rows):
        rows_with.setdefault(known.piece(place), []).append(place)
        if known.states[place][3] is None:
            rows_like.setdefault(known.sounds[place], []).append(place)
    sizes = {state[1] for state in known.states}
    present = {track.name for track in tracks}
    is_missing = any(known.name(row) not in present for row in range(n_rows))
    changes, taken = Changes([]), set[int]()
    digest = lru_cache(digest)  # of an album whose pieces come one after the other
    for track in tracks:
        row, kept = row_of.get(track.name), None
        if row is not None and known.states[row] == track.state:
            changes.rows.append(row)
            changes.counts["as they were"] += 1
            continue
        content = digest(track.path) if track.size in sizes else None
        same = rows_with.get((content, *track[3:5]), []) if content else []
        is_tagged = not same and track.start_s is None and (row is not None or is_missing)
        if is_tagged and (sound := find_sound(track.path)) is not None:
            same = rows_like.get(sound, [])
            changes.tagged.update([len(changes.rows)] if same else [])
        moved = [r for r in same if known.name(r) not in present and r not in taken]
        if row in same:
            kept, kind = row, "with other tags" if is_tagged else "as they were"
        elif same:
            kept, kind = (moved or same)[0], "moved" if moved else "copied"
            taken.update(moved[:1])
        else:
            kind = "failed before" if printable(track.path) in failed_before else "new"
            kind = kind if row is None else "changed"
        changes.rows.append(kept)
        changes.counts[kind] += 1
    gone = [r for r in range(n_rows) if known.name(r) not in present and r not in taken]
    changes.counts["gone"] = len(gone)
    return changes


class Update:
    """A library, the tracks that it is to hold, and what of it they keep.

    Args:
        out: the library.
        tracks: all that it is to hold.
        facts: what its rows are made with.
        changes: what of the library's rows they keep.
        is_idle: whether the library is to stay as it is.
    """

    def __init__(
        self,
        out: Path,
        tracks: Sequence[Track],
        facts: Facts,
        changes: Changes,
        is_idle: bool,
    ) -> None:
        self._out, self._tracks, self._facts, self._changes = out, tracks, facts, changes
        self._state = _state(out)
        self.to_embed = [t for t, row in zip(tracks, changes.rows, strict=True) if row is None]
        self.is_idle = is_idle

    def check_unchanged(self) -> None:
        """LibraryError if another process has replaced the library since it was compared."""
        if _state(self._out) != self._state:
            raise LibraryError(
                f"{self._out}: another process has just written it; give the command again"
            )

    def arrange(self, fresh: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The rows of the new library, in the pieces in which a library made anew is written.

        Args:
            fresh: tables of the tracks that were embedded, in order; those that failed are not
                there.
        """
        schema = schema_of(self._facts)
        new_rows = (table.slice(i, 1) for table in fresh for i in range(len(table)))
        waiting = next(new_rows, None)
        numbered = enumerate(self._changes.rows)
        with pq.ParquetFile(self._out, page_checksum_verification=True) as file:
            former = _Former(self._out, file, schema)
            for unit in plan_units(self._tracks, self._facts):
                pieces, found = [], []
                for track, (number, row) in zip(unit.tracks, numbered, strict=False):
                    if row is not None:
                        is_tagged = number in self._changes.tagged
                        piece = former.row(row)
                        pieces.append(_with_tags(piece, track) if is_tagged else piece)
                    elif waiting is not None and _is_of(waiting, track):
                        pieces.append(waiting)
                        waiting = next(new_rows, None)
                    else:
                        continue
                    found.append(track)
                if pieces:
                    yield _with_states(pa.concat_tables(pieces), found)
                else:
                    yield schema.empty_table()


class _Former:
    """Rows of the library as it was, read a row group at a time."""

    def __init__(self, name: Path, file: pq.ParquetFile, schema: pa.Schema) -> None:
        self._name, self._file, self._schema = name, file, schema
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        lengths = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        self._places = [(g, i) for g, length in enumerate(lengths) for i in range(length)]

    def row(self, number: int) -> pa.Table:
        """One row."""
        group, offset = self._places[number]
        if group not in self._groups:
            try:
                table = self._file.read_row_group(group, columns=self._schema.names)
                self._groups[group] = table.cast(self._schema)
            except DAMAGE as error:
                raise LibraryError(f"{self._name}: damaged; give --new to make it anew") from error
            if len(self._groups) > HELD_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[group].slice(offset, 1)


def _is_of(row: pa.Table, track: Track) -> bool:
    return _states_of(row) == [track.state]


def _states_of(rows: pa.Table) -> list[State]:
    """`Track.state` of the tracks that rows were made of."""
    columns = (rows[name].to_pylist() for name in STATE_COLUMNS)
    no_names = (None,) * len(NAMES)
    # The names of a whole file are its tags, which are known when it has been decoded.
    return [
        state if state[3] is not None else (*state[:5], *no_names)
        for state in zip(*columns, strict=True)
    ]


def _with_tags(row: pa.Table, track: Track) -> pa.Table:
    """A row with its file's present content, title, artist and album."""
    values = (_digest(track.path), *read_names(track))
    for name, value in zip(("content", *NAMES), values, strict=True):
        place, kind = row.schema.get_field_index(name), row.schema.field(name)
        row = row.set_column(place, kind, pa.array([value], kind.type))
    return row


def _with_states(rows: pa.Table, tracks: Sequence[Track]) -> pa.Table:
    """Rows with the paths, sizes and times that their files have now, and pieces' titles."""
    for name in STATE_COLUMNS:
        values = rows[name].to_pylist()
        for i, track in enumerate(tracks):
            if name not in NAMES or track.start_s is not None:
                values[i] = printable(track.path) if name == "path" else getattr(track, name)
        place = rows.schema.get_field_index(name)
        of_type = pa.array(values, rows.schema.field(name).type)
        rows = rows.set_column(place, rows.schema.field(name), of_type)
    return rows


def plan_update(
    out: Path,
    tracks: Sequence[Track],
    facts: Facts,
    failed_before: set[str],
    say: Callable[[str], None] | None,
) -> Update:
    """Compare a library with the tracks that it is to hold, and say how they differ.

    Args:
        out: the library.
        tracks: all that it is to hold.
        facts: what its rows are to be made with.
        failed_before: paths of files that could not be used.
        say: takes lines for the user; None for a quiet run.

    Raises:
        LibraryError: it was made otherwise, is damaged, or would lose most of its rows.
    """
    known, made_with = _read_known(out)
    for name in sorted(facts.keys() | made_with.keys()):
        if name not in MAY_DIFFER and facts.get(name) != made_with.get(name):
            raise LibraryError(
                f"{out}: its {name} is {made_with.get(name)!r:.40}, yours {facts.get(name)!r:.40}; "
                "give the options it was made with, --new to make it anew, or another --out"
            )
    if facts["version"] != made_with["version"] and say is not None:
        say(f"{out}: rows of version {made_with['version']} are kept; --new makes all anew")
    with ProgressBar(
        desc="compare", unit=" files", delay=SHOWN_AFTER_S, disable=say is None
    ) as bar:

        def digest(path: str) -> str | None:
            bar.update()
            return _digest(path)

        changes = compare(tracks, known, failed_before, digest, find_sound)
    gone = changes.counts["gone"]
    if gone > LARGEST_LOSS * len(known.states):
        raise LibraryError(
            f"{out}: {gone:,} of its {len(known.states):,} tracks are not among the files named: "
            "is a disk missing, or a folder? Name them all, or give --new or another --out"
        )
    if say is not None:
        say(f"{out}: {describe_counts(changes.counts)}")
    is_same = known.states == [track.state for track in tracks]
    is_idle = not failed_before and facts == made_with and is_same
    return Update(out, tracks, facts, changes, is_idle)


def describe_counts(counts: Counter[str]) -> str:
    """Counts in words, those of zero left out.

    >>> describe_counts(Counter({"new": 2, "gone": 0, "as they were": 1_000}))
    '2 new, 1,000 as they were'
    """
    kinds = (
        "new",
        "copied",
        "changed",
        "with other tags",
        "moved",
        "gone",
        "failed before",
        "as they were",
    )
    return ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds if counts[kind])


def _read_known(out: Path) -> tuple[Known, Facts]:
    columns = [*STATE_COLUMNS, "content", "sound"]
    try:
        table = pq.read_table(
            out, columns=columns, partitioning=None, page_checksum_verification=True
        )
        made_with = facts_of(table.schema)
        schema = pa.schema([schema_of(made_with).field(name) for name in columns])
        table = table.select(columns).cast(schema)
        digests = (table[name].to_pylist() for name in ("content", "sound"))
        return Known(_states_of(table), *digests), made_with
    except DAMAGE as error:
        raise LibraryError(
            f"{out}: damaged, or made before libraries could be updated; give --new to make it "
            "anew, or another --out"
        ) from error


def _digest(path: str) -> str | None:
    try:
        return digest_path(Path(path))
    except OSError:  # decoding it will say what is wrong
        return None


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
