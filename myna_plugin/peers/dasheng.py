"""HEAR module: Dasheng base, a masked auto-encoder of general audio, through its own package.

myna probe --module dasheng --model dasheng_base.pt ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from myna_plugin.common.errors import reason
from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.model.tensors import READING_ERRORS
from myna_plugin.peers.card import Card, PeerError
from myna_plugin.peers.frames import FrameEncoder, get_scene_embeddings, get_timestamp_embeddings

__all__ = ["CARD", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

SAMPLE_RATE = 16_000

HEADS = {768: 12, 1280: 16, 1536: 24}
"""Attention heads by width, of base, 0.6B and 1.2B: their files leave it to the package."""

CARD = Card(
    "dasheng",
    source="Dinkel et al. 2024 (arXiv 2406.06992); pooling as its README's classifier",
    rule="16 kHz; mean over time of the last block's tokens after the norm, windows of 10.08 s",
    code_licence="Apache-2.0",
    package="dasheng",
    install="dasheng",
    address="zenodo.org/records/11511780, dasheng_base.pt (or dasheng_06b.pt, dasheng_12b.pt)",
    weights_licence="Apache-2.0",
)


class Dasheng(FrameEncoder):
    """The package's encoder as a model of the HEAR API."""

    def __init__(self, encoder: Any) -> None:
        """Take over an encoder of `dasheng.pretrained`."""
        # A window is as long as there are positions; below the length of a patch there is none.
        window = encoder.target_length * encoder.hop_size
        shortest = encoder.patch_stride[-1] * encoder.hop_size
        super().__init__(SAMPLE_RATE, encoder.embed_dim, window, shortest)
        self.encoder: nn.Module = encoder

    def encode(self, audio: Tensor) -> Tensor:
        """Windows (B, S) -> (B, T, D).

        One at a time: its decibels are cut off below the loudest of all that come together.
        """
        return torch.cat([self.encoder(sound[None]) for sound in audio])


def load_model(model_file_path: str | Path = "") -> Dasheng:
    """Load a checkpoint.

    Args:
        model_file_path: a file of the Zenodo record: a dictionary of "model" and "config".

    Raises:
        MissingPackageError: dasheng is not installed.
        PeerError: there is no file, or it is another model's.
    """
    if not str(model_file_path):
        raise PeerError(f"dasheng {CARD.needs()}")
    CARD.require_package()
    package: Any = import_toolkit("dasheng.pretrained.pretrained", CARD.install, CARD.name)
    path = Path(model_file_path).expanduser()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, config = content["model"], content["config"]
        width = state["time_pos_embed"].shape[1]
        blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
        sizes = {"embed_dim": width, "depth": len(blocks)}
        if width in HEADS:
            sizes["num_heads"] = HEADS[width]
        encoder = package.Dasheng(**{**config, **sizes})
        encoder.load_state_dict(state)
    except READING_ERRORS as error:
        told = reason(error)[:150]
        raise PeerError(f"{path}: cannot be read as a Dasheng checkpoint ({told})") from error
    return Dasheng(encoder).eval()
