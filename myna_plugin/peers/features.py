"""Features that nobody has learned, frame by frame, as the HEAR API wants them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from myna_plugin.model.audio import SAMPLE_RATE


class Features(nn.Module):
    """Features of evenly spaced frames; subclasses say what they are, and what sums them up.

    Attributes:
        sample_rate: 16000 Hz.
        timestamp_embedding_size: C, of a frame.
        scene_embedding_size: C for each statistic of a sound.
        hop_length: samples from a frame's centre to the next; the first is at the start.
    """

    def __init__(self, width: int, hop_length: int, statistics: int = 2) -> None:
        super().__init__()
        self.sample_rate = SAMPLE_RATE
        self.timestamp_embedding_size = width
        self.scene_embedding_size = statistics * width
        self.hop_length = hop_length

    def forward(self, audio: Tensor) -> Tensor:
        """Frames (B, F, C) of samples (B, S) in [-1, 1]."""
        raise NotImplementedError

    def sum_up(self, frames: Tensor) -> Tensor:
        """Frames (B, F, C) -> means, then deviations over time (B, 2 C)."""
        return torch.cat([frames.mean(1), frames.std(1, unbiased=False)], dim=1)


def get_scene_embeddings(audio: Tensor, model: Features) -> Tensor:
    """Statistics of each sound over time.

    Args:
        audio: samples in [-1, 1] at 16 kHz, shape (B, S).
        model: from a module's `load_model`.

    Returns:
        Shape (B, `model.scene_embedding_size`).
    """
    return model.sum_up(model(audio))


def get_timestamp_embeddings(audio: Tensor, model: Features) -> tuple[Tensor, Tensor]:
    """The features of every frame.

    Args:
        audio: samples in [-1, 1] at 16 kHz, shape (B, S).
        model: from a module's `load_model`.

    Returns:
        Shape (B, F, C), and the centres of the frames in milliseconds, shape (B, F).
    """
    frames = model(audio)
    times = torch.arange(frames.shape[1], device=audio.device) * (1000.0 * model.hop_length)
    return frames, (times / model.sample_rate).expand(len(audio), -1)
