"""A track's audio, as it is decoded, cut into segments that are encoded on their own.

A segment holds some consecutive chunks of a track together with the samples that their spectrogram
frames reach to either side, the track's ends being reflected. So the spectrogram of a segment is
that of the whole track there, and chunks of several tracks can share a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from myna_plugin.model.audio import HOP_LENGTH, MARGIN, frame_count

SEGMENT_CHUNKS = 16
"""Full chunks of a segment at most: 49 s, 3 MB."""


class Segment(NamedTuple):
    """Consecutive chunks of one track.

    Attributes:
        samples: at 16 kHz, float32, shape (S,): chunk k begins at sample k * chunk_frames * 512.
        full: number of full chunks.
        partial_frames: frames of the partial chunk after them; 0 for none.
    """

    samples: np.ndarray
    full: int
    partial_frames: int


def window_length(frames: int) -> int:
    """Samples that `frames` consecutive spectrogram frames are computed from.

    >>> window_length(1), window_length(96)
    (2048, 50688)
    """
    return (frames - 1) * HOP_LENGTH + 2 * MARGIN


def largest_segment(chunk_frames: int) -> int:
    """Samples of the longest segment."""
    return window_length((SEGMENT_CHUNKS + 1) * chunk_frames)


def cut_segments(blocks: Iterable[np.ndarray], chunk_frames: int) -> Iterator[Segment]:
    """Cut a track as it comes.

    Args:
        blocks: float32 samples at 16 kHz, together at least one.
        chunk_frames: frames of a full chunk.

    Yields:
        Segments whose chunks, in order, are those of the rule in `myna_plugin.model.embedding`:
        full chunks, then a partial one for what is left.

    >>> [(s.full, s.partial_frames) for s in cut_segments([np.zeros(1_000_000, np.float32)], 96)]
    [(16, 0), (4, 34)]
    """
    stride = chunk_frames * HOP_LENGTH
    enough = SEGMENT_CHUNKS * stride + 2 * MARGIN
    held: list[np.ndarray] = []  # not cut yet, beginning MARGIN samples before the next chunk
    n_held = n_samples = done = 0
    for block in blocks:
        held.append(block)
        n_held += len(block)
        n_samples += len(block)
        if n_held < enough:
            continue
        joined = np.concatenate(held)
        if done == 0:
            joined = np.concatenate([joined[MARGIN:0:-1], joined])
        while len(joined) >= enough:
            length = window_length(SEGMENT_CHUNKS * chunk_frames)
            yield Segment(joined[:length], SEGMENT_CHUNKS, 0)
            joined = joined[SEGMENT_CHUNKS * stride :]
            done += SEGMENT_CHUNKS
        held, n_held = [joined], len(joined)
    rest = np.concatenate(held)
    # What is held after a cut is longer than a margin, so a single reflection is enough there.
    rest = np.pad(rest, (0 if done else MARGIN, MARGIN), mode="reflect")
    full, partial = divmod(frame_count(n_samples) - done * chunk_frames, chunk_frames)
    while full > SEGMENT_CHUNKS:
        yield Segment(rest[: window_length(SEGMENT_CHUNKS * chunk_frames)], SEGMENT_CHUNKS, 0)
        rest, full = rest[SEGMENT_CHUNKS * stride :], full - SEGMENT_CHUNKS
    yield Segment(rest[: window_length(full * chunk_frames + partial)], full, partial)


def keep_blocks(blocks: Iterable[np.ndarray], chunk_frames: int) -> Iterator[Segment]:
    """The samples alone, for models that need the whole track at once."""
    limit = largest_segment(chunk_frames)
    for block in blocks:
        for start in range(0, len(block), limit):
            yield Segment(block[start : start + limit], 0, 0)
