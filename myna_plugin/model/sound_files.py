"""A file's samples as it holds them, block by block, by libsndfile or FFmpeg's libraries (PyAV).

libsndfile reads plain WAV, AIFF and FLAC, which it opens in a tenth of the time; FFmpeg reads all
else, and what libsndfile gives up on. Bytes decide, never the file's name. MP3 takes 1.5 times
libsndfile's time here (five minutes of sound each; Vorbis as long, Opus half); but libsndfile
believes the headers of MP3 files, so that it may stop in the middle of one.

What FFmpeg takes off at either end (the delay of an MP3 or AAC encoder, where the file states it)
is taken off. A damaged frame is passed over, as the program ffmpeg does.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import soundfile

from myna_plugin.model.containers import Block, Container, DecodingError, Header, read_short

UNKNOWN_LENGTH = 0x7FFF_0000
"""Sizes from here on, in a header of 32 bits, are what programs write that cannot go back to it."""

UNKNOWN_FRAMES = 1 << 62
"""From here on, what libsndfile takes for the length of a FLAC file that states none."""

UNSTATED = re.compile(rb"data\0{4}(?![A-Za-z]{3}[\w ])(?s:.)")
"""A WAV's sound, of no size, and behind it no other chunk: its recorder never went back to its
header. FFmpeg reads such a file to its end."""

LONGEST_START = 1 << 16
"""Bytes of a file in which the header of its sound is looked for."""

CLAIMED_SIZE = re.compile(r": (\d+) \(should be (\d+)\)")
"""libsndfile's log where a header states more than there is."""

PROBE_SECONDS = 0.05
"""How much `probe` decodes at either end of a file."""

PLAIN = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")

Fault = Callable[[str], None]
"""Told what is wrong with a file that can be used nevertheless."""


def read_blocks(
    path: Path, seconds: float, fault: Fault, start_s: float = 0.0, stop_s: float = math.inf
) -> Generator[Block, None, None]:
    """Samples of the first audio stream of a file, all of them or a part.

    Integers are divided by the largest power of two that they reach, so that they lie in [-1, 1).

    Args:
        path: the file; its name may be any bytes.
        seconds: length of a block; the last one, and those where the rate or the number of
            channels changes, are shorter.
        fault: told, at the latest at the end, if samples are missing.
        start_s: where the part begins, seconds; what lies before it is not decoded, but for a
            second. To the sample, if the file's timestamps are as exact: those of Matroska and ASF
            are in milliseconds.
        stop_s: where it ends at the earliest.

    Yields:
        The samples in order.

    Raises:
        DecodingError: nothing can be decoded.
        OSError: the file cannot be read.
    """
    n_read = 0
    if (file := _open_plain(path)) is not None:
        with file:
            try:
                first = min(round(start_s * file.samplerate), file.frames)
                if first:
                    file.seek(first)
                for block in _libsndfile_blocks(file, seconds):
                    n_read += len(block.samples)
                    yield block
                    if first + n_read >= stop_s * file.samplerate:
                        return
            except soundfile.SoundFileError:
                is_whole = False  # FFmpeg goes on from there: these formats lose no sample
            else:
                is_whole = True
            if is_whole and (missing := _missing(file, first + n_read)):
                fault(missing)
        if is_whole:
            return
    skip = n_read
    try:
        for rate, samples in _ffmpeg_blocks(path, seconds, fault, start_s, stop_s):
            if len(samples) > skip:
                yield Block(rate, samples[skip:])
            skip = max(skip - len(samples), 0)
    except DecodingError:
        if not n_read:
            raise
        fault("read short: what follows cannot be decoded")


def read_header(path: Path) -> Header:
    """What a file says of itself.

    Raises:
        DecodingError: it is not audio.
        OSError: it cannot be read.
    """
    if (file := _open_plain(path)) is not None:
        with file:
            is_deep = file.subtype not in ("PCM_S8", "PCM_U8", "PCM_16")
            return Header(file.samplerate, file.frames, file.channels, file.format, is_deep)
    with Container(path) as opened:
        return opened.header()


def read_tags(path: Path) -> dict[str, str]:
    """A file's tags (artist, title, album, ...), names in lower case.

    Raises:
        DecodingError, OSError: it cannot be read.
    """
    with Container(path) as opened:
        return opened.tags()


def count_seconds(path: Path) -> float:
    """How long a file is by its packets, whatever its header says; 0 where they do not say.

    Raises:
        DecodingError, OSError: it cannot be read.
    """
    with Container(path) as opened:
        return opened.count_seconds()


def digest_sound(path: Path) -> str:
    """SHA-256 of a file's sound as it is stored, which its tags do not change.

    Raises:
        DecodingError, OSError: it cannot be read.
    """
    with Container(path) as opened:
        return opened.digest()


def probe(path: Path) -> tuple[Header, str]:
    """A file's header, and what seems wrong with it, "" for nothing, without decoding all of it.

    Of WAV, AIFF and FLAC both ends are decoded; of others the packets are counted.

    Raises:
        DecodingError, soundfile.SoundFileError, OSError: it cannot be read.
    """
    header = read_header(path)
    if (file := _open_plain(path)) is None:
        with Container(path) as opened:
            return header, opened.fault_of_packets()
    file.close()
    with soundfile.SoundFile(os.fsencode(path)) as file:
        wanted = min(file.frames, round(PROBE_SECONDS * file.samplerate))
        for start in (0, file.frames - wanted):
            file.seek(start)
            samples = file.read(wanted, dtype="float32")
            if len(samples) < wanted:
                return header, "ends before the length that its header states"
            if not np.isfinite(samples).all():
                return header, "holds NaN or infinite samples"
        return header, _missing(file, file.frames)


def _open_plain(path: Path) -> _ForwardFile | None:
    """A WAV, AIFF or FLAC file that libsndfile knows the codec and length of; None for others."""
    with open(path, "rb") as file:
        start = file.read(12)
    is_known = start[:4] + start[8:] in (b"RIFFWAVE", b"RF64WAVE", b"FORMAIFF", b"FORMAIFC")
    if not is_known and start[:4] != b"fLaC":
        return None
    try:
        opened = _ForwardFile(os.fsencode(path))
    except soundfile.SoundFileError:
        return None
    is_stated = opened.frames > 0 or not _is_unstated(path)
    if opened.subtype in PLAIN and opened.frames < UNKNOWN_FRAMES and is_stated:
        return opened
    opened.close()
    return None


def _is_unstated(path: Path) -> bool:
    with open(path, "rb") as file:
        return UNSTATED.search(file.read(LONGEST_START)) is not None


class _ForwardFile(soundfile.SoundFile):
    """A file that is read from its beginning to its end: soundfile seeks after every read."""

    def seekable(self) -> bool:
        return False


def _libsndfile_blocks(file: soundfile.SoundFile, seconds: float) -> Iterator[Block]:
    buffer = np.empty((max(int(seconds * file.samplerate), 1), file.channels), np.float32)
    while len(samples := file.read(out=buffer)):
        yield Block(file.samplerate, samples)


def _missing(file: soundfile.SoundFile, n_read: int) -> str:
    """What is missing of a file that was read to its end; nothing for a whole one."""
    if n_read < file.frames:
        return read_short(n_read / file.samplerate, file.frames / file.samplerate)
    for line in file.extra_info.splitlines():
        if (found := CLAIMED_SIZE.search(line)) and "fact" not in line.lower():
            claimed, there = map(int, found.groups())
            # Some programs count the eight bytes of the header itself.
            if claimed > there + 8 and (claimed < UNKNOWN_LENGTH or "riff size" in line.lower()):
                return f"read short: its header states {claimed:,} bytes, there are {there:,}"
    return ""


def _ffmpeg_blocks(
    path: Path, seconds: float, fault: Fault, start_s: float, stop_s: float
) -> Iterator[Block]:
    with Container(path) as opened:
        for rate, samples in opened.blocks(seconds, start_s, stop_s):
            yield Block(rate, samples)
        for text in opened.faults():
            fault(text)
