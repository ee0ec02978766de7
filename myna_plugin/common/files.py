"""Files written whole or not at all, read with their faults named, and told apart by content."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from myna_plugin.common.errors import InputError, reason

PARTIALS = "*.[0-9]*.tmp"
"""Pattern of the unfinished files that killed processes leave behind."""

BLOCK = 1 << 20

UNPACKED_AT_MOST = 1 << 28
"""Bytes that a `.gz` may hold; a megabyte can be a gigabyte of zeros."""

DEEPEST = 400
"""Levels of a value from JSON: whoever goes down it has as many calls left before Python gives up,
which another Python does elsewhere."""

INT_DIGITS = 20
"""Characters of the longest whole number read from JSON: those of 64 bits."""

SCALAR_ERRORS = (ValueError, LookupError, AttributeError, TypeError)
"""What PyYAML raises for a scalar that is not what its tag, or its look, says: `2001-13-45`."""


class _Required:
    """Says that a file must be there."""


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A file to write, or a folder to make, that becomes `path` when the block ends well.

    It is on the disk by then. Whatever ends the block otherwise, `path` stays as it was; an error
    of the system that ends it names `path`.

    Args:
        path: what is to appear whole or not at all; a folder replaces none but an empty one.
        folder: where it is written meanwhile, on the same disk; None for beside `path`.
    """
    # Not `tempfile`: that makes files which only their owner may read.
    partial = (folder or path.parent) / f"{path.name}.{os.getpid()}.tmp"
    try:
        yield partial
        for written in [partial] if partial.is_file() else filter(Path.is_file, partial.rglob("*")):
            with written.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # The system names no file where a disk is full, else one that is gone in a moment.
        if error.errno is not None and str(error.filename or partial).startswith(str(partial)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        elif partial.exists():  # a read-only disk refuses even to remove what is not there
            partial.unlink()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, that appears whole or not at all."""
    write_whole(path, text.encode())


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, whole or not at all, making the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def fault_of_place(path: Path) -> str:
    """Why there is no file to read at a path, in words; "" if there is one.

    Pipes and devices are none: nobody knows when they end.
    """
    # Not `Path`'s own methods: they raise where a name is too long for the system.
    if os.path.isfile(path):
        return ""
    if os.path.isdir(path):
        return "is a folder, not a file"
    if os.path.exists(path):
        return "is a pipe or a device, not a file"
    if os.path.islink(path):
        return f"is a link to {path.readlink()}, no such file"
    return "no such file"


def check_disk(folder: Path, needed: int, error: type[InputError] = InputError) -> None:
    """Refuse, before hours of work, a place that cannot take `needed` bytes, and 1 % more.

    Args:
        folder: what is to be written, or be written into; it need not be there yet.
        needed: bytes.
        error: raised then.

    Raises:
        InputError: `error`, if its disk has less, or the folder cannot be made or written into.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise error(f"{there}: cannot be written into; choose another folder")
    free = shutil.disk_usage(there).free
    if free < 1.01 * needed:
        raise error(
            f"{folder}: {tqdm.format_sizeof(needed, 'B')} are needed, and its disk has "
            f"{tqdm.format_sizeof(free, 'B')} left; free some, or take another disk"
        )


def read_text(path: Path) -> str:
    """A text file, UTF-8, less its byte-order mark; `.gz` is decompressed.

    Raises:
        InputError: it is missing, no file, not UTF-8, not gzip or too much of it; names it.
    """
    try:
        if fault := fault_of_place(path):
            raise InputError(f"{path}: cannot be read ({fault})")
        data = _unpack(path) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error


def _unpack(path: Path) -> bytes:
    with gzip.open(path) as file:
        data = file.read(UNPACKED_AT_MOST + 1)
    if len(data) > UNPACKED_AT_MOST:
        raise InputError(f"{path}: holds more than {UNPACKED_AT_MOST:,} bytes; unpack it first")
    return data


def read_json(path: Path, default: Any = _Required) -> Any:
    """The JSON value in a file, as `parse_json` has it; `.gz` is decompressed.

    Args:
        path: the file.
        default: what to take where there is no file, or no whole one; without it that is an error.

    Raises:
        InputError: the file is missing or not JSON, and there is no default; or something is there
            and its kind, the disk or its permissions keep it from being read. Names it.
    """
    try:
        return parse_json(read_text(path), path)
    except InputError as error:
        is_kept_out = isinstance(error.__cause__, OSError) and not isinstance(
            error.__cause__, gzip.BadGzipFile
        )
        if default is _Required or is_kept_out or (path.exists() and not path.is_file()):
            raise
        return default


def read_json_object(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        default: what to take as `read_json` does, and where the file holds another value.

    Raises:
        InputError: as `read_json`, or it is no object; names it.
    """
    value = read_json(path, _Required if default is None else default)
    if isinstance(value, dict):
        return value
    if default is None:
        raise InputError(f"{path}: must hold a JSON object, not a {type(value).__name__}")
    return default


def parse_json(text: str, place: object) -> Any:
    """The JSON value that a text from outside is.

    Refused is also what would fail only later, or be lost: a field that an object names twice,
    whole numbers beyond 64 bits, half a surrogate pair, which no file can hold, and values nested
    so deeply that they cannot be shown.

    Args:
        text: the text.
        place: where it stands, for the message.

    Raises:
        InputError: it is no such JSON; names the place.
    """
    try:
        value = json.loads(text, parse_int=_parse_int, object_pairs_hook=_parse_object)
        if isinstance(value, dict | list):
            _check_depth(value)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON ({reason(error)})") from error
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        inside = [own.values() if isinstance(own, dict) else own for own in level]
        level = [own for own in chain.from_iterable(inside) if isinstance(own, dict | list)]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} levels deep")


def _parse_int(text: str) -> int:
    if len(text) > INT_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return value


def parse_yaml(text: str, place: object) -> Any:
    """The YAML value that a text from outside is, of plain types alone.

    Aliases are refused: a few lines of them are a value that fills the memory once it is shown.

    Args:
        text: the text.
        place: where it stands, for the message.

    Raises:
        InputError: it is no such YAML; names the place.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"an alias, *{event.anchor}: write its value out")
            if isinstance(event, yaml.ScalarEvent):
                event.value.encode()
    except (yaml.YAMLError, RecursionError, *SCALAR_ERRORS) as error:
        raise InputError(f"{place}: not YAML ({reason(error)})") from error
    return value


def read_rows(
    path: Path, delimiter: str = ",", multiline: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Rows of a table: the place of each, its file and line, and its fields.

    Blank lines are passed over.

    Args:
        path: the table.
        delimiter: what stands between fields.
        multiline: whether a field may go on in the next line.

    Raises:
        InputError: as `read_text`; or a field is too long or goes on in the next line, as after a
            quote that nobody closed; names the file and the line.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    while True:
        place = f"{path}: line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{place}: not CSV ({error})") from error
        if row is None:
            return
        if not multiline and place != f"{path}: line {reader.line_num}":
            raise InputError(f"{place}: not CSV (a quote is not closed in its line)")
        if delimiter.join(row).strip():
            yield place, row


def is_plain_name(name: object) -> bool:
    """Whether something names a file in its folder, wherever it is joined to a path as it is.

    >>> is_plain_name("a.wav"), is_plain_name("../a.wav"), is_plain_name("a/b.wav")
    (True, False, False)
    """
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    return not re.search("[/\\\\\0\ud800-\udfff]", name)


def digest_path(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder with their names (bytecode left out)."""
    if path.is_file():
        return _digest_file(path)
    parts = (
        (file.relative_to(path).as_posix(), _digest_file(file))
        for file in sorted(path.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    )
    return digest_pairs(parts)


def digest_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of names and values, in order.

    >>> digest_pairs([("a", "1")]) == digest_pairs([("a", "2")])
    False
    """
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()


def _digest_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
