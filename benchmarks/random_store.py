"""A store of random clips, drawn where a step gathers from it."""

from __future__ import annotations

import numpy as np
import torch

from myna_plugin.pretraining.step.patches import ResidentFrames


class RandomStore:
    """Clips of random mel power, drawn on the device and kept there.

    Args:
        clips: how many.
        frames: of each.
        device: to keep them on.

    Attributes:
        lengths: frames of each clip, shape (clips,).
        offsets: first frame of each clip, int64, shape (clips,).
        resident: the frames, float16, all finite.
    """

    def __init__(self, clips: int, frames: int, device: torch.device) -> None:
        self.lengths = np.full(clips, frames)
        self.offsets = np.arange(clips, dtype=np.int64) * frames
        self.resident = ResidentFrames.__new__(ResidentFrames)
        self.resident.frames = torch.empty(clips * frames, 128, dtype=torch.float16, device=device)
        for part in self.resident.frames.split(1 << 20):
            # Beyond e^11 float16 knows no numbers.
            part.copy_(torch.randn(part.shape, device=device).mul_(2).clamp_(-10, 10).exp_())
            # Sums and products of NaN are faster than those of numbers.
            if not part.isfinite().all():
                raise FloatingPointError("the random store holds a value that is not finite")
