"""From clips to vectors, kept on disk: files decoded in parallel, equal lengths together."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import uuid
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from myna_plugin.common.errors import say
from myna_plugin.common.files import write_json, write_whole
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.threads import map_ahead
from myna_plugin.model.audio import AudioError
from myna_plugin.probing.modules import ExperimentError, LoadedModule
from myna_plugin.probing.tasks import Item, TaskError
from myna_plugin.probing.tasks.clips import group_by_file, load_clips
from myna_plugin.probing.tasks.task_data import TaskData, clip_key

BLOCK_CLIPS = 256
"""Clips in a block of the cache: what an interruption may lose."""

BATCH_SIZES = {"cpu": 8, "mps": 8, "cuda": 32}
"""Clips of one length to embed together, by kind of device."""

WAITING_BATCHES = 4
"""Full batches' worth of clips that may wait for others of their length."""


@dataclass(frozen=True)
class Cost:
    """What embedding took: median seconds of computing per hour of audio, and where.

    The median over batches leaves out the first ones, which also set up the device.
    """

    seconds_per_hour: float
    device: str


@dataclass(frozen=True)
class Handling:
    """How clips are handled on their way to vectors, which do not depend on it.

    Attributes:
        batch_size: clips of one length to embed together.
        workers: files to read or decode at a time.
        allow_missing: leave out clips that cannot be used rather than stop.
        progress: show progress bars.
    """

    batch_size: int = 8
    workers: int = 4
    allow_missing: bool = False
    progress: bool = False


def folder_name(identity: Mapping[str, Any]) -> str:
    """Folder of the embeddings that have this identity.

    >>> folder_name({"module": "my.hear"}) == folder_name({"module": "my.hear", "pool": "clip"})
    False
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
    module = re.sub(r"[^\w.-]", "_", str(identity["module"]))
    return f"{module}-{digest.hexdigest()[:16]}"


class EmbeddingCache:
    """Vectors by clip, where a clip is named by its audio file's digest and its place there.

    A block is a file of its own, so an interrupted run keeps what it wrote, and several runs may
    write at a time. Without a folder all is kept in memory, for as long as the cache is.

    Attributes:
        vectors: by clip, float32, shape (K, D).
        damaged: block files that could not be read; they were removed.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        """Open a cache and read all that it holds.

        Args:
            folder: of these embeddings alone; made if absent. None for none.
            identity: what they depend on, kept beside them for the reader.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self.vectors: dict[str, np.ndarray] = {}
        self.damaged: list[Path] = []
        self._folder = folder
        self._pending: dict[str, np.ndarray] = {}
        self._batches: list[tuple[float, float]] = []
        self._costs: dict[str, list[tuple[float, float]]] = {}
        if folder is None:
            return
        write_json(folder / "about.json", dict(identity))
        for path in sorted(folder.glob("*.npz")):
            try:
                self._read(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink()
                self.damaged.append(path)

    def _read(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as block:
            clips, counts, vectors = block["clips"], block["counts"], block["vectors"]
            batches, device = block["batches"], str(block["device"])
        rows = np.split(vectors, np.cumsum(counts)[:-1])
        self.vectors.update(zip(clips.tolist(), rows, strict=True))
        self._costs.setdefault(device, []).extend(map(tuple, batches))

    def add(
        self, vectors: Mapping[str, np.ndarray], seconds: float, audio_s: float, device: str
    ) -> None:
        """Take in a batch; `flush` writes it.

        Args:
            vectors: by clip, float32, shape (K, D).
            seconds: that embedding it took.
            audio_s: seconds of audio in it.
            device: where it was computed.
        """
        self.vectors.update(vectors)
        self._pending.update(vectors)
        self._batches.append((seconds, audio_s))
        self._device = device
        self._costs.setdefault(device, []).append((seconds, audio_s))

    @property
    def n_pending(self) -> int:
        """Clips that `flush` would write."""
        return len(self._pending)

    def flush(self) -> None:
        """Write what was added since, as one block, where there is a folder.

        Raises:
            OSError: it cannot be written.
        """
        if not self._pending or self._folder is None:
            return
        rows = list(self._pending.values())
        file = io.BytesIO()
        np.savez(
            file,
            clips=np.array(list(self._pending)),
            counts=np.array([len(row) for row in rows]),
            vectors=np.concatenate(rows),
            batches=np.array(self._batches),
            device=np.array(self._device),
        )
        write_whole(self._folder / f"{uuid.uuid4().hex}.npz", file.getbuffer())
        self._pending, self._batches = {}, []

    def cost(self) -> Cost | None:
        """What embedding took on the device that embedded most; None for an empty cache."""
        if not self._costs:
            return None
        device = max(self._costs, key=lambda name: sum(audio for _, audio in self._costs[name]))
        rates = [3600.0 * seconds / audio for seconds, audio in self._costs[device]]
        return Cost(float(np.median(rates)), device)


def cache_folder() -> Path:
    """Where embeddings are kept: $MYNA_PLUGIN_CACHE, else ~/.cache/myna_plugin/embeddings."""
    chosen = os.environ.get("MYNA_PLUGIN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "myna_plugin" / "embeddings"


def open_cache(folder: Path, module: LoadedModule) -> EmbeddingCache:
    """The cache of a module's embeddings; damaged blocks are reported and embedded anew.

    Raises:
        OSError: the folder cannot be made or read.
    """
    identity = module.identity()
    cache = EmbeddingCache(folder / folder_name(identity), identity)
    for path in cache.damaged:
        say(f"{path}: damaged; its clips are embedded again")
    return cache


def embed_clips(
    data: TaskData,
    module: LoadedModule,
    cache: EmbeddingCache,
    handling: Handling,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Vectors of clips, from the cache where it has them.

    Whatever is embedded before an error or an interruption is kept in the cache.

    Args:
        data: the clips.
        module: what embeds them.
        cache: of that module.
        handling: how.

    Returns:
        Vectors by clip_id, float32, shape (K, D); and what is wrong with the clips left out.

    Raises:
        AudioError, TaskError: a clip cannot be decoded; the message names the file.
        ExperimentError: the module failed on a clip; the message names the file.
    """
    items = data.items
    keys = {item.clip_id: clip_key(item, data.digests[item.path]) for item in items}
    # Files of the same content are embedded once.
    absent = {keys[i.clip_id]: i for i in items if keys[i.clip_id] not in cache.vectors}
    faults: dict[Path, str] = {}
    with ProgressBar(
        total=len(set(keys.values())),
        initial=len(set(keys.values())) - len(absent),
        desc="embed",
        unit="clip",
        disable=not handling.progress,
    ) as bar:
        clips = _decode(list(absent.values()), module.sample_rate, handling, faults)
        try:
            for batch in group_by_length(clips, handling.batch_size):
                _embed_batch(batch, module, cache, keys)
                bar.update(len(batch))
                if cache.n_pending >= BLOCK_CLIPS:
                    cache.flush()
        finally:
            cache.flush()
    left_out = {item.clip_id: faults[item.path] for item in items if item.path in faults}
    return {
        clip_id: cache.vectors[key] for clip_id, key in keys.items() if clip_id not in left_out
    }, left_out


def _embed_batch(
    batch: Sequence[tuple[Item, Tensor]],
    module: LoadedModule,
    cache: EmbeddingCache,
    keys: dict[str, str],
) -> None:
    first = batch[0][0]
    try:
        rows, seconds = module.embed(torch.stack([waveform for _, waveform in batch]))
    except ExperimentError as error:
        raise ExperimentError(f"{first.path}: clip {first.clip_id!r}: {error}") from error
    for (item, _), row in zip(batch, rows, strict=True):
        if not np.isfinite(row).all():
            raise ExperimentError(
                f"{item.path}: clip {item.clip_id!r}: {module.name} returned NaN or infinity"
            )
    vectors = {keys[item.clip_id]: row for (item, _), row in zip(batch, rows, strict=True)}
    audio_s = sum(len(waveform) for _, waveform in batch) / module.sample_rate
    cache.add(vectors, seconds, audio_s, module.device)


def _decode(
    items: Sequence[Item],
    sample_rate: int,
    handling: Handling,
    faults: dict[Path, str],
) -> Iterator[tuple[Item, Tensor]]:
    """Clips and their waveforms, each file decoded once, some files ahead of whoever takes them."""

    def load(group: tuple[Path, list[Item]]) -> list[tuple[Item, Tensor]]:
        path, clips = group
        try:
            return list(zip(clips, load_clips(path, clips, sample_rate), strict=True))
        except (AudioError, TaskError) as error:
            if not handling.allow_missing:
                raise
            faults[path] = str(error)
            return []

    for clips in map_ahead(load, group_by_file(items).items(), handling.workers):
        yield from clips


def group_by_length(
    clips: Iterable[tuple[Item, Tensor]], batch_size: int
) -> Iterator[list[tuple[Item, Tensor]]]:
    """Batches of clips that have exactly one length: HEAR has no padding.

    Args:
        clips: with their waveforms, shape (S,).
        batch_size: largest batch.

    Yields:
        Batches; where lengths vary, the commonest one waiting goes first, full or not.
    """
    waiting: dict[int, list[tuple[Item, Tensor]]] = defaultdict(list)
    n_waiting = 0
    for item, waveform in clips:
        waiting[len(waveform)].append((item, waveform))
        n_waiting += 1
        longest = max(waiting, key=lambda length: len(waiting[length]))
        if len(waiting[longest]) == batch_size or n_waiting >= WAITING_BATCHES * batch_size:
            n_waiting -= len(waiting[longest])
            yield waiting.pop(longest)
    yield from waiting.values()
