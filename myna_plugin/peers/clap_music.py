"""HEAR module: LAION's CLAP for music through transformers; scene embeddings alone.

myna probe --module clap-music --model-options '{"download": true}' ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from myna_plugin.common.errors import one_line
from myna_plugin.common.files import read_json_object
from myna_plugin.peers.card import Card, PeerError
from myna_plugin.peers.frames import FrameEncoder, get_scene_embeddings
from myna_plugin.peers.weights import CONFIG, find_folder, require_all

__all__ = ["CARD", "get_scene_embeddings", "load_model"]

CARD = Card(
    "clap-music",
    source="Wu et al. 2023 (arXiv 2211.06687); pooling as its model card's, windows by length",
    rule="48 kHz; the projection of each window of 10 s (a shorter one repeated), mean by length",
    code_licence="Apache-2.0",
    package="transformers",
    install="'myna-plugin[transformers]'",
    repository="laion/larger_clap_music",
    weights_licence="Apache-2.0",
)


class Clap(FrameEncoder):
    """CLAP's audio tower as a model of the HEAR API: one vector a window."""

    def __init__(self, tower: Any, extractor: Any) -> None:
        """Take over the audio tower and the mel spectrogram of a checkpoint."""
        rate = extractor.sampling_rate
        super().__init__(rate, tower.config.projection_dim, extractor.nb_max_samples, 1)
        self.tower = tower
        self.extractor = extractor

    def encode(self, audio: Tensor) -> Tensor:
        """Windows (B, S) -> (B, 1, D)."""
        mel = self.extractor(
            list(audio.cpu().numpy()), sampling_rate=self.sample_rate, return_tensors="pt"
        )["input_features"]
        vectors = self.tower(input_features=mel.to(audio.device)).audio_embeds
        return torch.nn.functional.normalize(vectors, dim=-1)[:, None]


def load_model(model_file_path: str | Path = "", *, download: bool = False) -> Clap:
    """Load the audio tower.

    Args:
        model_file_path: a folder as the repository is; "" for the repository itself.
        download: whether to fetch the repository where it is not cached.

    Raises:
        MissingPackageError: transformers is not installed.
        PeerError: there are no weights, or of another kind.
    """
    CARD.require_package()
    folder = find_folder(CARD, model_file_path, download)
    if read_json_object(folder / CONFIG).get("audio_config", {}).get("enable_fusion"):
        raise PeerError(f"{folder}: a fused CLAP, which draws at random; take one that is not")
    from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

    try:
        extractor = ClapFeatureExtractor.from_pretrained(folder)
        clap: Any = ClapAudioModelWithProjection
        tower, told = clap.from_pretrained(folder, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise PeerError(f"{folder}: cannot be loaded ({one_line(error, 150)})") from error
    require_all(folder, told["missing_keys"])
    return Clap(tower, extractor).eval()
