"""Cue sheets: where the tracks of an album that is one file begin, and what they are called.

Source: the CDRWIN 3.8 user's guide, appendix A, as far as players agree on it.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

LARGEST_SHEET = 1 << 20
"""Bytes of a sheet at most; real ones have some thousands."""

FRAMES = 75
"""Of a second, in which a sheet counts."""

# A line is matched without the space around it, and no pattern tries a run of spaces twice: of a
# line of a million it would be a million times as long.
NAME = re.compile(r'(TITLE|PERFORMER)\s+(?:"(.*)"(?:\s.*)?|(.+))')
"""A name without quotes is all that follows, its spaces included."""

FILE = re.compile(
    r'(FILE)\s+(?:"(.*)"(?:\s.*)?|(.+?)(?:\s(?i:BINARY|MOTOROLA|AIFF|WAVE|MP3|FLAC))?)'
)

NUMBER = re.compile(r"(TRACK|INDEX)\s+(\S+)(?:\s+(.+))?")

TIME = re.compile(r"(\d{1,6}):([0-5]?\d):(\d\d?)")


class Piece(NamedTuple):
    """One track of an album that is one file.

    Attributes:
        file: the album's name, as the sheet has it, without folders.
        start_s: where it begins, seconds.
        end_s: where the next one begins; None for the last.
        title: of the track.
        artist: of the track, else of the album.
        album: title of the album.
    """

    file: str
    start_s: float
    end_s: float | None
    title: str | None
    artist: str | None
    album: str | None


def read_sheet(path: Path) -> list[Piece]:
    """The pieces into which a sheet cuts files; none for those with a file a track.

    Raises:
        ValueError: it is no sheet, or its times do not grow.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_SHEET + 1)
    text = _decode(content)
    if len(content) > LARGEST_SHEET or "\0" in text:
        raise ValueError("no cue sheet")
    return cut(text)


def _decode(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def cut(text: str) -> list[Piece]:
    """The pieces that a sheet's text names.

    >>> text = 'FILE "a.wav" WAVE\\n TRACK 01 AUDIO\\n TITLE "One"\\n INDEX 01 00:00:00'
    >>> text += '\\n TRACK 02 AUDIO\\n INDEX 01 01:02:15'
    >>> [(piece.title, piece.start_s, piece.end_s) for piece in cut(text)]
    [('One', 0.0, 62.2), (None, 62.2, None)]
    """
    album: dict[str, str] = {}
    tracks: list[dict[str, str]] = []
    file, current = "", album
    for line in map(str.strip, re.split(r"[\r\n]", text)):  # what else may break lines names hold
        if found := NAME.fullmatch(line) or FILE.fullmatch(line):
            name, value, more = found[1], found[2] or (found[3] or "").strip(), ""
        elif found := NUMBER.fullmatch(line):
            name, value, more = found[1], found[2], found[3] or ""
        else:
            continue
        if name == "FILE":
            file = re.split(r"[/\\]", value)[-1]
        elif name == "TRACK":
            current = {"file": file, "kind": more}
            tracks.append(current)
        elif name != "INDEX":
            current.setdefault(name, value)
        elif value.lstrip("0") == "1":
            current.setdefault("start", more)
    sound = [track for track in tracks if track["kind"].upper() == "AUDIO"]
    if not sound or any("start" not in track for track in sound):
        raise ValueError("no cue sheet, or a track without INDEX 01")
    starts = [_seconds(track["start"]) for track in sound]
    pieces = []
    for i, track in enumerate(sound):
        is_last = i + 1 == len(sound) or sound[i + 1]["file"] != track["file"]
        end = None if is_last else starts[i + 1]
        if end is not None and end <= starts[i]:
            raise ValueError(f"track {i + 2} begins before track {i + 1}")
        artist = track.get("PERFORMER") or album.get("PERFORMER") or None
        names = track.get("TITLE") or None, artist, album.get("TITLE") or None
        pieces.append(Piece(track["file"], starts[i], end, *names))
    files = [piece.file for piece in pieces]
    return [piece for piece in pieces if files.count(piece.file) > 1]


def _seconds(time: str) -> float:
    if (found := TIME.fullmatch(time)) is None:
        raise ValueError(f"{time!r:.40} is no time")
    minutes, seconds, frames = map(int, found.groups())
    return 60 * minutes + seconds + frames / FRAMES
