"""A small store on disk, written without any audio."""

from pathlib import Path

import numpy as np

from myna_plugin.pretraining.store.reading import CLIP, FILE, Index, Store, StoreSettings
from myna_plugin.pretraining.store.texts import Texts
from myna_plugin.pretraining.store.writing import publish, write_settings, write_shard_file


def write_store(
    folder: Path, n_clips: int = 24, frames: int = 130, seed: int = 0, clips_per_block: int = 8
) -> Store:
    """Clips in two shards, each with a pattern of bands of its own under noise."""
    (folder / "shards").mkdir(parents=True)
    generator = np.random.default_rng(seed)
    indexes = []
    for shard, numbers in enumerate(np.array_split(np.arange(n_clips), 2)):
        clips = []
        for number in numbers:
            bands = generator.gamma(0.5, 4, 128)
            clips.append((bands * generator.gamma(2, 1, (frames + number, 128))).astype(np.float16))
        indexes.append(
            Index(
                np.array([(i, 0, len(clip)) for i, clip in enumerate(clips)], CLIP),
                write_shard_file(folder, shard, clips),
                np.array([(1, 2, 1, 0, 0)] * len(clips), FILE),
                Texts.of(f"/music/{number}.wav".encode() for number in numbers),
                Texts.of([b""] * len(clips)),
            )
        )
    write_settings(
        folder,
        StoreSettings(frames + n_clips, 96, 4096, clips_per_block=clips_per_block),
    )
    publish(folder, Index.concatenate(indexes))
    return Store.open(folder)
