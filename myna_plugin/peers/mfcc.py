"""HEAR module: twenty mel-frequency cepstral coefficients and their deltas. Nothing is learned.

myna probe --module mfcc ...
"""

from __future__ import annotations

import torch
from scipy.fft import dct
from torch import Tensor, nn

from myna_plugin.model.audio import HOP_LENGTH, SAMPLE_RATE
from myna_plugin.model.spectrogram import N_MELS, MelSpectrogram
from myna_plugin.peers.card import Card, refuse_weights

CARD = Card(
    "mfcc",
    source="Davis and Mermelstein 1980, IEEE Trans. ASSP 28(4)",
    rule="16 kHz; mean and deviation over time of 20 coefficients and their deltas",
)

N_COEFFICIENTS = 20

RANGE_DB = 80.0
"""What lies further below the loudest value of a sound is taken for that much below."""


class Mfcc(nn.Module):
    """The DCT-II of the mel spectrogram in decibels.

    Attributes:
        sample_rate: 16000 Hz.
        scene_embedding_size: 80: mean and deviation of each coefficient and of its delta.
        timestamp_embedding_size: 40: coefficients and deltas.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram()
        basis = torch.from_numpy(dct(torch.eye(N_MELS).numpy(), norm="ortho"))
        self.register_buffer("basis", basis[:, :N_COEFFICIENTS])
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = 4 * N_COEFFICIENTS
        self.timestamp_embedding_size = 2 * N_COEFFICIENTS

    def forward(self, audio: Tensor) -> Tensor:
        """Coefficients and deltas (B, F, 40) of samples (B, S)."""
        decibels = 10 * self.mel(audio).clamp(min=1e-10).log10()
        decibels = decibels.maximum(decibels.amax((1, 2), keepdim=True) - RANGE_DB)
        coefficients = decibels.transpose(1, 2) @ self.get_buffer("basis")
        return torch.cat([coefficients, delta(coefficients)], dim=2)


def delta(frames: Tensor, reach: int = 4) -> Tensor:
    """Slope of the line through a frame and `reach` ones at either side: (B, F, C) -> the same.

    The first and last frame stand for those beyond them.

    >>> delta(torch.arange(20.0).view(1, 20, 1))[0, 10]
    tensor([1.])
    """
    padded = nn.functional.pad(frames.transpose(1, 2), (reach, reach), mode="replicate")
    weights = torch.arange(-reach, reach + 1.0, device=frames.device)
    slopes = (padded.unfold(2, 2 * reach + 1, 1) * weights).sum(-1) / weights.square().sum()
    return slopes.transpose(1, 2)


def load_model(model_file_path: str = "") -> Mfcc:
    """The module; there are no weights to load, so `model_file_path` must be empty.

    Raises:
        PeerError: a file was given.
    """
    refuse_weights(CARD.name, model_file_path)
    return Mfcc().eval()


def get_scene_embeddings(audio: Tensor, model: Mfcc) -> Tensor:
    """Statistics over time.

    Args:
        audio: samples in [-1, 1] at 16 kHz, shape (B, S).
        model: from `load_model`.

    Returns:
        Shape (B, 80): means, then deviations, of coefficients and deltas.

    >>> get_scene_embeddings(torch.zeros(2, 16_000), load_model()).shape
    torch.Size([2, 80])
    """
    frames = model(audio)
    return torch.cat([frames.mean(1), frames.std(1, unbiased=False)], dim=1)


def get_timestamp_embeddings(audio: Tensor, model: Mfcc) -> tuple[Tensor, Tensor]:
    """Coefficients and deltas, one vector every 32 ms.

    Args:
        audio: samples in [-1, 1] at 16 kHz, shape (B, S).
        model: from `load_model`.

    Returns:
        Shape (B, F, 40), and the centres of the frames in milliseconds, shape (B, F).
    """
    frames = model(audio)
    times = torch.arange(frames.shape[1], device=audio.device) * (1000.0 * HOP_LENGTH / SAMPLE_RATE)
    return frames, times.expand(len(audio), -1)
