"""HEAR module: mean, deviation and change of the log mel. Nothing is learned.

myna probe --module mel-statistics ...
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from myna_plugin.model.audio import HOP_LENGTH, SAMPLE_RATE
from myna_plugin.model.spectrogram import N_MELS, MelSpectrogram
from myna_plugin.peers.card import Card, refuse_weights

CARD = Card(
    "mel-statistics",
    source="written for this package",
    rule="16 kHz; mean, deviation and mean absolute change over time of the log mel, 128 bands",
)

FLOOR = 1e-4
"""Added before the logarithm: the mel power of white noise at about -85 dBFS."""


class MelStatistics(nn.Module):
    """Log mel of the model's own spectrogram, and statistics of it.

    Attributes:
        sample_rate: 16000 Hz.
        scene_embedding_size: 384: mean, deviation and mean absolute change of each mel band.
        timestamp_embedding_size: 128: the log mel itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram()
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = 3 * N_MELS
        self.timestamp_embedding_size = N_MELS

    def forward(self, audio: Tensor) -> Tensor:
        """Log mel (B, 128, F) of samples (B, S)."""
        return torch.log(self.mel(audio) + FLOOR)


def load_model(model_file_path: str = "") -> MelStatistics:
    """The module; there are no weights to load, so `model_file_path` must be empty.

    Raises:
        PeerError: a file was given.
    """
    refuse_weights(CARD.name, model_file_path)
    return MelStatistics().eval()


def get_scene_embeddings(audio: Tensor, model: MelStatistics) -> Tensor:
    """Statistics over time.

    Args:
        audio: samples in [-1, 1] at 16 kHz, shape (B, S).
        model: from `load_model`.

    Returns:
        Shape (B, 384): mean, deviation and mean absolute difference of successive frames.

    >>> get_scene_embeddings(torch.zeros(2, 16_000), load_model()).shape
    torch.Size([2, 384])
    """
    frames = model(audio)
    # The change of a sound of one frame is none.
    change = frames.diff(dim=-1, prepend=frames[..., :1]).abs()
    return torch.cat([frames.mean(-1), frames.std(-1, unbiased=False), change.mean(-1)], dim=1)


def get_timestamp_embeddings(audio: Tensor, model: MelStatistics) -> tuple[Tensor, Tensor]:
    """The log mel, one vector every 32 ms.

    Args:
        audio: samples in [-1, 1] at 16 kHz, shape (B, S).
        model: from `load_model`.

    Returns:
        Shape (B, F, 128), and the centres of the frames in milliseconds, shape (B, F).
    """
    frames = model(audio).transpose(1, 2)
    times = torch.arange(frames.shape[1], device=audio.device) * (1000.0 * HOP_LENGTH / SAMPLE_RATE)
    return frames, times.expand(len(audio), -1)
