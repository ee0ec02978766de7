"""From a task's clips to vectors: files decoded in parallel, equal lengths embedded together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from myna_plugin.common.files import digest_path
from myna_plugin.common.threads import map_ahead
from myna_plugin.model.audio import AudioError
from myna_plugin.probing.cache import EmbeddingCache
from myna_plugin.probing.modules import ExperimentError, LoadedModule
from myna_plugin.probing.tasks import Item, TaskError
from myna_plugin.probing.tasks.clips import group_by_file, load_clips

BLOCK_CLIPS = 256
"""Clips in a block of the cache: what an interruption may lose."""

WAITING_BATCHES = 4
"""Full batches' worth of clips that may wait for others of their length."""


def digest_audio(
    items: Sequence[Item], workers: int, progress: bool = False
) -> tuple[dict[Path, str], dict[Path, str]]:
    """SHA-256 of every audio file.

    Args:
        items: the clips.
        workers: files to read at a time.
        progress: show a progress bar.

    Returns:
        Digests by file, and what is wrong with the files that cannot be read.
    """

    def digest(path: Path) -> tuple[str, str]:
        try:
            return digest_path(path) if path.is_file() else "", f"{path}: no such file"
        except OSError as error:
            return "", f"{path}: cannot be read ({error})"

    paths = list(group_by_file(items))
    digests = map_ahead(digest, paths, workers)
    found = tqdm(digests, "audio", len(paths), unit="file", disable=not progress)
    results = dict(zip(paths, found, strict=True))
    return (
        {path: value for path, (value, _) in results.items() if value},
        {path: fault for path, (value, fault) in results.items() if not value},
    )


def clip_key(item: Item, digest: str) -> str:
    """Name of a clip in the cache.

    >>> clip_key(Item("a", "a", Path("a.wav"), "x", "test", 30.0, 60.0), "0f")
    '0f 30.0 60.0'
    """
    return f"{digest} {item.start_s} {item.end_s}"


def embed_items(
    items: Sequence[Item],
    module: LoadedModule,
    cache: EmbeddingCache,
    digests: dict[Path, str],
    *,
    workers: int = 4,
    batch_size: int = 8,
    allow_missing: bool = False,
    progress: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Vectors of clips, from the cache where it has them.

    Whatever is embedded before an error or an interruption is kept in the cache.

    Args:
        items: the clips, with readable files.
        module: what embeds them.
        cache: of that module.
        digests: of their files, from `digest_audio`.
        workers: files to decode at a time.
        batch_size: clips of one length to embed together.
        allow_missing: leave out clips that cannot be decoded rather than stop.
        progress: show a progress bar.

    Returns:
        Vectors by clip_id, float32, shape (K, D); and what is wrong with the clips left out.

    Raises:
        AudioError, TaskError: a clip cannot be decoded; the message names the file.
        ExperimentError: the module failed on a clip; the message names the file.
    """
    keys = {item.clip_id: clip_key(item, digests[item.path]) for item in items}
    # Files of the same content are embedded once.
    absent = {keys[i.clip_id]: i for i in items if keys[i.clip_id] not in cache.vectors}
    faults: dict[Path, str] = {}
    with tqdm(
        total=len(set(keys.values())),
        initial=len(set(keys.values())) - len(absent),
        desc="embed",
        unit="clip",
        disable=not progress,
    ) as bar:
        clips = _decode(list(absent.values()), module.sample_rate, workers, allow_missing, faults)
        try:
            for batch in group_by_length(clips, batch_size):
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
    workers: int,
    allow_missing: bool,
    faults: dict[Path, str],
) -> Iterator[tuple[Item, Tensor]]:
    """Clips and their waveforms, each file decoded once, some files ahead of whoever takes them."""

    def load(group: tuple[Path, list[Item]]) -> list[tuple[Item, Tensor]]:
        path, clips = group
        try:
            return list(zip(clips, load_clips(path, clips, sample_rate), strict=True))
        except (AudioError, TaskError) as error:
            if not allow_missing:
                raise
            faults[path] = str(error)
            return []

    for clips in map_ahead(load, group_by_file(items).items(), workers):
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


def digest_experiment(items: Sequence[Item], digests: dict[Path, str]) -> str:
    """Digest of the clips, their audio, targets and splits: the same data gives the same one."""
    lines = sorted(
        f"{item.clip_id} {item.split} {item.target} {clip_key(item, digests[item.path])}"
        for item in items
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
