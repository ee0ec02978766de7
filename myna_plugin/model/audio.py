"""Audio files as mono waveforms at the model's sample rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from myna_plugin.common.errors import InputError

SAMPLE_RATE = 16_000
"""Hz; every Myna model listens at this rate (paper §3.6)."""

BLOCK_SECONDS = 10.0
"""Audio decoded at a time; a few megabytes, so that a block stays in a core's cache."""


class AudioError(InputError):
    """An audio file that cannot be used; the message names the file and the fault."""


def load_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Decode a file, mix it to mono and resample it.

    WAV, FLAC, OGG, MP3 and whatever else the installed libsndfile reads. Channels are averaged,
    as in the released pipeline; resampling is soxr's "HQ" setting.

    Args:
        path: the audio file.
        sample_rate: rate of the result, Hz.

    Returns:
        Samples in [-1, 1] (a float file may exceed it), float32, shape (S,) with S >= 1.

    Raises:
        AudioError: the file is missing, cannot be decoded, is empty, or holds NaN or inf.
    """
    return torch.from_numpy(np.concatenate(list(stream_audio(path, sample_rate))))


def stream_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """What `load_audio` gives, block by block: a file of any length needs a few megabytes.

    Args:
        path: the audio file.
        sample_rate: rate of the result, Hz.

    Yields:
        Float32 samples, shape (n,) with n >= 1, about `BLOCK_SECONDS` of them; joined they are
        what `load_audio` returns, to the bit.

    Raises:
        AudioError: as `load_audio`, perhaps after some blocks.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    n_samples = 0
    try:
        with _ForwardFile(path) as file:
            for block in _resampled(_mono_blocks(file, path), file.samplerate, sample_rate):
                n_samples += len(block)
                if len(block):
                    yield block
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be decoded ({_reason(error, path)})") from error
    if n_samples == 0:
        raise AudioError(f"{path}: holds no samples")


class _ForwardFile(soundfile.SoundFile):
    """A file that is read from its beginning to its end.

    soundfile seeks to where it is after every read, and libsndfile's MP3 decoder may give other
    samples after a seek than without it.
    """

    def seekable(self) -> bool:
        return False


def _reason(error: Exception, path: str | Path) -> str:
    """What libsndfile says, except that it calls a damaged MP3 missing."""
    if "does not exist" in str(error) and Path(path).is_file():
        return "not audio, or damaged"
    return str(error)


def _mono_blocks(file: soundfile.SoundFile, path: Path) -> Iterator[np.ndarray]:
    """The file's blocks, channels averaged, shape (n,) at the file's own rate."""
    buffer = np.empty((max(int(BLOCK_SECONDS * file.samplerate), 1), file.channels), np.float32)
    while len(samples := file.read(out=buffer)):
        mono = average_channels(samples)
        if not np.isfinite(mono).all():
            raise AudioError(f"{path}: holds NaN or infinite samples")
        yield mono


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


def _resampled(blocks: Iterable[np.ndarray], rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """Blocks of mono audio, resampled as one signal."""
    if rate == target_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
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
