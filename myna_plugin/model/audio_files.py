"""Which files of a music folder are audio, and how long they are about."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from myna_plugin.model.audio import AudioError, read_info

AUDIO_SUFFIXES = {
    *(".wav", ".wave", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".flac", ".wv", ".tta", ".ape", ".tak", ".shn", ".dsf", ".mlp"),
    *(".mp3", ".mp2", ".ogg", ".oga", ".opus", ".aac", ".m4a", ".m4b", ".mp4", ".mov", ".3gp"),
    *(".wma", ".asf", ".webm", ".mka", ".mkv", ".ac3", ".eac3", ".dts", ".mpc", ".amr"),
}
"""Endings of the files that are taken from a folder; what is in them their bytes decide."""

LOWEST_BYTE_RATE = 1_000
"""Bytes a second that no real recording falls below (8 kbit/s); bounds what a header claims."""

METADATA_PREFIX = b"._"
"""macOS writes `._song.mp3`, which is no audio, beside `song.mp3` on disks of other systems."""

ANNEX_FOLDER = b".git"
"""git-annex and DataLad keep here the files that the links outside lead to."""


def find_files(root: Path, say: Callable[[str], None] = print) -> Iterator[bytes]:
    """Paths of all files under a folder but `._*` and `.git`, in an order that names alone decide.

    Links to folders are followed, each folder being visited once however often it is linked.
    Other hidden names are kept: there are records whose titles begin with dots.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [(os.fsencode(root), True)]
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield path
            continue
        try:
            status = os.stat(path)
            with os.scandir(path) as found:
                entries = sorted(
                    (entry.path, _is_folder(entry))
                    for entry in found
                    if not entry.name.startswith(METADATA_PREFIX) and entry.name != ANNEX_FOLDER
                )
        except OSError as error:
            say(f"{os.fsdecode(path)}: left out, cannot be read ({error.strerror})")
            continue
        if (status.st_dev, status.st_ino) not in visited:
            visited.add((status.st_dev, status.st_ino))
            waiting += reversed(entries)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    # A link that leads round in a circle makes `DirEntry.is_dir` raise.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def estimate_seconds(path: Path) -> float:
    """How long a file is by its header or the number of its packets; 0 if it cannot be read.

    A header that claims more than the file's size allows is not believed.
    """
    try:
        return min(read_info(path).duration_s, os.path.getsize(path) / LOWEST_BYTE_RATE)
    except (AudioError, OSError):
        return 0.0
