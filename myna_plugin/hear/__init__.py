"""The HEAR API: `load_model`, `get_scene_embeddings`, `get_timestamp_embeddings`.

Source: https://hearbenchmark.com/hear-api.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from myna_plugin.model.checkpoint import embedding_patchings, load_encoder
from myna_plugin.model.embedding import Embedder, as_dense


def load_model(
    model_file_path: str | Path = "",
    *,
    embedding: str = "auto",
    hop_ms: float | None = None,
    timestamp_layer: int | None = None,
    timestamp_reading: str | None = None,
    scene_layers: Sequence[int] | None = None,
    scene_pooling: str | None = None,
    tokens: float = 1,
    chunk_frames: int | None = None,
    batch_size: int | None = None,
    precision: str = "float32",
    compile: bool = False,
) -> Embedder:
    """Load a Myna model, ready to embed.

    Args:
        model_file_path: a .safetensors, .pth or .pt file, or a folder with one; "myna-base",
            "myna-vertical", "myna-hybrid" or "myna-85m"; "owner/name" of the Hugging Face hub, with
            "@revision" or not; or "" for the packaged model, "tiny" for the small one.
        embedding: "square", "vertical", "hybrid" (both, concatenated) or "auto": hybrid where the
            checkpoint has both tokenizers. Of a bare state dict with one it tells which that is.
        hop_ms: milliseconds between timestamp embeddings; None: the checkpoint's, or 50.
        timestamp_layer: the block that these are read off; None: the checkpoint's, or the last.
        timestamp_reading: "tokens" of all of `embedding`, or "vertical-deltas" of vertical patches
            alone, with differences to 25 ms before and after; None: the checkpoint's, or "tokens".
        scene_layers: the blocks, from 1, whose mean tokens a scene embedding joins: square, then
            vertical of each. None: the checkpoint's, or the last.
        scene_pooling: "mean", or "mean-std" to follow the mean tokens of each patching of each
            block with their deviation over all the sound. None for what the checkpoint names.
        tokens: the share of each chunk's tokens that a scene embedding is made of: 1, or for speed
            0.5, 0.25 or 0.125. Timestamp embeddings need every column: they are made of all.
        chunk_frames: frames of 32 ms that the encoder sees at once, a multiple of 16, of 2 for
            vertical patches alone; None for what the checkpoint names, or as published, 96 or 98.
        batch_size: chunks a pass of the encoder; None chooses by device. Never changes a result.
        precision: "float32", "bfloat16" or "float16"; bfloat16 also on CPUs that have it.
        compile: run the encoder through `torch.compile`, for large jobs on CUDA.

    Returns:
        A `torch.nn.Module` in eval mode on the CPU; move it with `.to("cuda")`.

    Raises:
        CheckpointError: the weights cannot be found, read or verified, or cannot give `embedding`.
        LayerError, TypeError, ValueError: no such block, no path, or an option outside its range.
    """
    encoder = load_encoder(model_file_path, embedding=embedding, chunk_frames=chunk_frames)
    return Embedder(
        encoder,
        embedding_patchings(embedding, encoder.config.patchings),
        hop_ms=hop_ms,
        timestamp_layer=timestamp_layer,
        timestamp_reading=timestamp_reading,
        scene_layers=scene_layers,
        scene_pooling=scene_pooling,
        tokens=tokens,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
    ).eval()


def get_scene_embeddings(audio: Tensor | np.ndarray, model: Embedder) -> Tensor:
    """Embed whole sounds.

    Args:
        audio: samples in [-1, 1] at `model.sample_rate`, shape (n_sounds, n_samples); floating
            point, a tensor or a NumPy array.
        model: from `load_model`.

    Returns:
        float32, shape (n_sounds, model.scene_embedding_size). A sound's row does not depend on
        the other sounds in the batch.

    Raises:
        TypeError: audio or model is something else.
        ValueError: audio of another shape, of integers, or with NaN or infinite samples.
    """
    return _checked(model).embed_scenes(as_dense(audio))


def get_timestamp_embeddings(audio: Tensor | np.ndarray, model: Embedder) -> tuple[Tensor, Tensor]:
    """Embed sounds as sequences over time.

    Args:
        audio: samples in [-1, 1] at `model.sample_rate`, shape (n_sounds, n_samples); floating
            point, a tensor or a NumPy array.
        model: from `load_model`; its `hop_ms` sets the spacing.

    Returns:
        Embeddings, float32, shape (n_sounds, n_timestamps, model.timestamp_embedding_size), and
        their centres in milliseconds, float32, shape (n_sounds, n_timestamps).

    Raises:
        TypeError, ValueError: as for `get_scene_embeddings`.
    """
    return _checked(model).embed_timestamps(as_dense(audio))


def _checked(model: object) -> Embedder:
    """The model; a wrapper that passes its methods on will do."""
    if isinstance(model, type) or not hasattr(model, "embed_scenes"):
        raise TypeError(f"model must be what load_model returned, got {type(model).__name__}")
    return cast(Embedder, model)
