"""HEAR module: chroma, the strength of the twelve pitch classes. Nothing is learned.

myna probe --module chroma ...
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.peers.card import Card, refuse_weights
from myna_plugin.peers.features import Features, get_scene_embeddings, get_timestamp_embeddings

__all__ = ["CARD", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

CARD = Card(
    "chroma",
    source="written for this package",
    rule="16 kHz; mean and deviation over time of 12 pitch classes, whitened spectra of 512 ms",
)

N_FFT = 8192
"""512 ms: two notes a semitone apart are told apart from about 130 Hz on."""

HOP_LENGTH = 2048

N_CHROMA = 12

LOWEST_HZ, HIGHEST_HZ = 65.0, 2100.0
"""Below, semitones run together; above, there is more overtone and noise than melody."""

WIDTH_SEMITONES = 0.3
"""Deviation of the weight round each semitone: some instruments and players are out of tune."""

BACKGROUND_BINS = 65
"""Bins whose mean counts as noise: about 127 Hz."""

EPSILON = 1e-8


def chroma_basis() -> Tensor:
    """Weight of every frequency bin in every pitch class from C, shape (12, N_FFT / 2 + 1).

    >>> basis = chroma_basis()
    >>> bin_of_a = round(440 * N_FFT / SAMPLE_RATE)
    >>> int(basis[:, bin_of_a].argmax())
    9
    """
    frequency = torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / N_FFT
    inside = (frequency >= LOWEST_HZ) & (frequency <= HIGHEST_HZ)
    pitch = 69 + 12 * torch.log2(frequency.clamp(min=1.0) / 440)
    classes = torch.arange(N_CHROMA, dtype=torch.float64).unsqueeze(1)
    distance = (pitch - classes + 6).remainder(12) - 6
    weight = torch.exp(-0.5 * (distance / WIDTH_SEMITONES) ** 2) * inside
    # High octaves have more bins; each octave is to count alike.
    return (weight / frequency.clamp(min=1.0)).float()


class Chroma(Features):
    """Chroma of whitened spectra."""

    basis: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__(N_CHROMA, HOP_LENGTH)
        self.register_buffer("basis", chroma_basis())
        self.register_buffer("window", torch.hann_window(N_FFT, periodic=True))

    def forward(self, audio: Tensor) -> Tensor:
        """Chroma of sounds.

        Args:
            audio: samples in [-1, 1] at 16 kHz, shape (B, S).

        Returns:
            From C up, >= 0, shape (B, F, 12) with F = 1 + S // 2048; the mean over a sound is
            about one, whatever its level.
        """
        spectrum = torch.stft(
            audio,
            N_FFT,
            hop_length=HOP_LENGTH,
            window=self.window,
            pad_mode="constant",  # a sound may be shorter than the reflection would be
            return_complex=True,
        )
        # The root keeps one loud note from hiding the others.
        strength = spectrum.abs().sqrt()
        background = functional.avg_pool1d(
            strength.transpose(1, 2),
            BACKGROUND_BINS,
            stride=1,
            padding=BACKGROUND_BINS // 2,
            count_include_pad=False,
        ).transpose(1, 2)
        chroma = self.basis @ (strength - background).relu()
        return (chroma / (chroma.mean((1, 2), keepdim=True) + EPSILON)).transpose(1, 2)


def load_model(model_file_path: str = "") -> Chroma:
    """The module; there are no weights to load, so `model_file_path` must be empty.

    Raises:
        PeerError: a file was given.
    """
    refuse_weights(CARD.name, model_file_path)
    return Chroma().eval()
