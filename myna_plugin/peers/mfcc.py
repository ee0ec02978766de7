"""HEAR module: twenty mel-frequency cepstral coefficients and their deltas. Nothing is learned.

myna probe --module mfcc ...
"""

from __future__ import annotations

import torch
from scipy.fft import dct
from torch import Tensor, nn

from myna_plugin.model.audio import HOP_LENGTH
from myna_plugin.model.spectrogram import N_MELS, MelSpectrogram
from myna_plugin.peers.card import Card, refuse_weights
from myna_plugin.peers.features import Features, get_scene_embeddings, get_timestamp_embeddings

__all__ = ["CARD", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

CARD = Card(
    "mfcc",
    source="Davis and Mermelstein 1980, IEEE Trans. ASSP 28(4)",
    rule="16 kHz; mean and deviation over time of 20 coefficients and their deltas",
)

N_COEFFICIENTS = 20

RANGE_DB = 80.0
"""What lies further below the loudest value of a sound is taken for that much below."""


class Mfcc(Features):
    """The DCT-II of the mel spectrogram in decibels: coefficients and their deltas."""

    def __init__(self) -> None:
        super().__init__(2 * N_COEFFICIENTS, HOP_LENGTH)
        self.mel = MelSpectrogram()
        basis = torch.from_numpy(dct(torch.eye(N_MELS).numpy(), norm="ortho"))
        self.register_buffer("basis", basis[:, :N_COEFFICIENTS])

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
