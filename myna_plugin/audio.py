"""Audio files as mono waveforms at the model's sample rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
"""Hz; every Myna model listens at this rate (paper §3.6)."""


class AudioError(ValueError):
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
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be decoded ({error})") from error
    if len(samples) == 0:
        raise AudioError(f"{path}: holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: holds NaN or infinite samples")
    return torch.from_numpy(resample(samples.mean(axis=1), rate, sample_rate))


def resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resample float32 audio from `rate` to `target_rate`, both Hz, along the first axis.

    >>> resample(np.zeros(44_100, dtype=np.float32), 44_100, 16_000).shape
    (16000,)
    """
    if rate == target_rate:
        return samples
    return soxr.resample(samples, rate, target_rate, quality="HQ")
