"""Files written whole or not at all, and what tells one file's content from another's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from myna_plugin.common.writing import replacing

BLOCK = 1 << 20


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write beside `path` and move it there once it is on the disk: no part is ever seen."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, as `write_whole` does, making the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(value, indent=indent) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in `path`; None where there is no file, or no whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


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
