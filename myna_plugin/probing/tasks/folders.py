"""Finding the files of a data set, and reading its tables and JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from myna_plugin.probing.tasks.task import TaskError, is_plain_name


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


def find_audio(folders: Sequence[Path], name: str, suffixes: Sequence[str]) -> Path:
    """The first existing `FOLDER/NAME+SUFFIX`; where none exists, the first one of them.

    Raises:
        TaskError: the name leads out of the folders.
    """
    check_inside(name)
    candidates = [folder / (name + suffix) for folder in folders for suffix in suffixes]
    return next((path for path in candidates if path.is_file()), candidates[0])


def find_file(root: Path, names: Iterable[str]) -> Path:
    """The first of the names that exists below `root`.

    Raises:
        TaskError: none does.
    """
    tried = list(names)
    for name in tried:
        if (root / name).is_file():
            return root / name
    raise TaskError(f"{root}: holds none of {', '.join(tried)}")


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ","
) -> Iterator[dict[str, str]]:
    """Rows of a table with a header, as dictionaries of the columns asked for.

    Values are stripped. A row that is too short (trailing empty fields left out) has "" there.

    Raises:
        TaskError: the file is missing or not UTF-8, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            lacking = [name for name in columns if name not in header]
            if lacking:
                raise TaskError(f"{path}: no column {lacking[0]!r} (columns: {', '.join(header)})")
            places = [header.index(name) for name in columns]
            for row in reader:
                yield {
                    name: row[place].strip() if place < len(row) else ""
                    for name, place in zip(columns, places, strict=True)
                }
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})") from error


def table_columns(path: Path, delimiter: str = ",") -> list[str]:
    """Column names of a table.

    Raises:
        TaskError: the file is missing or not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file, delimiter=delimiter), [])]
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})") from error


def parse_number(path: Path, field: str, text: str) -> int:
    """A whole number of a table or a file's name.

    Raises:
        TaskError: it is none; names the file and the field.
    """
    try:
        return int(text)
    except ValueError as error:
        raise TaskError(f"{path}: {field}: {text!r} is not a number") from error
