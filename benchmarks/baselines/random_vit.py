"""HEAR module: the hybrid ViT-S with random weights, what the architecture gives untrained."""

from __future__ import annotations

from myna_plugin.hear import get_scene_embeddings, get_timestamp_embeddings
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def load_model(model_file_path: str = "", *, size: str = "vit-s", seed: int = 0) -> Embedder:
    """A model with seeded random weights; `model_file_path` must be empty.

    Args:
        model_file_path: not used by a model without weights.
        size: a named size of `EncoderConfig.of_size`.
        seed: of the weights.

    Raises:
        ValueError: a file was given, or an unknown size.
    """
    if model_file_path:
        raise ValueError(f"random weights are not read from a file, got {model_file_path!r}")
    config = EncoderConfig.of_size(size)
    return Embedder(initialise(MynaEncoder(config), seed), config.patchings).eval()
