"""One process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from myna_plugin.common.errors import InputError


@contextmanager
def locked(path: Path, busy: str, error: type[InputError] = InputError) -> Iterator[None]:
    """While the block runs, no other process is in a block of the same lock.

    On a file system that knows no locks, filelock says so and takes the file itself for one.

    Args:
        path: the lock's file, in a folder that exists; it may be removed with the folder.
        busy: what to say where another process holds it.
        error: raised then.

    Raises:
        InputError: `error`, if another process holds the lock.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise error(busy) from None
    try:
        if lock.is_locked and not path.exists():
            # The run that held it has just ended and removed the folder.
            raise error(busy)
        yield
    finally:
        lock.release()
