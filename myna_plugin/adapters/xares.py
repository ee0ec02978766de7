"""X-ARES: `python -m xares.run …/myna_plugin/adapters/xares.py TASKS…`.

X-ARES takes the one attribute of a file whose name ends in "Encoder" and calls it without
arguments, which gives the packaged model here. For another one, change the file that
`myna recipes xares --out mine` copies, and give that.

Nothing of X-ARES is imported. Source: github.com/jimbozhang/xares, "How to add your encoder" and
`xares/audio_encoder_checker.py` (0.1.3).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from myna_plugin.adapters.hidden_states import HiddenStates
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.checkpoint import embedding_patchings, load_encoder


class MynaEncoder(nn.Module):
    """Myna as X-ARES wants it: waveforms -> a sequence of embeddings.

    Attributes:
        sampling_rate: 16000 Hz.
        output_dim: width D.
        hop_size_in_ms: milliseconds between vectors.
    """

    def __init__(
        self, checkpoint: str | Path = "", embedding: str = "auto", hop_ms: float = 50.0
    ) -> None:
        """Load a model, frozen.

        Args:
            checkpoint: as `model_file_path` of `myna_plugin.load_model`.
            embedding: "square", "vertical", "hybrid" or "auto".
            hop_ms: milliseconds between vectors, a sample's 0.0625 at least.

        Raises:
            CheckpointError: the weights cannot be used, or cannot give `embedding`.
            ValueError: an option outside its range.
        """
        super().__init__()
        encoder = load_encoder(checkpoint, embedding=embedding)
        patchings = embedding_patchings(embedding, encoder.config.patchings)
        self.model = HiddenStates(encoder, patchings, hop_ms).eval()
        self.sampling_rate = SAMPLE_RATE
        self.output_dim = self.model.embedding_size
        self.hop_size_in_ms = hop_ms

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """Embed clips.

        Args:
            audio: samples in [-1, 1] at 16 kHz, shape (B, S), on any device.

        Returns:
            Timestamp embeddings, shape (B, T, D), T = 1 + floor(duration / hop_size_in_ms).
        """
        return self.model(audio.to(self.model.mel.window.device))[-1]
