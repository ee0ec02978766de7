"""Sounds of any length through an encoder of windows, as the HEAR API wants them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.model.embedding import as_dense

HOP_MS = 50.0
"""Between timestamp embeddings: the widest spacing that the HEAR API advises."""


class FrameEncoder(nn.Module):
    """An encoder of windows; subclasses say how one is encoded.

    Attributes:
        sample_rate: Hz.
        scene_embedding_size: D.
        timestamp_embedding_size: D.
        window: samples that are encoded at a time.
        shortest: samples below which `encode` cannot go; a shorter rest is filled up with zeros.
    """

    def __init__(self, sample_rate: int, width: int, window: int, shortest: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = width
        self.window = window
        self.shortest = shortest

    def prepare(self, audio: Tensor) -> Tensor:
        """Whole sounds (B, S) -> (B, S), before they are cut."""
        return audio

    def encode(self, audio: Tensor) -> Tensor:
        """Windows (B, S), `shortest` <= S <= `window` -> T >= 1 vectors over time (B, T, D)."""
        raise NotImplementedError


class Window(NamedTuple):
    """An encoded window: its vectors (B, T, D), where it begins, its length and that of a frame,
    in samples."""

    frames: Tensor
    start: int
    length: int
    step: float


def encode_windows(audio: Tensor, model: FrameEncoder) -> Iterator[Window]:
    """Encode sounds (B, S) window by window; vectors of filled-up zeros are left out."""
    for start in range(0, audio.shape[1], model.window):
        cut = audio[:, start : start + model.window]
        length = cut.shape[1]
        cut = functional.pad(cut, (0, max(model.shortest - length, 0)))
        frames = model.encode(cut)
        step = cut.shape[1] / frames.shape[1]
        yield Window(frames[:, : max(round(length / step), 1)], start, length, step)


def _as_prepared(audio: Tensor | np.ndarray, model: FrameEncoder) -> Tensor:
    device = next(model.parameters()).device
    return model.prepare(as_dense(audio).to(device=device, dtype=torch.float32))


@torch.no_grad()
def get_scene_embeddings(audio: Tensor | np.ndarray, model: FrameEncoder) -> Tensor:
    """The mean vector of each sound.

    Args:
        audio: samples in [-1, 1] at `model.sample_rate`, shape (B, S), S >= 1.
        model: from a peer's `load_model`.

    Returns:
        float32, shape (B, D): each window counts by its length.
    """
    audio = _as_prepared(audio, model)
    windows = encode_windows(audio, model)
    parts = [w.frames.mean(1) * (w.length / audio.shape[1]) for w in windows]
    return torch.stack(parts).sum(0).float()


@torch.no_grad()
def get_timestamp_embeddings(
    audio: Tensor | np.ndarray, model: FrameEncoder
) -> tuple[Tensor, Tensor]:
    """The encoder's vector nearest to every 50 ms.

    Args:
        audio: samples in [-1, 1] at `model.sample_rate`, shape (B, S), S >= 1.
        model: from a peer's `load_model`.

    Returns:
        float32, shape (B, T, D), and their times in milliseconds, shape (B, T): 25, 75, …; of a
        sound below 50 ms its middle.
    """
    audio = _as_prepared(audio, model)
    windows = list(encode_windows(audio, model))
    frames = torch.cat([w.frames for w in windows], dim=1).float()
    centres = torch.cat(
        [w.start + (torch.arange(w.frames.shape[1]) + 0.5) * w.step for w in windows]
    )
    duration_ms = 1000 * audio.shape[1] / model.sample_rate
    times = min(HOP_MS, duration_ms) / 2 + HOP_MS * torch.arange(max(int(duration_ms / HOP_MS), 1))
    between = (centres[1:] + centres[:-1]) / 2
    nearest = torch.bucketize(times * model.sample_rate / 1000, between)
    times = times.to(frames.device).expand(len(audio), -1)
    return frames[:, nearest.to(frames.device)], times
