"""Short audio files, a tiny model, and how a library is told from another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from conftest import published_state_dict

from myna_plugin.api import Myna
from myna_plugin.library.table import Library

FACTS = {
    "model": "tiny",
    "weights": "abc",
    "patchings": ["square"],
    "width": 3,
    "precision": "float32",
    "timestamps": False,
    "hop_ms": None,
    "timestamp_layer": None,
    "scene_layers": [2],
    "scene_pooling": "mean",
    "tokens": 1.0,
    "seconds": None,
    "version": "0",
}
"""What a library of embeddings of three numbers says it was made with."""

SEQUENCES = FACTS | {
    **{"timestamps": True, "hop_ms": 50.0, "timestamp_layer": 2},
    **{"scene_layers": None, "scene_pooling": None, "tokens": None},
}


def write_noise(path: Path, n_samples: int, seed: int = 0, rate: int = 16_000) -> Path:
    """Uniform noise, mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, n_samples)
    soundfile.write(path, noise, rate)
    return path


def write_model(folder: Path) -> Path:
    """A hybrid checkpoint, 64 wide and 2 deep."""
    path = folder / "myna-hybrid.pth"
    torch.save(published_state_dict(2), path)
    return path


def load_tiny(folder: Path, **options: object) -> Myna:
    """The model of `write_model`, on the CPU."""
    return Myna.from_pretrained(write_model(folder), device="cpu", **options)  # type: ignore[arg-type]


def same(one: Library, other: Library) -> bool:
    """Equal to the bit."""
    return (
        one.paths == other.paths
        and np.array_equal(one.duration_s, other.duration_s)
        and np.array_equal(one.embeddings, other.embeddings)
        and one.facts == other.facts
    )
