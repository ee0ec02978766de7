"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIALS = "*.[0-9]*.tmp"
"""Pattern of the unfinished files that killed processes leave behind."""


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A file to write that takes the place of `path` when the block ends well.

    It is on the disk by then. Whatever ends the block otherwise, `path` stays as it was.

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
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, that appears whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
