"""Waveforms of any length -> scene and timestamp embeddings, in bounded memory.

The rule for lengths, in frames of 32 ms (F = 1 + samples // 512):

* A sound is cut into consecutive full chunks (96 frames; 98 for the published vertical-only model)
  and one partial chunk for what is left, down to a single frame.
* A partial chunk is encoded over the patch columns it has: its frames, continued with silence to
  the next whole patch (16 frames for square patches, 2 for vertical ones), never to a full chunk.
* A scene embedding is the mean over chunks weighted by their frames, so the partial chunk counts by
  its share. With the pooling "mean-std" so are the mean squares of the tokens, and a deviation is
  that of all the sound's tokens.
* With a share of the tokens each chunk encodes some of its tokens, others than its neighbours do;
  for timestamp embeddings, which need every column, always all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from myna_plugin.common.numbers import check_number
from myna_plugin.model.audio import HOP_LENGTH, SAMPLE_RATE, frame_count
from myna_plugin.model.chunks import (
    SHORTEST_HOP_MS,
    Encoded,
    check_share,
    choose_tokens,
    chunk_count,
    compiled_encode,
    consecutive_frames,
    embed_moments,
    encode_chunks,
    frames_needed,
    overlap_hop,
    pool_consecutive,
    pool_tokens,
    read_sequences,
    sum_type,
    timestamp_grid,
)
from myna_plugin.model.encoder import POOLINGS, TIMESTAMP_READINGS, MynaEncoder
from myna_plugin.model.graphs import Graphs
from myna_plugin.model.spectrogram import MelSpectrogram

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


CHUNKS_PER_PASS = {"cpu": 32, "mps": 128, "cuda": 1280}
"""Chunks that the encoder takes at a time, by the kind of device; of MPS not measured."""

DELTA_MS = 25.0
"""To the vectors that "vertical-deltas" compares a vector with; a column is 64 wide."""

DELTA_FRAMES = DELTA_MS * SAMPLE_RATE / 1000 / HOP_LENGTH

GRAPHED_CHUNKS = 256
"""Passes of no more chunks are bound, on a CUDA device, by launching kernels."""

_graphs: WeakKeyDictionary[Embedder, Graphs] = WeakKeyDictionary()
"""Not in the models, which stay picklable."""


def as_dense(audio: object) -> Tensor:
    """A waveform as a tensor with its numbers in it; floating point NumPy arrays become one.

    Raises:
        TypeError: something else.
        ValueError: a tensor without numbers, or one that is not dense.
    """
    if isinstance(audio, np.ndarray) and np.issubdtype(audio.dtype, np.floating):
        audio = torch.from_numpy(np.ascontiguousarray(audio, np.float32))
    if not isinstance(audio, Tensor):
        kind = f"array of {audio.dtype}" if isinstance(audio, np.ndarray) else type(audio).__name__
        raise TypeError(f"audio must be a floating point tensor or array, got {kind}")
    if audio.is_meta or audio.layout != torch.strided:
        kind = "meta" if audio.is_meta else str(audio.layout)
        raise ValueError(f"audio must be a dense tensor with samples in it, got a {kind} tensor")
    return audio.detach()


class Embedder(nn.Module):
    """An encoder behind a mel front-end: what the HEAR functions call.

    Attributes:
        sample_rate: 16000 Hz.
        scene_layers: the blocks that scene embeddings are read off.
        scene_pooling: "mean", or "mean-std" where deviations follow the means.
        tokens: the share of the tokens that scene embeddings are made of.
        hop_ms: milliseconds between timestamp embeddings.
        timestamp_layer: the block that timestamp embeddings are read off.
        timestamp_reading: "tokens", or "vertical-deltas".
        cuda_graphs: whether scene embeddings of short sounds replay a CUDA graph for each shape
            that comes again. Off; to be switched on by setting it, where no hook nor adapter of
            the encoder is added or switched later: a replay would not see it. No matter on a CPU.
        scene_embedding_size: width of a scene embedding: the encoder's, for each patching of each
            of `scene_layers`, all patchings of the first layer, then all of the second; twice that
            with "mean-std", where each patching's means are followed by its deviations.
        timestamp_embedding_size: width of a timestamp embedding: the encoder's, for each patching;
            three times the encoder's with "vertical-deltas".
    """

    cuda_graphs = False
    _last_width: int | None = None
    _compiled_width: int | None = None

    def __init__(
        self,
        encoder: MynaEncoder,
        patchings: tuple[str, ...],
        *,
        hop_ms: float | None = None,
        timestamp_layer: int | None = None,
        timestamp_reading: str | None = None,
        scene_layers: Sequence[int] | None = None,
        scene_pooling: str | None = None,
        tokens: float = 1,
        batch_size: int | None = None,
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        """Wrap an encoder.

        Args:
            encoder: the model.
            patchings: which of its patchings to embed with, concatenated in this order.
            hop_ms: milliseconds between timestamp embeddings, a sample's 0.0625 at least.
            timestamp_layer: the block, from 1, that timestamp embeddings are read off.
            timestamp_reading: "tokens" of all `patchings`, or "vertical-deltas": of the vertical
                ones alone, each vector followed by its differences to those `DELTA_MS` before and
                after, which tell better when something happens.
            scene_layers: the blocks, from 1, whose mean tokens scene embeddings join.
            scene_pooling: "mean" for mean tokens alone, "mean-std" to follow each mean with the
                standard deviation of all the sound's tokens.
            tokens: the share of each chunk's tokens that scene embeddings are made of: 1, 0.5, 0.25
                or 0.125. Timestamp embeddings are always made of all.
            batch_size: chunks a pass of the encoder; None for 32 on a CPU and 1280 elsewhere. It
                changes speed and memory only.
            precision: "float32", "bfloat16" or "float16": what the encoder computes in. The
                front-end and the results are always float32.
            compile: run the encoder through `torch.compile`, for large batches on CUDA.

        The five before `tokens` are the encoder's configuration's where they are None. Raises
        TypeError or ValueError for what is outside its range.
        """
        super().__init__()
        hop_ms = encoder.config.timestamp_hop_ms if hop_ms is None else hop_ms
        self.hop_ms = float(check_number("hop_ms", hop_ms, float, SHORTEST_HOP_MS))
        if batch_size is not None:
            batch_size = int(check_number("batch_size", batch_size, int, 1))
        if not isinstance(precision, str) or precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {tuple(PRECISIONS)}, got {precision!r}")
        self.mel = MelSpectrogram()
        self.encoder = encoder.to(PRECISIONS[precision])
        self.patchings = patchings
        self.timestamp_layer = encoder.config.choose_timestamp_layer(timestamp_layer)
        self.timestamp_reading = encoder.config.choose_timestamp_reading(
            timestamp_reading, patchings
        )
        self.scene_layers = encoder.config.choose_scene_layers(scene_layers)
        self.scene_pooling = encoder.config.choose_scene_pooling(scene_pooling)
        self.tokens = check_share(tokens)
        self.batch_size = batch_size
        self.compile_encoder = compile
        self.sample_rate = SAMPLE_RATE
        self._set_sizes()

    def _set_sizes(self) -> None:
        width = self.encoder.config.embed_dim
        scene = len(self.scene_layers) * POOLINGS[self.scene_pooling] * len(self.patchings)
        self.scene_embedding_size = scene * width
        deltas = self.timestamp_reading != "tokens"
        self.timestamp_patchings = ("vertical",) if deltas else self.patchings
        wider = TIMESTAMP_READINGS[self.timestamp_reading]
        self.timestamp_embedding_size = len(self.timestamp_patchings) * wider * width

    def scene_parts(self) -> dict[str, slice]:
        """The embeddings that a scene embedding is put together from, and itself, the last.

        Returns:
            Slice of the features by name: "square", "vertical" and, of two patchings, "hybrid"; of
            several layers "square@8", "vertical@8", "hybrid@8", …, and at last "hybrid@8+12".
        """
        width = self.encoder.config.embed_dim * POOLINGS[self.scene_pooling]
        layer_width = width * len(self.patchings)
        several = len(self.scene_layers) > 1
        whole = "hybrid" if len(self.patchings) > 1 else self.patchings[0]
        parts: dict[str, slice] = {}
        for i, layer in enumerate(self.scene_layers):
            start, suffix = i * layer_width, f"@{layer}" * several
            for k, patching in enumerate(self.patchings):
                parts[f"{patching}{suffix}"] = slice(start + k * width, start + (k + 1) * width)
            parts[f"{whole}{suffix}"] = slice(start, start + layer_width)
        if several:
            joined = "+".join(map(str, self.scene_layers))
            parts[f"{whole}@{joined}"] = slice(0, self.scene_embedding_size)
        return parts

    def forward(self, waveform: Tensor) -> Tensor:
        """Scene embeddings: see `embed_scenes`."""
        return self.embed_scenes(waveform)

    def embed_scenes(self, waveform: Tensor | np.ndarray) -> Tensor:
        """One vector a sound, of its chunks weighted by their frames.

        Args:
            waveform: samples in [-1, 1] at 16 kHz, shape (B, S), S >= 1.

        Returns:
            float32, shape (B, scene_embedding_size).
        """
        waveform = self._prepare(waveform)
        n_frames = frame_count(waveform.shape[-1])
        frames = consecutive_frames(n_frames, self.encoder.config.chunk_frames)
        precise = sum_type(waveform.device)
        frames = frames.to(waveform.device, precise)[:, None]
        scenes = []
        with torch.inference_mode():
            for sounds in self._sound_blocks(waveform, len(frames)):
                # Summed as they come: vectors that are kept cost memory with the sound's length,
                # and tear holes into the heap. float64, so that the passes leave no trace.
                total = torch.zeros(1, dtype=precise, device=waveform.device)
                done = 0
                for vectors in self._pooled(sounds):
                    weights = frames[done : done + vectors.shape[1]]
                    total = total + (vectors * weights).sum(1)
                    done += vectors.shape[1]
                scenes.append(self.embed_pooled(total / n_frames))
        return torch.cat(scenes).clone()

    def embed_chunks(self, waveform: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """One vector a chunk, by the rule at the head of this module; deviations within the chunk.

        Args:
            waveform: as for `embed_scenes`.

        Returns:
            Vectors, float32, shape (B, K, scene_embedding_size), and the frames of each chunk,
            float32, shape (K,), with K = ceil(F / chunk frames).
        """
        waveform = self._prepare(waveform)
        n_frames = frame_count(waveform.shape[-1])
        frames = consecutive_frames(n_frames, self.encoder.config.chunk_frames)
        with torch.inference_mode():
            blocks = self._sound_blocks(waveform, len(frames))
            pooled = torch.cat([torch.cat([*self._pooled(sounds)], dim=1) for sounds in blocks])
            vectors = self.embed_pooled(pooled)
        # A copy made outside inference mode is an ordinary tensor, which a probe may train on.
        return vectors.clone(), frames.to(vectors.device)

    def embed_timestamps(self, waveform: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """A vector every `hop_ms`, centred on its time, the first at 0, none past the end.

        Chunks overlap by half and their encoded tokens become a sequence, which the grid is read
        off: see `chunks.read_sequences`. The tokens are those after block `timestamp_layer` and the
        final norm. With "vertical-deltas" a vector v(t) is followed by v(t) - v(t - `DELTA_MS`) and
        v(t + `DELTA_MS`) - v(t); before the first column and after the last it stays the same.

        Args:
            waveform: samples in [-1, 1] at 16 kHz, shape (B, S), S >= 1.

        Returns:
            Vectors, float32, shape (B, T, timestamp_embedding_size), and times in milliseconds,
            float32, shape (B, T): i * hop_ms for i < T = 1 + floor(duration / hop_ms).
        """
        waveform = self._prepare(waveform)
        batch, n_samples = waveform.shape
        times, positions = timestamp_grid(n_samples, self.hop_ms)
        count = len(times)
        frames_per_step = self.hop_ms * SAMPLE_RATE / 1000 / HOP_LENGTH
        chunks_per_step = frames_per_step / overlap_hop(self.encoder.config.chunk_frames)
        vectors = torch.empty(batch, count, self.timestamp_embedding_size, device=waveform.device)
        with torch.inference_mode():
            row = 0
            for sounds in self._sound_blocks(waveform, 1 + int(count * chunks_per_step)):
                n_chunks = max(self._chunks_per_pass() // len(sounds), 1)
                step = max(int(n_chunks / chunks_per_step), 1)
                for first in range(0, count, step):
                    block = self._read(sounds, positions[first : first + step])
                    vectors[row : row + len(sounds), first : first + step] = block
                row += len(sounds)
        return vectors, times.float().to(waveform.device).expand(batch, count).clone()

    def _prepare(self, waveform: Tensor | np.ndarray) -> Tensor:
        """Check audio and bring it to the model's device as float32."""
        audio = as_dense(waveform)
        if audio.ndim != 2 or 0 in audio.shape:
            raise ValueError(
                f"audio must have shape (n_sounds, n_samples), got {tuple(audio.shape)}"
            )
        if not audio.is_floating_point():
            raise ValueError(f"audio must be floating point in [-1, 1], got {audio.dtype}")
        return audio.to(self.mel.window.device, torch.float32)

    def _frames(self, waveform: Tensor, start: int, stop: int) -> Tensor:
        """Mel frames of a block, refused if its audio was not finite (a check of the waveform
        itself would take as much memory again as an hour of audio does)."""
        mel = self.mel.frames(waveform, start, stop)
        if not mel.isfinite().all():
            begin, end = (frame * HOP_LENGTH / SAMPLE_RATE for frame in (start, stop))
            raise ValueError(
                "audio holds NaN or infinite samples, or samples far outside [-1, 1], between "
                f"{begin:.2f} s and {end:.2f} s"
            )
        return mel

    def _chunks_per_pass(self) -> int:
        if self.batch_size is not None:
            return self.batch_size
        return CHUNKS_PER_PASS[self.mel.window.device.type]

    def _sound_blocks(self, waveform: Tensor, chunks_each: int) -> Iterator[Tensor]:
        """As many sounds at a time as one pass of the encoder takes, at least one."""
        yield from waveform.split(max(self._chunks_per_pass() // chunks_each, 1))

    def _blocks(self, n_chunks: int, n_sounds: int) -> Iterator[tuple[int, int]]:
        """Ranges of chunks such that each, over all the sounds, fills one pass."""
        step = max(self._chunks_per_pass() // n_sounds, 1)
        for first in range(0, n_chunks, step):
            yield first, min(first + step, n_chunks)

    def _pooled(self, sounds: Tensor) -> Iterator[Tensor]:
        """`pool_chunks` of the sounds, in order, a pass of the encoder at a time: (B, k, D)."""
        size = self.encoder.config.chunk_frames
        n_frames = frame_count(sounds.shape[-1])
        for first, last in self._blocks(chunk_count(n_frames, size, size), len(sounds)):
            mel = self._frames(sounds, first * size, min(last * size, n_frames))
            yield pool_consecutive(self._pool_fast, mel, size, first)

    def pool_chunks(self, mel: Tensor, numbers: Tensor) -> Tensor:
        """What is averaged over chunks: `pool_cuts` of one cut."""
        (pooled,) = self.pool_cuts([mel], [numbers])
        return pooled

    def _pool_fast(self, cuts: Sequence[Tensor], numbers: Sequence[Tensor]) -> list[Tensor]:
        """`pool_cuts`, replayed as a CUDA graph where that is faster."""
        device = cuts[0].device.type
        small = sum(map(len, cuts)) <= GRAPHED_CHUNKS
        eager = self.compile_encoder or not self.cuda_graphs or torch.is_autocast_enabled(device)
        if device != "cuda" or eager or not small:
            return self.pool_cuts(cuts, numbers)
        return _graphs.setdefault(self, Graphs()).call(
            lambda given: self.pool_cuts(given[: len(cuts)], given[len(cuts) :]),
            [*cuts, *numbers],
            chain(self.encoder.parameters(), self.encoder.buffers()),
            (self.patchings, self.scene_layers, self.scene_pooling, self.tokens),
        )

    def pool_cuts(self, cuts: Sequence[Tensor], numbers: Sequence[Tensor]) -> list[Tensor]:
        """What is averaged over chunks, those of all cuts in one pass.

        Args:
            cuts: mel of chunks of one width, each (N, 128, F).
            numbers: theirs in their sounds, from 0, int64, each (N,).

        Returns:
            For each cut (N, D).
        """
        chosen = [
            choose_tokens(self.patchings, cut.shape[-1], self.tokens, own)
            for cut, own in zip(cuts, numbers, strict=True)
        ]
        encoded = self._encode(cuts, self.scene_layers, chosen)
        return [pool_tokens(own, self.scene_pooling) for own in encoded]

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Scene embeddings of averaged `pool_chunks`: (..., D) -> (..., D), float32."""
        return embed_moments(pooled, self.scene_pooling, self.encoder.config.embed_dim)

    def _encode(
        self,
        cuts: Sequence[Tensor],
        layers: Sequence[int],
        chosen: Sequence[Sequence[Tensor] | None] | None = None,
        patchings: tuple[str, ...] | None = None,
    ) -> list[Encoded]:
        patchings = patchings or self.patchings
        if not self.compile_encoder:
            return encode_chunks(self.encoder, cuts, patchings, layers, chosen=chosen)
        encoded = []
        for cut, own in zip(cuts, chosen or [None] * len(cuts), strict=True):
            encode = compiled_encode() if self._compiles(cut.shape[-1]) else encode_chunks
            cut = cut.contiguous()
            (states,) = encode(self.encoder, [cut], patchings, layers, chosen=[own])
            # Copied, as the next call may write where these lie.
            encoded.append([[tokens.clone() for tokens in group] for group in states])
        return encoded

    def _compiles(self, width: int) -> bool:
        """Whether chunks of so many frames are compiled: whole ones, and one other width.

        Of each width something else is compiled, and after the eighth torch compiles nothing any
        more. The other is the first that comes twice running: it does where all sounds are as long.
        """
        if width == self.encoder.config.chunk_frames or width == self._compiled_width:
            return True
        if self._compiled_width is None and width == self._last_width:
            self._compiled_width = width
        self._last_width = width
        return width == self._compiled_width

    def _read(self, waveform: Tensor, positions: Tensor) -> Tensor:
        """Timestamp embeddings at some positions (in frames, ascending): (B, T, D)."""
        n_frames = frame_count(waveform.shape[-1])
        size = self.encoder.config.chunk_frames
        patchings, deltas = self.timestamp_patchings, self.timestamp_reading != "tokens"
        if deltas:
            apart = torch.tensor([-1.0, 0.0, 1.0], dtype=positions.dtype) * DELTA_FRAMES
            positions = (positions[:, None] + apart).flatten()
        start, stop = frames_needed(positions, patchings, n_frames, size)
        mel = self._frames(waveform, start, stop)
        (vectors,) = read_sequences(
            lambda cuts: self._encode(cuts, (self.timestamp_layer,), patchings=patchings),
            mel,
            start,
            positions,
            patchings,
            n_frames,
            size,
        )
        if not deltas:
            return vectors
        before, now, after = vectors.unflatten(1, (-1, 3)).unbind(2)
        return torch.cat([now, now - before, after - now], dim=-1)
