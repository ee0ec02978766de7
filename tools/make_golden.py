"""Embeddings of three packaged clips by the packaged models, as tests hold them to be.

    python tools/make_golden.py   # rewrites tests/golden/packaged.npz

To be run, and its file committed, only where vectors are meant to change: with new packaged
weights, or a change of the front-end that is told in CHANGELOG.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

import myna_plugin
from myna_plugin.model.audio import load_audio
from myna_plugin.model.sources import PACKAGED_FILES

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "packaged.npz"
DEMO = ROOT / "myna_plugin" / "hear_eval" / "demo_tasks"
CLIPS = {
    "major key": "myna_demo_key-v1-full/16000/test/test-000.ogg",
    "minor key": "myna_demo_key-v1-full/16000/test/test-031.ogg",
    "onsets": "myna_demo_onset-v1-full/16000/test/test-000.ogg",
}
TIMESTAMPS = (0, 13, -1)
"""Which timestamp embeddings are kept: the first, one at 650 ms, and the last."""

EVERY = 16
"""Of a vector's values one in so many is kept, so that the file stays small."""


def embed() -> dict[str, np.ndarray]:
    """Scene embeddings (D / 16,), and some timestamp embeddings (3, D / 16), of each clip."""
    arrays = {}
    for packaged in PACKAGED_FILES:
        model = myna_plugin.load_model(packaged)
        for clip, path in CLIPS.items():
            audio = load_audio(DEMO / path).unsqueeze(0)
            name = f"{packaged or 'default'}, {clip}"
            arrays[f"{name}, scene"] = myna_plugin.get_scene_embeddings(audio, model)[0].numpy()
            sequence, _ = myna_plugin.get_timestamp_embeddings(audio, model)
            arrays[f"{name}, timestamps"] = sequence[0, list(TIMESTAMPS)].numpy()
    return {name: array[..., ::EVERY] for name, array in arrays.items()}


@click.command(help=__doc__)
def main() -> None:
    """Write the file."""
    GOLDEN.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = embed()
    np.savez_compressed(GOLDEN, **arrays)
    click.echo(f"{GOLDEN}: {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
