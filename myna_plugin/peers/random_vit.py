"""HEAR module: the hybrid ViT-S with random weights, what the architecture gives untrained."""

from __future__ import annotations

from myna_plugin.hear import get_scene_embeddings, get_timestamp_embeddings
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.peers.card import Card, refuse_weights

CARD = Card(
    "random-vit",
    source="this package's hybrid ViT-S, untrained",
    rule="16 kHz; as Myna: the last block's mean tokens, mean over chunks of 3 s",
)

__all__ = ["CARD", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def load_model(model_file_path: str = "", *, size: str = "vit-s", seed: int = 0) -> Embedder:
    """A model with seeded random weights; `model_file_path` must be empty.

    Args:
        model_file_path: not used by a model without weights.
        size: a named size of `EncoderConfig.of_size`.
        seed: of the weights.

    Raises:
        PeerError: a file was given.
        ValueError: an unknown size.
    """
    refuse_weights(CARD.name, model_file_path)
    config = EncoderConfig.of_size(size)
    return Embedder(initialise(MynaEncoder(config), seed), config.patchings).eval()
