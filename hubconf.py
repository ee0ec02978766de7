"""torch.hub: `torch.hub.load(REPOSITORY, "myna_hybrid")`, or a checkout with source="local".

Each entry gives a module in eval mode: waveforms (B, S) at 16 kHz -> scene embeddings (B, D), and
whatever else `myna_plugin.load_model` returns. Options are those of `load_model`.
"""

from functools import partial
from typing import Any

from myna_plugin import load_model
from myna_plugin.embedding import Embedder

dependencies = ["torch", "nnAudio", "numpy", "safetensors", "huggingface_hub", "soundfile", "soxr"]


def myna(checkpoint: str = "", **options: Any) -> Embedder:
    """Any model: a file, a published name, hf://owner/name, or "" for the packaged default."""
    return load_model(checkpoint, **options)


myna_base = partial(myna, "myna-base")
myna_vertical = partial(myna, "myna-vertical")
myna_hybrid = partial(myna, "myna-hybrid")
myna_85m = partial(myna, "myna-85m")
