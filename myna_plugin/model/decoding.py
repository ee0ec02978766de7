"""Which files of a music folder are audio, how long they are about, and how they are read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from myna_plugin.model.audio import AudioError, stream_audio

UNCOMPRESSED_SUFFIXES = {".wav", ".wave", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".au", ".caf"}

COMPRESSED_SUFFIXES = {".flac", ".mp3", ".ogg", ".oga", ".opus"}

FFMPEG_SUFFIXES = {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka"}
"""Decoded by the program `ffmpeg`, where it is on PATH; all others by libsndfile."""

AUDIO_SUFFIXES = UNCOMPRESSED_SUFFIXES | COMPRESSED_SUFFIXES | FFMPEG_SUFFIXES

FFMPEG_TIMEOUT_S = 1800

LOWEST_BYTE_RATE = 1_000
"""Bytes a second that no real recording falls below (8 kbit/s); bounds what a header claims."""

GUESSED_BYTE_RATE = 8_000
"""Bytes a second assumed where only ffmpeg could tell: 64 kbit/s, so rather too long."""

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


def decode_audio(path: Path) -> Tensor:
    """Read a file of any supported kind as mono audio at 16 kHz.

    Returns:
        Samples, float32, shape (S,) with S >= 1; see `load_audio`.

    Raises:
        AudioError: it cannot be read; the message starts with the path and says why.
    """
    return torch.from_numpy(np.concatenate(list(stream_decoded(path))))


def stream_decoded(path: Path) -> Iterator[np.ndarray]:
    """What `decode_audio` gives, block by block, in bounded memory.

    Yields:
        Float32 samples, shape (n,) with n >= 1; see `stream_audio`.

    Raises:
        AudioError: as `decode_audio`, perhaps after some blocks.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise AudioError(f"{path}: its name is not valid UTF-8: rename the file") from None
    if path.suffix.lower() in FFMPEG_SUFFIXES and path.is_file():
        yield from _stream_with_ffmpeg(path)
    else:
        yield from stream_audio(path)


def estimate_seconds(path: Path) -> float:
    """About how long a file is, from its header or else its size; 0 where it cannot be read."""
    if not path.is_file():
        return 0.0
    size = os.path.getsize(path)
    if path.suffix.lower() in FFMPEG_SUFFIXES:
        return size / GUESSED_BYTE_RATE if shutil.which("ffmpeg") else 0.0
    try:
        claimed = soundfile.info(os.fsencode(path)).duration
    except (soundfile.SoundFileError, OSError, ZeroDivisionError):
        return 0.0
    return min(claimed, size / LOWEST_BYTE_RATE)


def _stream_with_ffmpeg(path: Path) -> Iterator[np.ndarray]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            f"{path}: {path.suffix} files need the program ffmpeg, which is not on PATH: "
            "install it, then run again"
        )
    with tempfile.TemporaryDirectory() as folder:
        # A file rather than a pipe: its header then holds the length. W64 has no 4 GB limit.
        # Channels and rate are kept, so that mixing and resampling are the same for every format.
        decoded = Path(folder) / "decoded.w64"
        command = [program, "-nostdin", "-v", "error", "-threads", "1"]
        command += ["-protocol_whitelist", "file", "-i", f"file:{path}"]
        command += ["-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "w64", str(decoded)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=FFMPEG_TIMEOUT_S)
            yield from stream_audio(decoded)
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            # Addresses in ffmpeg's messages differ from run to run; the report must not.
            reason = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] ", "", said[0])
            raise AudioError(f"{path}: ffmpeg cannot decode it ({reason})") from error
        except subprocess.TimeoutExpired as error:
            raise AudioError(f"{path}: ffmpeg took over {FFMPEG_TIMEOUT_S} s") from error
        except AudioError as error:
            raise AudioError(str(error).replace(str(decoded), str(path))) from error
