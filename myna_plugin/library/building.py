"""From a list of files to a library: decode and encode what is missing, write it, merge it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from myna_plugin._version import __version__
from myna_plugin.common.files import check_disk
from myna_plugin.common.memory import giving_back
from myna_plugin.library.decoding_pool import Decoded, DecodingPool, Failed, Finished
from myna_plugin.library.encoding import Embedded, SceneEncoder, SequenceEncoder, TrackEncoder
from myna_plugin.library.parts import Parts, Row, Unit, encode_part, plan_units
from myna_plugin.library.progress import Progress
from myna_plugin.library.table import Facts, check_name
from myna_plugin.library.tracks import LibraryError, Track
from myna_plugin.library.update import plan_update
from myna_plugin.model.audio import HOP_LENGTH, SAMPLE_RATE
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.identity import digest_weights

FLUSH_S = 30.0
"""Chunks wait no longer than this for a fuller batch, so that little is lost by kill -9."""

FLUSH_TRACKS = 512
"""Nor do more tracks than this."""

NOT_FINITE = "its samples are far outside [-1, 1]: the embedding is not finite"


@dataclass(frozen=True)
class Outcome:
    """What a run has done.

    Attributes:
        n_rows: rows of the library; None while other shards are missing.
        failed: path and reason of the tracks that are not in it.
        warned: path and warning of those that were embedded, with something odd about them.
        n_tracks: tracks of this run's share.
    """

    n_rows: int | None
    failed: list[tuple[str, str]]
    warned: list[tuple[str, str]]
    n_tracks: int


def describe(
    embedder: Embedder,
    model: str,
    *,
    precision: str,
    timestamps: bool,
    seconds: float | None = None,
) -> Facts:
    """What the rows of a library depend on, beside the audio."""
    width = embedder.timestamp_embedding_size if timestamps else embedder.scene_embedding_size
    return {
        "model": model,
        "weights": digest_weights(embedder.encoder.state_dict()),
        "patchings": list(embedder.patchings),
        "width": width,
        "precision": precision,
        "timestamps": timestamps,
        "hop_ms": embedder.hop_ms if timestamps else None,
        "timestamp_layer": embedder.timestamp_layer if timestamps else None,
        "scene_layers": None if timestamps else list(embedder.scene_layers),
        "scene_pooling": None if timestamps else embedder.scene_pooling,
        "tokens": None if timestamps else embedder.tokens,
        "seconds": seconds,
        "version": __version__,
    }


def embed_tracks(
    tracks: Iterable[tuple[int, Track]],
    embedder: Embedder,
    *,
    timestamps: bool = False,
    workers: int = 1,
    batch_seconds: float | None = None,
    seconds: float | None = None,
    heard: Callable[[float], None] = lambda seconds: None,
) -> Generator[tuple[int, Row], None, None]:
    """Decode tracks in worker processes and encode them here, chunks of several in a batch.

    Memory grows with the tracks' lengths for timestamps alone, and never with their number.

    Args:
        tracks: numbered.
        embedder: the model, on its device.
        timestamps: sequences instead of one vector a track.
        workers: decoding processes, >= 1.
        batch_seconds: audio a pass of the encoder; None chooses by device.
        seconds: only as much from the middle of each track; None for all.
        heard: told how many seconds of audio have been decoded since it was told last.

    Yields:
        Number and row of every track, in no certain order.
    """
    size = embedder.encoder.config.chunk_frames
    encoder = _encoder(embedder, timestamps, batch_seconds)
    open_tracks: dict[int, Track] = {}
    ends: dict[int, Finished] = {}

    def opened() -> Iterator[tuple[int, Track]]:
        for number, track in tracks:
            open_tracks[number] = track
            yield number, track

    def rows(embedded: Iterable[Embedded]) -> Iterator[tuple[int, Row]]:
        for number, duration_s, vectors in embedded:
            track, end = open_tracks.pop(number), ends.pop(number)
            whole = Row(track, duration_s, vectors, end.details, warning=end.warning or None)
            yield number, whole if np.isfinite(vectors).all() else Row(track, fault=NOT_FINITE)

    flushed, decoded = time.monotonic(), 0
    with closing(encoder), DecodingPool(workers, size, whole=timestamps, seconds=seconds) as pool:
        for event in giving_back(pool.decode(opened())):
            if isinstance(event, Decoded):
                heard(_seconds(event, size))
                yield from rows(encoder.add(event.track, event.segment, event.first))
            elif isinstance(event, Failed):
                encoder.drop(event.track)
                yield event.track, Row(open_tracks.pop(event.track), fault=event.reason)
            else:
                decoded += 1
                ends[event.track] = event
                yield from rows(encoder.finish(event.track, event.n_samples))
            if decoded >= FLUSH_TRACKS or time.monotonic() - flushed > FLUSH_S:
                yield from rows(encoder.flush())
                flushed, decoded = time.monotonic(), 0
        yield from rows(encoder.flush())


def _encoder(embedder: Embedder, timestamps: bool, batch_seconds: float | None) -> TrackEncoder:
    return SequenceEncoder(embedder) if timestamps else SceneEncoder(embedder, batch_seconds)


def _seconds(event: Decoded, size: int) -> float:
    """Audio that came with an event, without its margins."""
    segment = event.segment
    if segment.full or segment.partial_frames:
        return (segment.full * size + segment.partial_frames) * HOP_LENGTH / SAMPLE_RATE
    return len(segment.samples) / SAMPLE_RATE


def embed_units(
    units: Sequence[Unit],
    embed: Callable[[Iterable[tuple[int, Track]]], Generator[tuple[int, Row], None, None]],
) -> Iterator[tuple[Unit, list[Row]]]:
    """Units whose tracks are all done, with their rows in order."""
    unit_of = {unit.start + i: unit for unit in units for i in range(len(unit.tracks))}
    rows: dict[str, dict[int, Row]] = {unit.key: {} for unit in units}
    tracks = ((unit.start + i, track) for unit in units for i, track in enumerate(unit.tracks))
    with closing(embed(tracks)) as results:
        for number, row in results:
            unit = unit_of.pop(number)
            rows[unit.key][number] = row
            if len(rows[unit.key]) == len(unit.tracks):
                done = rows.pop(unit.key)
                yield unit, [done[number] for number in sorted(done)]


RunUnits = Callable[[Sequence[Unit], Progress], Iterator[tuple[Unit, bytes]]]
"""Makes the parts of units, telling how far it is."""


def build_library(
    tracks: Sequence[Track],
    out: Path,
    embedder: Embedder,
    facts: Facts,
    *,
    workers: int = 1,
    batch_seconds: float | None = None,
    shard: tuple[int, int] | None = None,
    anew: bool = False,
    run_units: RunUnits | None = None,
    say: Callable[[str], None] | None = print,
) -> Outcome:
    """Make a library, go on with one that was interrupted, or bring one up to date.

    Args:
        tracks: all of the library's.
        out: the file to write, ending in .parquet.
        embedder: the model, on its device.
        facts: from `describe`.
        workers: decoding processes.
        batch_seconds: audio a pass; None chooses by device.
        shard: (i, n) to do the i-th of n shares only, counted from 1, and leave merging to
            `Parts.merge`.
        anew: embed all tracks, whatever the library that is there holds of them.
        run_units: makes the parts elsewhere, instead of in this process.
        say: takes lines for the user; None for a quiet run.

    Returns:
        What was done.

    Raises:
        LibraryError: what is there is no library, or one made otherwise; it cannot be written, or
            is being made by another process.
    """
    parts = Parts(out)
    check_output(out, parts)
    update, is_there = None, out.exists() and not anew
    if is_there and shard is not None:
        brings = "without --shard the command brings it up to date, with --new shards make it anew"
        raise LibraryError(f"{out}: is finished; {brings}")
    if is_there:
        update = plan_update(out, tracks, facts, parts.failed_before(), say)
    units = plan_units(tracks if update is None else update.to_embed, facts)
    mine = units if shard is None else units[shard[0] - 1 :: shard[1]]
    if run_units is None:
        run_units = _run_here(embedder, facts, workers, batch_seconds)
    with parts.locked("all" if shard is None else f"shard-{shard[0]}-of-{shard[1]}"):
        if update is not None:
            update.check_unchanged()
        parts.begin(facts, units, shared=shard is not None)
        n_mine = _make_parts(parts, mine, run_units, say)
        if shard is not None:
            return Outcome(None, *parts.texts(mine), n_mine)
        if update is None:
            return Outcome(*parts.merge(), n_mine)
        if update.is_idle:
            parts.remove()
            return Outcome(len(tracks), [], [], n_mine)
        return Outcome(*parts.merge(update.arrange), n_mine)


def _make_parts(
    parts: Parts, units: Sequence[Unit], run_units: RunUnits, say: Callable[[str], None] | None
) -> int:
    """Make those parts that are not there; the number of tracks in all of them."""
    todo = [unit for unit in units if not parts.has(unit)]
    n_tracks, n_todo = (sum(len(unit.tracks) for unit in some) for some in (units, todo))
    done = n_tracks - n_todo
    if done and say is not None:
        say(f"{parts.library}: going on, {done:,} of {n_tracks:,} tracks are done")
    if todo:
        with Progress(n_tracks, done, quiet=say is None) as progress:
            for unit, content in run_units(todo, progress):
                parts.write(unit, content)
    return n_tracks


def _run_here(
    embedder: Embedder, facts: Facts, workers: int, batch_seconds: float | None
) -> RunUnits:
    """Decode in worker processes, and encode in this one."""

    def run(todo: Sequence[Unit], progress: Progress) -> Iterator[tuple[Unit, bytes]]:
        n_tracks = sum(len(unit.tracks) for unit in todo)

        def embed(numbered: Iterable[tuple[int, Track]]) -> Generator[tuple[int, Row], None, None]:
            for result in embed_tracks(
                numbered,
                embedder,
                timestamps=facts["timestamps"],
                workers=max(min(workers, n_tracks), 1),
                batch_seconds=batch_seconds,
                seconds=facts["seconds"],
                heard=progress.heard,
            ):
                progress.done()
                yield result

        for unit, rows in embed_units(todo, embed):
            yield unit, encode_part(rows, facts)

    return run


def check_output(out: Path, parts: Parts) -> None:
    """LibraryError unless a library can be begun, or gone on with, at `out`."""
    check_name(out)
    parts.check()
    check_disk(out.absolute().parent, 0, LibraryError)
