"""Files written whole or not at all, read with their faults named, and told apart by content."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from myna_plugin.common.errors import InputError

PARTIALS = "*.[0-9]*.tmp"
"""Pattern of the unfinished files that killed processes leave behind."""

BLOCK = 1 << 20


class _Required:
    """Says that a file must be there."""


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A file to write that takes the place of `path` when the block ends well.

    It is on the disk by then. Whatever ends the block otherwise, `path` stays as it was; an error
    of the system that ends it names `path`.

    Args:
        path: the file to appear whole or not at all.
        folder: where it is written meanwhile, on the same disk; None for beside `path`.
    """
    # Not `tempfile`: that makes files which only their owner may read.
    partial = (folder or path.parent) / f"{path.name}.{os.getpid()}.tmp"
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # The system names no file where a disk is full, else one that is gone in a moment.
        if error.errno is not None and error.filename in (None, str(partial)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if partial.exists():  # a read-only disk refuses even to remove what is not there
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
    """A text file, UTF-8; `.gz` is decompressed.

    Raises:
        InputError: it is missing, not UTF-8 or not gzip; names it.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def read_json(path: Path, default: Any = _Required) -> Any:
    """The JSON value in a file; `.gz` is decompressed.

    Args:
        path: the file.
        default: what to take where there is no file, or no whole one; without it that is an error.

    Raises:
        InputError: the file is missing or not JSON, and there is no default; or it is there and
            the disk or its permissions keep it from being read. Names it.
    """
    try:
        return json.loads(read_text(path))
    except (InputError, ValueError, RecursionError) as error:
        kept_out = isinstance(error.__cause__, OSError) and not isinstance(
            error.__cause__, (FileNotFoundError, NotADirectoryError, gzip.BadGzipFile)
        )
        if default is not _Required and not kept_out:
            return default
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({error})") from error


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
