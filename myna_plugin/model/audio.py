"""Audio files as mono waveforms at the model's sample rate, and how that is cut into frames.

torch is imported for `load_audio` alone: processes that only decode need neither its 200 MB nor the
second that it takes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from myna_plugin.common.errors import InputError, reason
from myna_plugin.common.files import fault_of_place
from myna_plugin.common.numbers import check_number
from myna_plugin.model.containers import Block, DecodingError, Header, read_short
from myna_plugin.model.sound_files import Fault, count_seconds, probe, read_blocks, read_header
from myna_plugin.model.sound_files import digest_sound as digest_file_sound
from myna_plugin.model.sound_files import read_tags as read_file_tags

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE = 16_000
"""Hz; every Myna model listens at this rate (paper §3.6)."""

N_FFT = 2048
HOP_LENGTH = 512
MARGIN = N_FFT // 2
"""Samples that a centred frame reaches to either side."""

BLOCK_SECONDS = 10.0
"""Audio decoded at a time; a few megabytes, so that a block stays in a core's cache."""

SILENCE_AMPLITUDE = 1e-4
"""Half the span between extremes below which audio is silent: -80 dBFS, 3 steps of 16 bit."""

SILENT = f"silent: nothing above {20 * math.log10(SILENCE_AMPLITUDE):.0f} dBFS"
"""What is said of a silent file."""

HEARD_AMPLITUDE = 1e-3
"""A sample of the mix above it (-60 dBFS) may show that the channels do not cancel."""

MARGIN_S = 1
"""Read on either side of a part of a file, a whole number."""

MOMENT = 4096
"""Samples that are looked at together, whether channels cancel."""

CANCELLED_RATIO = 0.01
"""The mix of cancelled channels stays below this fraction (-40 dB) of what they hold."""


class AudioError(InputError):
    """An audio file that cannot be used; the message names the file and the fault."""


class AudioWarning(UserWarning):
    """An audio file that is used, though not all is as it should be; the message says what."""


Note = Callable[[Path, str], None]
"""Told the file and what is odd about it: "read short: …", "damaged: …", "silent: …"."""

Span = tuple[float, float | None]
"""Beginning and end of a part of a file, seconds; None for the end of the file."""

SHORTEST_S = 0.001
"""A part of a file is at least this long, seconds: below a sample there is none."""

WHOLE: Span = (0.0, None)

Read = Callable[[Fault], Generator[Block, None, None]]
"""Reads what is wanted of a file from its beginning, telling what is wrong with it."""


def warn(path: Path, text: str) -> None:
    """Say it as a Python warning, an `AudioWarning`."""
    warnings.warn(f"{path}: {text}", AudioWarning, stacklevel=2)


def frame_count(n_samples: int) -> int:
    """Frames of a sound of `n_samples`: one every hop, centred, the first on sample 0.

    >>> [frame_count(n) for n in (1, 511, 512, 50_000)]
    [1, 1, 2, 98]
    """
    if n_samples < 1:
        raise ValueError(f"a sound needs at least 1 sample, got {n_samples}")
    return 1 + n_samples // HOP_LENGTH


def load_audio(
    path: str | Path,
    sample_rate: int = SAMPLE_RATE,
    note: Note = warn,
    seconds: float | None = None,
) -> Tensor:
    """Decode a file, mix it to mono and resample it.

    Whatever FFmpeg's libraries read, by content, whatever its name; of several audio streams the
    first. Channels are averaged, as in the released pipeline, unless they cancel (`stream_audio`);
    resampling is soxr's "HQ" setting.

    Args:
        path: the audio file.
        sample_rate: rate of the result, Hz.
        note: told what is odd about a file that is used nevertheless: it was read short, parts
            are damaged, it is silent, its channels cancel. By default an `AudioWarning`.
        seconds: only as much from the middle of the file, the rest not being decoded; None for all.

    Returns:
        Samples in [-1, 1] (a float file may exceed it), float32, shape (S,) with S >= 1.

    Raises:
        AudioError: the file is missing, cannot be decoded, is empty, or holds NaN or inf.
    """
    import torch

    if seconds is None:
        blocks = stream_audio(path, sample_rate, note)
    else:
        _, blocks = stream_middle(path, seconds, sample_rate, note)
    return torch.from_numpy(np.concatenate(list(blocks)))


def find_middle(
    path: str | Path, seconds: float, within: Span = WHOLE, end_s: float | None = None
) -> tuple[Span, float]:
    """The middle of a file, or of a part of it, and how long the whole of that is, seconds.

    The length is what the file states, or where it states none what its packets add up to. What is
    no longer than `seconds` is taken as it is.

    Args:
        path: the audio file.
        seconds: how much of it.
        within: the part.
        end_s: the file's length, seconds, where that is known better than by the file.

    Raises:
        TypeError, ValueError: `seconds` is no number, or below `SHORTEST_S`.
        AudioError: as `read_info`; or the part begins after the end.
    """
    seconds = check_number("seconds", seconds, float, SHORTEST_S)
    start_s, stop_s = within
    end_s = read_info(path).duration_s if end_s is None else end_s
    length_s = (end_s if stop_s is None else min(stop_s, end_s)) - start_s
    if length_s < 0:
        raise AudioError(f"{path}: ends before {start_s:.2f} s")
    if length_s <= seconds:
        return within, length_s
    middle_s = start_s + (length_s - seconds) / 2
    return (middle_s, middle_s + seconds), length_s


def stream_middle(
    path: str | Path,
    seconds: float,
    sample_rate: int = SAMPLE_RATE,
    note: Note = warn,
    within: Span = WHOLE,
) -> tuple[float, Iterator[np.ndarray]]:
    """What `find_middle` gives: how long the whole is, seconds, and the middle, block by block.

    Of a file that was cut off the middle by its header may not be there. Then it is that of what is
    there, by its packets.

    Args:
        path: the audio file.
        seconds: how much of it.
        sample_rate: rate of the result, Hz.
        note: as `stream_audio`, but told a kind of fault once.
        within: the part of the file whose middle is wanted.

    Raises:
        TypeError, ValueError, AudioError: as `find_middle` and `stream_audio`.
    """
    path, told = Path(path), set[str]()

    def note_once(path: Path, text: str) -> None:
        kind = text.partition(":")[0]
        if kind not in told:
            told.add(kind)
            note(path, text)

    span, length_s = find_middle(path, seconds, within)
    blocks = stream_audio(path, sample_rate, note_once, span)
    try:
        return length_s, chain([next(blocks)], blocks)
    except AudioError:
        with _named(path):
            there_s = count_seconds(path)
        if not 0 < there_s < (span[1] or 0):
            raise
    note_once(path, read_short(there_s, read_info(path).duration_s))
    span, length_s = find_middle(path, seconds, within, there_s)
    return length_s, stream_audio(path, sample_rate, note_once, span)


def stream_audio(
    path: str | Path, sample_rate: int = SAMPLE_RATE, note: Note = warn, span: Span = WHOLE
) -> Iterator[np.ndarray]:
    """What `load_audio` gives, block by block: a file of any length needs a few megabytes.

    Of a part of a file little more than that is decoded, and looked at; it is the same part of the
    whole up to rounding, a relative 1e-6. Where AAC asks for noise, the decoder draws another.

    The channels cancel if the mix never exceeds both `HEARD_AMPLITUDE` and `CANCELLED_RATIO` of
    what any channel has reached up to there, nor the latter of what any reaches anywhere; then the
    loudest channel stands for all, from the first sample to the last. For nearly every file its
    first sound decides that they do not. Only one that begins with silence, or cancelled, is
    decoded on until that is known, and then once more from its beginning.

    Args:
        path: the audio file.
        sample_rate: rate of the result, Hz.
        note: as `load_audio`; told before the last block has been asked for in vain.
        span: the part that is wanted.

    Yields:
        Float32 samples, shape (n,) with n >= 1, about `BLOCK_SECONDS` of them; joined they are
        what `load_audio` returns, to the bit.

    Raises:
        AudioError: as `load_audio`, perhaps after some blocks; or the file ends before the part
            begins.
    """
    path = Path(path)
    sample_rate = int(check_number("sample_rate", sample_rate, int, 1))
    start_s, stop_s = span
    # soxr hears a little on either side; from a whole second on, its samples lie where those of
    # the whole file do.
    lead_s = max(math.floor(start_s) - MARGIN_S, 0)
    first = round(start_s * sample_rate) - lead_s * sample_rate
    last = None if stop_s is None else round(stop_s * sample_rate) - lead_s * sample_rate
    read = partial(
        read_blocks,
        path,
        BLOCK_SECONDS,
        start_s=lead_s,
        stop_s=math.inf if stop_s is None else stop_s + MARGIN_S,
    )
    at, is_empty = 0, True
    with _named(path):
        for block in _resampled(_mono_blocks(read, path, note), sample_rate):
            piece = block[max(first - at, 0) : None if last is None else max(last - at, 0)]
            at += len(block)
            if len(piece):
                is_empty = False
                yield piece
    if is_empty:
        fault = f"ends before {start_s:.2f} s" if start_s else "holds no samples"
        raise AudioError(f"{path}: {fault}")


def read_info(path: str | Path) -> Header:
    """A file's rate, length, channels and format, without decoding it.

    Raises:
        AudioError: the file is missing, or is not audio.
    """
    path = Path(path)
    with _named(path):
        return read_header(path)


def read_tags(path: str | Path) -> dict[str, str]:
    """A file's tags (artist, title, album, ...), names in lower case.

    Raises:
        AudioError: as `read_info`.
    """
    path = Path(path)
    with _named(path):
        return read_file_tags(path)


def digest_sound(path: str | Path) -> str:
    """SHA-256 of a file's sound as it is stored, which its tags and pictures do not change.

    Raises:
        AudioError: as `read_info`.
    """
    path = Path(path)
    with _named(path):
        return digest_file_sound(path)


def probe_ends(path: str | Path) -> tuple[Header, str]:
    """A file's header, and what seems wrong with it, "" for nothing, without decoding all of it.

    Raises:
        AudioError: as `read_info`.
    """
    path = Path(path)
    with _named(path):
        return probe(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever keeps the block from reading a file becomes an `AudioError` with its name."""
    try:
        if fault := fault_of_place(path):
            raise AudioError(f"{path}: {fault}")
        yield
    except (DecodingError, soundfile.SoundFileError, OSError) as error:
        text = getattr(error, "error_string", None) or reason(error)
        if path.is_file() and not path.stat().st_size:
            text = "the file has no bytes"
        raise AudioError(f"{path}: cannot be decoded ({text})") from error


class _Mix:
    """Whether the channels cancel, told from the blocks of a file so far."""

    def __init__(self) -> None:
        self._peaks = np.zeros(0, np.float32)
        self._mix_peak = 0.0

    def is_heard(self, samples: np.ndarray) -> bool:
        """Take the next block, shape (n, C); whether it shows that the channels do not cancel."""
        if samples.shape[1] == 1 or len(self._peaks) not in (0, samples.shape[1]):
            return True
        # Of nearly every file the first moment decides, which all of a block takes 30 ms to do.
        starts = range(0, len(samples), MOMENT)
        return any(self._hears(samples[start : start + MOMENT]) for start in starts)

    def _hears(self, samples: np.ndarray) -> bool:
        levels = np.abs(samples)
        mix = np.abs(average_channels(samples))
        reached = np.maximum.accumulate(levels.max(axis=1))
        np.maximum(reached, self._peaks.max(initial=0), out=reached)
        # Not the other way round: NaN is for others to find.
        is_quiet = (mix <= HEARD_AMPLITUDE) | (mix <= CANCELLED_RATIO * reached)
        self._peaks = np.maximum(levels.max(axis=0), self._peaks if len(self._peaks) else 0)
        self._mix_peak = max(self._mix_peak, float(mix.max()))
        return not is_quiet.all()

    def channel(self) -> int | None:
        """After the last block: the channel to take for all, from 0; None if the mix is right."""
        loudest = float(self._peaks.max(initial=0))
        if loudest < SILENCE_AMPLITUDE or self._mix_peak > CANCELLED_RATIO * loudest:
            return None
        return int(self._peaks.argmax())


def _unheeded(text: str) -> None:
    """For a file that is read once more, and then heeded."""


def _blocks_and_channel(read: Read, fault: Fault) -> tuple[Iterator[Block], int | None]:
    """All blocks of a file, and the channel that stands for the mix; None for none."""
    blocks = read(fault)
    first = next(blocks, None)
    if first is None or _Mix().is_heard(first.samples):
        return chain([] if first is None else [first], blocks), None
    blocks.close()
    mix = _Mix()
    is_heard = any(mix.is_heard(samples) for _, samples in read(_unheeded))
    return read(fault), None if is_heard else mix.channel()


def _mono_blocks(read: Read, path: Path, note: Note) -> Iterator[tuple[int, np.ndarray]]:
    """The file's rate and blocks, mixed, shape (n,); then what is to be noted."""
    low, high = np.inf, -np.inf
    blocks, channel = _blocks_and_channel(read, partial(note, path))
    for rate, samples in blocks:
        mono = average_channels(samples) if channel is None else samples[:, channel].copy()
        if not np.isfinite(mono).all():
            raise AudioError(f"{path}: holds NaN or infinite samples")
        low, high = min(low, float(mono.min())), max(high, float(mono.max()))
        yield rate, mono
    if channel is not None:
        note(path, f"cancelled: its channels cancel, channel {channel + 1} alone was used")
    if low <= high and (high - low) / 2 < SILENCE_AMPLITUDE:
        note(path, SILENT)


def average_channels(samples: np.ndarray) -> np.ndarray:
    """Mix float32 samples of shape (S, C) to mono, shape (S,), a copy.

    >>> average_channels(np.array([[0.5, 0.25], [0.0, 1.0]], np.float32))
    array([0.375, 0.5  ], dtype=float32)
    """
    if samples.shape[1] == 2:
        # The same sum as `mean`, which takes as long as decoding MP3 does when rows are this short.
        mono = samples[:, 0] + samples[:, 1]
        mono *= np.float32(0.5)
        return mono
    return samples.mean(axis=1)


def _resampled(blocks: Iterable[tuple[int, np.ndarray]], target_rate: int) -> Iterator[np.ndarray]:
    """Blocks of mono audio, resampled as one signal for as long as their rate stays the same."""
    for rate, stretch in groupby(blocks, key=itemgetter(0)):
        if rate == target_rate:
            yield from (block for _, block in stretch)
            continue
        stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality="HQ")
        for _, block in stretch:
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resample float32 audio from `rate` to `target_rate`, both Hz, along the first axis.

    >>> resample(np.zeros(44_100, dtype=np.float32), 44_100, 16_000).shape
    (16000,)
    """
    if rate == target_rate:
        return samples
    return soxr.resample(samples, rate, target_rate, quality="HQ")
