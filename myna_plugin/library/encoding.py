"""One device that encodes chunks of several tracks in one batch, and puts tracks together again.

Every pass of the encoder has the same number of chunks, the last ones filled up with silence. A
row of a product of matrices does not depend on the other rows when the shape is the same, so a
track's embedding does not depend, to the bit, on the tracks around it, their order, or where an
interrupted run began anew.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from myna_plugin.library.passes import Passes
from myna_plugin.library.segments import Segment, window_length
from myna_plugin.model.audio import HOP_LENGTH, MARGIN, SAMPLE_RATE
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import PATCHINGS

MARGIN_FRAMES = MARGIN // HOP_LENGTH
"""Frames whose centres lie in the margin before a window's first frame."""

BATCH_SECONDS = {"cpu": 25.0, "mps": 400.0, "cuda": 4_000.0}
"""Audio of a pass, by the kind of device: 8 chunks, 130, 1,302. With half of the tokens or fewer it
is twice as much on a CPU, where memory is what bounds it."""

PARTIAL_BATCH = {"cpu": 1, "mps": 64, "cuda": 64}
"""Partial chunks of one width in a pass: where launching kernels costs, they wait for others."""


class Embedded(NamedTuple):
    """A finished track.

    Attributes:
        track: its number.
        duration_s: its length, seconds.
        embedding: float32, shape (D,), or (T, D) for a sequence.
    """

    track: int
    duration_s: float
    embedding: np.ndarray


class TrackEncoder(Protocol):
    """What turns segments into embeddings; tracks come back when they are ready."""

    def add(self, track: int, segment: Segment, first: bool) -> list[Embedded]:
        """Take a segment; `first` begins the track, perhaps anew."""

    def finish(self, track: int, n_samples: int) -> list[Embedded]:
        """A track has no further segments."""

    def drop(self, track: int) -> None:
        """Forget a track."""

    def flush(self) -> list[Embedded]:
        """Encode all that waits for a fuller batch."""

    def close(self) -> None:
        """Leave nothing running."""


class _Sum:
    """A track that is being put together: the sum of its chunks, each by its frames."""

    def __init__(self, track: int, width: int) -> None:
        self.track = track
        self.total = np.zeros(width)  # float64, added one by one: the batches leave no trace
        self.partial: tuple[np.ndarray, int] | None = None
        self.frames = 0
        self.begun = 0  # full chunks
        self.awaited = 0
        self.n_samples: int | None = None

    def add(self, vector: np.ndarray, frames: int) -> None:
        """Count a chunk in."""
        self.total += frames * vector.astype(np.float64)
        self.frames += frames


class _Pass(NamedTuple):
    """A pass that the device may still be busy with: whose chunks, and their frames."""

    owners: list[_Sum]
    frames: list[int]
    is_partial: bool
    wait: Callable[[], Tensor]


class SceneEncoder:
    """Tracks -> scene embeddings, equal to `Embedder.embed_scenes` up to rounding.

    Args:
        embedder: the model, on its device.
        batch_seconds: audio a pass; None chooses by device.
    """

    def __init__(self, embedder: Embedder, batch_seconds: float | None = None) -> None:
        self._embedder = embedder
        self._device = embedder.mel.window.device
        self._size = embedder.encoder.config.chunk_frames
        kind = self._device.type
        seconds = BATCH_SECONDS[kind] if batch_seconds is None else batch_seconds
        if batch_seconds is None and kind == "cpu" and embedder.tokens <= 0.5:
            seconds *= 2
        self.batch = max(round(seconds * SAMPLE_RATE / (self._size * HOP_LENGTH)), 1)
        self._partial_batch = min(PARTIAL_BATCH[kind], self.batch)
        self._step = min(PATCHINGS[p][1] for p in embedder.patchings)
        is_cuda = self._device.type == "cuda"
        self._copies = torch.cuda.Stream(self._device) if is_cuda else None
        self._passes = Passes() if self._device.type == "cpu" else None
        self._most = 1 if self._passes is None else self._passes.count + 1
        self._running: deque[_Pass] = deque()
        self._open: dict[int, _Sum] = {}
        self._full: deque[tuple[_Sum, Tensor, int]] = deque()  # the last: number of the first
        self._n_full = 0
        self._partial: dict[int, list[tuple[_Sum, Tensor, int, int]]] = defaultdict(list)

    def add(self, track: int, segment: Segment, first: bool) -> list[Embedded]:
        """Take a segment; see `TrackEncoder`."""
        if first:
            self._open[track] = _Sum(track, self._embedder.scene_embedding_size)
        sums = self._open[track]
        samples = self._upload(segment.samples)
        stride, window = self._size * HOP_LENGTH, window_length(self._size)
        if segment.full:
            windows = samples.unfold(0, window, stride)[: segment.full]
            self._full.append((sums, windows, sums.begun))
            self._n_full += segment.full
            sums.begun += segment.full
            sums.awaited += segment.full
        ready = []
        while self._n_full >= self.batch:
            ready += self._encode_full()
        if frames := segment.partial_frames:
            width = -(-frames // self._step) * self._step
            rest = samples[segment.full * stride :]
            rest = functional.pad(rest, (0, window_length(width) - len(rest)))
            self._partial[width].append((sums, rest, frames, sums.begun))
            sums.awaited += 1
            if len(self._partial[width]) >= self._partial_batch:
                ready += self._encode_partial(width)
        return ready

    def finish(self, track: int, n_samples: int) -> list[Embedded]:
        """A track has no further segments; see `TrackEncoder`."""
        self._open[track].n_samples = n_samples
        return self._ready(self._open[track])

    def drop(self, track: int) -> None:
        """Forget a track; what of it waits is still encoded, and then not used."""
        self._open.pop(track, None)

    def flush(self) -> list[Embedded]:
        """Encode all that waits for a fuller batch."""
        ready = []
        while self._n_full:
            ready += self._encode_full()
        for width in list(self._partial):
            while self._partial[width]:
                ready += self._encode_partial(width)
        while self._running:
            ready += self._collect(0)
        return ready

    def close(self) -> None:
        """Leave nothing running; what was being encoded is lost."""
        if self._passes is not None:
            self._passes.close()

    def _upload(self, samples: np.ndarray) -> Tensor:
        """A copy of samples on the device, made while the device computes."""
        if self._copies is None:
            return torch.from_numpy(samples).to(self._device, copy=True)
        with torch.cuda.stream(self._copies):
            copy = torch.from_numpy(samples).to(self._device)
        copy.record_stream(torch.cuda.current_stream(self._device))
        return copy

    def _encode_full(self) -> list[Embedded]:
        """Begin a pass over the full chunks that wait longest; what earlier passes finished."""
        ready = self._collect(self._most - 1)
        owners: list[_Sum] = []
        windows: list[Tensor] = []
        numbers: list[int] = []
        while self._full and len(owners) < self.batch:
            sums, some, number = self._full.popleft()
            room = self.batch - len(owners)
            if len(some) > room:
                self._full.appendleft((sums, some[room:], number + room))
                some = some[:room]
            owners += [sums] * len(some)
            windows.append(some)
            numbers += range(number, number + len(some))
        self._n_full -= len(owners)
        batch = _fill(torch.cat(windows), self.batch)
        wait = self._begin(partial(self._embed, batch, self._size, numbers))
        self._running.append(_Pass(owners, [self._size] * len(owners), False, wait))
        return ready

    def _encode_partial(self, width: int) -> list[Embedded]:
        """The same for partial chunks of one width, in frames of the finest patches."""
        ready = self._collect(self._most - 1)
        waiting = self._partial[width]
        taken, self._partial[width] = waiting[: self._partial_batch], waiting[self._partial_batch :]
        owners, rests, counts, numbers = map(list, zip(*taken, strict=True))
        windows = _fill(torch.stack(rests), self._partial_batch)
        frames = _fill(torch.tensor(counts, device=self._device), self._partial_batch)
        wait = self._begin(partial(self._embed, windows, width, numbers, frames))
        self._running.append(_Pass(owners, counts, True, wait))
        return ready

    def _begin(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Have a pass computed while this goes on, by a GPU or by other cores."""
        if self._passes is not None:
            return self._passes.begin(compute)
        vectors = compute()
        return lambda: vectors

    def _embed(
        self, windows: Tensor, n_frames: int, numbers: list[int], frames: Tensor | None = None
    ) -> Tensor:
        """`Embedder.pool_chunks` of windows (N, S) as long as `n_frames` need, shape (N, D).

        Args:
            windows: samples with margins.
            n_frames: frames of the window.
            numbers: of the chunks in their tracks; windows that fill up the batch have none.
            frames: how many of them are the chunk's, shape (N,); the rest becomes silence.
        """
        with torch.inference_mode():
            # One at a time where that costs nothing: spectra are larger than what comes of them.
            some = windows.split(1 if self._device.type == "cpu" else len(windows))
            first, last = MARGIN_FRAMES, MARGIN_FRAMES + n_frames
            mel = torch.cat([self._embedder.mel.frames(part, first, last) for part in some])
            if frames is not None:
                beyond = torch.arange(n_frames, device=self._device) >= frames[:, None]
                mel = mel.masked_fill(beyond[:, None], 0.0)
            filled = _fill(torch.tensor(numbers, device=self._device), len(windows))
            return self._embedder.pool_chunks(mel, filled)

    def _collect(self, left: int) -> list[Embedded]:
        """Wait for the pass begun first if more than `left` are running; what it finished."""
        if len(self._running) <= left:
            return []
        owners, frames, is_partial, wait = self._running.popleft()
        rows = zip(owners, frames, wait().cpu().numpy(), strict=False)
        for sums, count, vector in rows:
            sums.awaited -= 1
            if is_partial:
                sums.partial = vector, count
            else:
                sums.add(vector, count)
        return [done for sums in dict.fromkeys(owners) for done in self._ready(sums)]

    def _ready(self, sums: _Sum) -> list[Embedded]:
        """The track, if it is complete and still wanted."""
        if sums.awaited or sums.n_samples is None or self._open.get(sums.track) is not sums:
            return []
        del self._open[sums.track]
        if sums.partial is not None:
            sums.add(*sums.partial)
        embedding = self._embedder.embed_pooled(torch.from_numpy(sums.total / sums.frames))
        return [Embedded(sums.track, sums.n_samples / SAMPLE_RATE, embedding.numpy())]


def _fill(rows: Tensor, count: int) -> Tensor:
    """Rows (N, ...) continued with zeros to (count, ...)."""
    if len(rows) == count:
        return rows
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


class SequenceEncoder:
    """Tracks -> timestamp embeddings by `Embedder.embed_timestamps`, each track on its own."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._blocks: dict[int, list[np.ndarray]] = {}

    def add(self, track: int, segment: Segment, first: bool) -> list[Embedded]:
        """Take a block; see `TrackEncoder`."""
        if first:
            self._blocks[track] = []
        self._blocks[track].append(segment.samples.copy())
        return []

    def finish(self, track: int, n_samples: int) -> list[Embedded]:
        """Embed the track."""
        waveform = torch.from_numpy(np.concatenate(self._blocks.pop(track)))[None]
        try:
            vectors, _ = self._embedder.embed_timestamps(waveform)
        except ValueError:  # the only fault decoded audio can have: samples far beyond [-1, 1]
            return [Embedded(track, n_samples / SAMPLE_RATE, np.full((1, 1), np.nan, np.float32))]
        return [Embedded(track, n_samples / SAMPLE_RATE, vectors[0].cpu().numpy())]

    def drop(self, track: int) -> None:
        """Forget a track."""
        self._blocks.pop(track, None)

    def flush(self) -> list[Embedded]:
        """Nothing waits."""
        return []

    def close(self) -> None:
        """Nothing is running."""
