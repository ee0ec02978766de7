"""What is to be embedded: audio files, with the state that tells whether they have changed."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from myna_plugin.common.errors import InputError, reason
from myna_plugin.common.progress import ProgressBar
from myna_plugin.library.cue import Piece, read_sheet
from myna_plugin.model.audio_files import AUDIO_SUFFIXES, Exclusion, find_files, tell_ignored

CUE = ".cue"

SHOWN_INPUTS = 3

SHOWN_AFTER_S = 5.0
"""Looking through files shows a bar if it takes longer."""

TAKEN = AUDIO_SUFFIXES | {CUE}
"""Endings of what is taken from a folder."""


class LibraryError(InputError):
    """A library that cannot be embedded, written or read; the message says what to do."""


class Track(NamedTuple):
    """A file to embed, or a piece of one, as it was when it was found.

    Attributes:
        path: as it was given, or found under the folder that was given.
        size: bytes; -1 where there is no such file.
        modified_ns: time of its last change, nanoseconds since 1970; -1 likewise.
        start_s: where the piece begins in the file, seconds; None for a whole file.
        end_s: where it ends; None for the end of the file.
        title: of a piece, as the cue sheet has it; a whole file's tags are read with its sound.
        artist: likewise.
        album: likewise.
    """

    path: str
    size: int = -1
    modified_ns: int = -1
    start_s: float | None = None
    end_s: float | None = None
    title: str | None = None
    artist: str | None = None
    album: str | None = None

    @property
    def name(self) -> tuple[str | float | None, ...]:
        """What tells it from other tracks, its file being where it is: path, span and titles."""
        return (printable(self.path), *self[3:])

    @property
    def state(self) -> tuple[str | float | None, ...]:
        """The same, with its file's size and time."""
        return (printable(self.path), *self[1:])


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
    inputs: Sequence[str],
    say: Callable[[str], None] | None = print,
    exclude: Sequence[str] = (),
) -> list[Track]:
    """Files in the order given, folders replaced by the audio files under them, each file once.

    Args:
        inputs: files and folders.
        say: told what is left aside; None to be quiet.
        exclude: patterns of what is left out of folders; see `Exclusion`.

    Raises:
        LibraryError: nothing was found, or nothing that was named is there.
    """
    speak = say or _keep_quiet
    paths: dict[str, None] = {}
    kinds: Counter[str] = Counter()
    exclusion = Exclusion(exclude)
    if inputs and not any(map(os.path.lexists, inputs)):
        named = ", ".join(map(printable, inputs[:SHOWN_INPUTS]))
        more = f" and {len(inputs) - SHOWN_INPUTS} more" if len(inputs) > SHOWN_INPUTS else ""
        raise LibraryError(f"{named}{more}: no such file or folder")
    for given in inputs:
        if not os.path.isdir(given):
            paths[given] = None
            continue
        files = find_files(Path(given), speak, exclusion)
        watched = ProgressBar(
            files, "find", unit=" files", delay=SHOWN_AFTER_S, disable=say is None
        )
        found = [os.fsdecode(path) for path in watched]
        kinds.update(map(_suffix, found))
        paths |= dict.fromkeys(path for path in found if _suffix(path) in TAKEN)
    exclusion.tell(speak)
    del kinds[CUE]
    tell_ignored(kinds, speak)
    sheets = [path for path in paths if _suffix(path) == CUE]
    albums = _cut_albums(sheets, [path for path in paths if _suffix(path) != CUE], speak)
    tracks = [piece for path in paths if _suffix(path) != CUE for piece in _pieces(path, albums)]
    if not tracks:
        known = " ".join(sorted(AUDIO_SUFFIXES))
        raise LibraryError(f"{', '.join(inputs) or 'no input'}: no audio files (known are {known})")
    return tracks


def _keep_quiet(line: str) -> None:
    """For who has asked not to be told."""


def _pieces(path: str, albums: Mapping[str, Sequence[Piece]]) -> Iterator[Track]:
    """A file's tracks: itself, or what a cue sheet cuts it into."""
    whole = look_at(path)
    if path not in albums:
        yield whole
    for piece in albums.get(path, ()):
        fields = piece._asdict()
        del fields["file"]
        yield whole._replace(**fields)


def _cut_albums(
    sheets: Sequence[str], paths: Sequence[str], say: Callable[[str], None]
) -> dict[str, list[Piece]]:
    """The files that cue sheets cut, and their pieces; sheets that cannot be used are named.

    A sheet's file is looked for beside it, and among the files that were found: by its name, else
    by the sheet's or its own name with another ending, as when an album was compressed later.
    """
    albums: dict[str, list[Piece]] = {}
    beside: dict[tuple[str, str], str] = {}
    for path in reversed(paths):
        folder, name = os.path.split(path)
        for key in (_key(os.path.splitext(name)[0]), _key(name)):
            beside[folder, key] = path
    for sheet in sheets:
        folder, own = os.path.split(sheet)
        try:
            pieces = read_sheet(Path(sheet))
            for file in dict.fromkeys(piece.file for piece in pieces):
                stems = (os.path.splitext(name)[0] for name in (file, own))
                keys = map(_key, (file, *stems))
                album = next((beside[folder, k] for k in keys if (folder, k) in beside), None)
                if album is None:
                    raise ValueError(f"there is no {file} beside it, or it is not among the inputs")
                albums.setdefault(album, [piece for piece in pieces if piece.file == file])
        except (OSError, ValueError) as error:
            say(f"{printable(sheet)}: cue sheet not used ({reason(error)})")
    if albums:
        n_pieces = sum(map(len, albums.values()))
        say(f"albums cut into tracks by their cue sheets: {len(albums):,} ({n_pieces:,} tracks)")
    return albums


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
