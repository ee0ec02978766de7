"""HEAR module: mean, deviation and change of the log mel. Nothing is learned.

myna probe --module mel-statistics ...
"""

from __future__ import annotations

import torch
from torch import Tensor

from myna_plugin.model.audio import HOP_LENGTH
from myna_plugin.model.spectrogram import N_MELS, MelSpectrogram
from myna_plugin.peers.card import Card, refuse_weights
from myna_plugin.peers.features import Features, get_scene_embeddings, get_timestamp_embeddings

__all__ = ["CARD", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

CARD = Card(
    "mel-statistics",
    source="written for this package",
    rule="16 kHz; mean, deviation and mean absolute change over time of the log mel, 128 bands",
)

FLOOR = 1e-4
"""Added before the logarithm: the mel power of white noise at about -85 dBFS."""


class MelStatistics(Features):
    """Log mel of the model's own spectrogram: 128 bands."""

    def __init__(self) -> None:
        super().__init__(N_MELS, HOP_LENGTH, statistics=3)
        self.mel = MelSpectrogram()

    def forward(self, audio: Tensor) -> Tensor:
        """Log mel (B, F, 128) of samples (B, S)."""
        return torch.log(self.mel(audio) + FLOOR).transpose(1, 2)

    def sum_up(self, frames: Tensor) -> Tensor:
        """Means, deviations and mean absolute differences of successive frames, (B, 384)."""
        # The change of a sound of one frame is none.
        change = frames.diff(dim=1, prepend=frames[:, :1]).abs()
        return torch.cat([super().sum_up(frames), change.mean(1)], dim=1)


def load_model(model_file_path: str = "") -> MelStatistics:
    """The module; there are no weights to load, so `model_file_path` must be empty.

    Raises:
        PeerError: a file was given.
    """
    refuse_weights(CARD.name, model_file_path)
    return MelStatistics().eval()
