"""torch.hub: `torch.hub.load(REPOSITORY, "myna_hybrid")`, or a checkout with source="local".

Each entry gives a module in eval mode: waveforms (B, S) at 16 kHz -> scene embeddings (B, D), and
what else `myna_plugin.load_model` returns. Options are those of `load_model`. Names with an
underscore are not entries.
"""

from typing import Any as _Any

from myna_plugin import load_model as _load_model
from myna_plugin.model.embedding import Embedder as _Embedder

dependencies = [
    *("torch", "nnAudio", "numpy", "av", "soundfile", "soxr"),
    *("click", "importlib_metadata", "safetensors", "huggingface_hub", "tqdm"),
]


def myna(checkpoint: str = "", pretrained: bool = True, **options: _Any) -> _Embedder:
    """Any model: a file or folder, a published name, hf://owner/name, "tiny", or "": the packaged.

    Args:
        checkpoint: as `model_file_path` of `myna_plugin.load_model`.
        pretrained: True; a model without its weights is not to be had here.
        options: of `myna_plugin.load_model`: embedding, hop_ms, scene_layers, precision …

    Returns:
        A torch module in eval mode: samples in [-1, 1] at 16 kHz (B, S) -> (B, D).

    Raises:
        ValueError: `pretrained=False`, or an option outside its range.
        CheckpointError: the weights cannot be found or used.
    """
    if not pretrained:
        raise ValueError(
            "pretrained must be True; for random weights, myna_plugin.model.encoder.MynaEncoder()"
        )
    return _load_model(checkpoint, **options)


def myna_base(pretrained: bool = True, **options: _Any) -> _Embedder:
    """The published Myna-Base: square patches, (B, S) at 16 kHz -> (B, 384). See `myna`."""
    return myna("myna-base", pretrained, **options)


def myna_vertical(pretrained: bool = True, **options: _Any) -> _Embedder:
    """The published Myna-Vertical, best at keys: (B, S) at 16 kHz -> (B, 384). See `myna`."""
    return myna("myna-vertical", pretrained, **options)


def myna_hybrid(pretrained: bool = True, **options: _Any) -> _Embedder:
    """The published Myna-Hybrid, both patchings: (B, S) at 16 kHz -> (B, 768). See `myna`."""
    return myna("myna-hybrid", pretrained, **options)


def myna_85m(pretrained: bool = True, **options: _Any) -> _Embedder:
    """The published hybrid of 85 million weights: (B, S) at 16 kHz -> (B, 1536). See `myna`."""
    return myna("myna-85m", pretrained, **options)
