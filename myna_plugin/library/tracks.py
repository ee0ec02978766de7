"""What is to be embedded: audio files, with the state that tells whether they have changed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from myna_plugin.common.errors import InputError
from myna_plugin.model.audio_files import AUDIO_SUFFIXES, Exclusion, find_files, tell_ignored


class LibraryError(InputError):
    """A library that cannot be embedded, written or read; the message says what to do."""


class Track(NamedTuple):
    """A file to embed, as it was when it was found.

    Attributes:
        path: as it was given, or found under the folder that was given.
        size: bytes; -1 where there is no such file.
        modified_ns: time of its last change, nanoseconds since 1970; -1 likewise.
    """

    path: str
    size: int = -1
    modified_ns: int = -1


def look_at(path: str) -> Track:
    """A file with its state."""
    try:
        status = os.stat(path)
    except OSError:
        return Track(path)
    return Track(path, status.st_size, status.st_mtime_ns)


def printable(path: str) -> str:
    """A path as text: bytes that are no UTF-8 become the replacement character."""
    return os.fsencode(path).decode(errors="replace")


def find_tracks(
    inputs: Sequence[str], say: Callable[[str], None] = print, exclude: Sequence[str] = ()
) -> list[Track]:
    """Files in the order given, folders replaced by the audio files under them, each file once.

    Args:
        inputs: files and folders.
        say: told what is left aside.
        exclude: patterns of what is left out of folders; see `Exclusion`.

    Raises:
        LibraryError: nothing was found.
    """
    paths: dict[str, None] = {}
    kinds: Counter[str] = Counter()
    exclusion = Exclusion(exclude)
    for given in inputs:
        if not os.path.isdir(given):
            paths[given] = None
            continue
        found = [os.fsdecode(path) for path in find_files(Path(given), say, exclusion)]
        kinds.update(map(_suffix, found))
        paths |= dict.fromkeys(path for path in found if _suffix(path) in AUDIO_SUFFIXES)
    exclusion.tell(say)
    tell_ignored(kinds, say)
    if not paths:
        known = " ".join(sorted(AUDIO_SUFFIXES))
        raise LibraryError(f"{', '.join(inputs) or 'no input'}: no audio files (known are {known})")
    return [look_at(path) for path in paths]


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
