"""HEAR module: how well each key's profile fits the chroma. Nothing is learned.

The greatest of the 24 numbers is the estimated key, so no probe is needed to score it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from myna_plugin.peers import chroma
from myna_plugin.peers.card import Card, refuse_weights
from myna_plugin.probing.tasks.giantsteps import KEYS

CARD = Card(
    "krumhansl",
    source="Krumhansl and Kessler 1982, Psychological Review 89(4)",
    rule="16 kHz; correlation of the mean chroma with the profiles of 24 keys",
)

PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
"""How well a pitch class fits a key on C. Source: Krumhansl and Kessler 1982."""


def key_templates() -> Tensor:
    """Profiles of all 24 keys in the order of `KEYS`, less their mean, of length 1: (24, 12).

    >>> templates = key_templates()
    >>> int(templates[KEYS.index("G minor")].argmax())
    7
    """
    profiles = torch.tensor([PROFILES[mode] for mode in ("major", "minor")])
    keys = torch.stack([profile.roll(tonic) for profile in profiles for tonic in range(12)])
    return normalise(keys)


def normalise(vectors: Tensor) -> Tensor:
    """Rows (N, 12) less their mean, of length 1."""
    return nn.functional.normalize(vectors - vectors.mean(1, keepdim=True), dim=1)


class KeyTemplates(nn.Module):
    """Correlation of the mean chroma with the profile of every key.

    Attributes:
        sample_rate: 16000 Hz.
        scene_embedding_size: 24, the keys in the order of `KEYS`.
    """

    templates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.chroma = chroma.Chroma()
        self.register_buffer("templates", key_templates())
        self.sample_rate = self.chroma.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = len(KEYS)

    def forward(self, audio: Tensor) -> Tensor:
        """Correlations in [-1, 1], shape (B, 24), of samples (B, S)."""
        return normalise(self.chroma(audio).mean(1)) @ self.templates.T


def load_model(model_file_path: str = "") -> KeyTemplates:
    """The module; there are no weights to load, so `model_file_path` must be empty.

    Raises:
        PeerError: a file was given.
    """
    refuse_weights(CARD.name, model_file_path)
    return KeyTemplates().eval()


def get_scene_embeddings(audio: Tensor, model: KeyTemplates) -> Tensor:
    """Correlation with every key.

    Args:
        audio: samples in [-1, 1] at 16 kHz, shape (B, S).
        model: from `load_model`.

    Returns:
        Shape (B, 24).
    """
    return model(audio)
