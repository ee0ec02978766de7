"""Finding the files of a data set, and reading its tables."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from myna_plugin.common.errors import reason
from myna_plugin.common.files import is_plain_name, read_rows
from myna_plugin.probing.tasks.task import TaskError

SHOWN = 20
"""How many values are named where another was found."""


def audio_folders(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Folders below `root` that match the patterns, in their order.

    Returns:
        At least one: where none exists, the one that the first pattern names literally, so that
        a report can say where files were expected.
    """
    found = [folder for pattern in patterns for folder in _matching(root, pattern)]
    return found or [root / patterns[0].replace("*", "")]


def _matching(root: Path, pattern: str) -> list[Path]:
    matches = [root] if pattern == "." else sorted(root.glob(pattern))
    return [match for match in matches if match.is_dir()]


def check_inside(name: str) -> str:
    """A name of a file below a folder, as it is.

    Raises:
        TaskError: it leads out of the folder, or is the name of no file.

    >>> check_inside("f/a.mp3")
    'f/a.mp3'
    """
    parts = name.split("/")
    plain = [part for part in parts if part not in ("", ".")]
    if parts[0] == "" or not plain or not all(map(is_plain_name, plain)):
        raise TaskError(f"{name!r} leads out of the data folder; names must stay inside")
    return name


def find_audio(
    folders: Sequence[Path], name: str, suffixes: Sequence[str], place: object = None
) -> Path:
    """The first existing `FOLDER/NAME+SUFFIX`; where none exists, the first one of them.

    Args:
        folders: where to look.
        name: of the file, without its ending.
        suffixes: endings; where no file has one, .WAV and .Wav stand for .wav.
        place: where the name stands, for the message.

    Raises:
        TaskError: the name leads out of the folders, or is too long; names the place.
    """
    before = "" if place is None else f"{place}: "
    endings = [suffix.rpartition(".") for suffix in suffixes]
    candidates = [
        folder / f"{name}{before_dot}.{in_case(ending)}"
        for in_case in (str, str.upper, str.title)
        for folder in folders
        for before_dot, _, ending in endings
    ]
    try:
        check_inside(name)
        return next((path for path in candidates if path.is_file()), candidates[0])
    except TaskError as error:
        raise TaskError(f"{before}{error}") from error
    except OSError as error:
        raise TaskError(f"{before}{reprlib.repr(name)}: {reason(error)}") from error


def any_case(suffix: str) -> str:
    """A pattern of an ending in large or small letters.

    >>> any_case(".wav")
    '[..][wW][aA][vV]'
    """
    return "".join(f"[{letter}{letter.upper()}]" for letter in suffix)


def find_file(root: Path, names: Iterable[str]) -> Path:
    """The first of the names that exists below `root`.

    Raises:
        TaskError: none does.
    """
    tried = list(names)
    for name in tried:
        if os.path.lexists(root / name):
            return root / name
    raise TaskError(f"{root}: holds none of {', '.join(tried)}")


class Row(NamedTuple):
    """A row of a table: its place (file and line), and its fields, stripped, by their columns."""

    place: str
    fields: dict[str, str]


def table_rows(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    delimiter: str = ",",
    multiline: bool = False,
) -> Iterator[Row]:
    """Rows of a table with a header.

    Case does not count in the names of columns. A row that is too short (trailing empty fields
    left out) has "" there.

    Args:
        path: the table.
        columns: those that are wanted.
        optional: ones that are wanted if the table has them.
        delimiter: what stands between fields.
        multiline: whether a field may go on in the next line.

    Raises:
        InputError: the file cannot be read; a column is lacking or there twice; a row is longer
            than the header. Names the file, and the line.
    """
    rows = read_rows(path, delimiter, multiline)
    place, first = next(rows, (f"{path}: line 1", []))
    header = [name.strip().casefold() for name in first]
    places = {}
    for name in (*columns, *optional):
        count = header.count(name.casefold())
        if count > 1 or (not count and name not in optional):
            found = ", ".join(first)
            problem = "twice the" if count else "no"
            raise TaskError(f"{place}: {problem} column {name!r} (columns: {found})")
        if count:
            places[name] = header.index(name.casefold())
    for place, row in rows:
        if any(field.strip() for field in row[len(header) :]):
            raise TaskError(f"{place}: {len(row)} fields, and the header has {len(header)}")
        yield Row(
            place, {name: row[i].strip() if i < len(row) else "" for name, i in places.items()}
        )


def read_table(
    path: Path,
    key: str,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    delimiter: str = ",",
) -> dict[int, Row]:
    """`table_rows` by the whole number that each has in the column `key`.

    Raises:
        InputError: as `table_rows`; a row has no number, or that of another row.
    """
    found: dict[int, Row] = {}
    for row in table_rows(path, (key, *columns), optional, delimiter):
        number = parse_number(row.place, key, row.fields[key])
        if number in found:
            raise TaskError(f"{row.place}: {key} {number} is that of {found[number].place} too")
        found[number] = row
    return found


SPLIT_WORDS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
}
"""What data sets call our splits."""


def one_of(place: object, field: str, text: str, known: Collection[str]) -> str:
    """A field of a table that has one of some values, as it is.

    Raises:
        TaskError: it has another; names the place and the field.
    """
    if text not in known:
        told = ", ".join(list(known)[:SHOWN]) + (", …" if len(known) > SHOWN else "")
        raise TaskError(f"{place}: {field}: {text!r} is not one of {told}")
    return text


def parse_number(place: object, field: str, text: str) -> int:
    """A whole number of a table or a file's name; "7.0" is one.

    Raises:
        TaskError: it is none; names the place and the field.
    """
    number = re.fullmatch(r"([0-9]{1,18})(\.0*)?", text)
    if number is None:
        raise TaskError(f"{place}: {field}: {text!r} is not a number")
    return int(number[1])
