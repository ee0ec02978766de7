"""torch.hub: `torch.hub.load(REPOSITORY, "myna_hybrid")`, or a checkout with source="local".

Each entry gives a module in eval mode: waveforms (B, S) at 16 kHz -> scene embeddings (B, D), and
what else `myna_plugin.load_model` returns. Options are those of `load_model`. Names with an
underscore are not entries.
"""

from functools import partial as _partial
from typing import Any as _Any

from myna_plugin import load_model as _load_model
from myna_plugin.model.embedding import Embedder as _Embedder

dependencies = ["torch", "nnAudio", "numpy", "safetensors", "huggingface_hub", "soundfile", "soxr"]


def myna(checkpoint: str = "", **options: _Any) -> _Embedder:
    """Any model: a file, a published name, hf://owner/name, or "" for the packaged default."""
    return _load_model(checkpoint, **options)


myna_base = _partial(myna, "myna-base")
myna_vertical = _partial(myna, "myna-vertical")
myna_hybrid = _partial(myna, "myna-hybrid")
myna_85m = _partial(myna, "myna-85m")
