"""Waveforms of any length -> scene and timestamp embeddings, in bounded memory.

The rule for lengths, in frames of 32 ms (F = 1 + samples // 512):

* A sound is cut into consecutive full chunks (96 frames; 98 for the published vertical-only model)
  and one partial chunk for what is left, down to a single frame.
* A partial chunk is encoded over the patch columns it has: its frames, continued with silence to
  the next whole patch (16 frames for square patches, 2 for vertical ones), never to a full chunk.
* A scene embedding is the mean over chunks weighted by their frames, so the partial chunk counts by
  its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.encoder import PATCHINGS, MynaEncoder, token_grid
from myna_plugin.model.spectrogram import HOP_LENGTH, MelSpectrogram, frame_count

TIMESTAMP_MODES = ("tokens", "window")

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Embedder(nn.Module):
    """An encoder behind a mel front-end: what the HEAR functions call.

    Attributes:
        sample_rate: 16000 Hz.
        scene_embedding_size: width of a scene embedding: D for each patching.
        timestamp_embedding_size: width of a timestamp embedding, the same.
    """

    def __init__(
        self,
        encoder: MynaEncoder,
        patchings: tuple[str, ...],
        *,
        hop_ms: float = 50.0,
        timestamp_mode: str = "tokens",
        timestamp_layer: int | None = None,
        batch_size: int | None = None,
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        """Wrap an encoder.

        Args:
            encoder: the model.
            patchings: which of its patchings to embed with, concatenated in this order.
            hop_ms: milliseconds between timestamp embeddings, > 0.
            timestamp_mode: "tokens" or "window"; see `embed_timestamps`.
            timestamp_layer: the transformer block that timestamp embeddings are read off, 1 to
                the encoder's depth; None for the one that its configuration names, or the last.
                Earlier blocks tell better what happens when.
            batch_size: chunks a pass of the encoder; None for 32 on a CPU and 1280 elsewhere. It
                changes speed and memory only.
            precision: "float32", "bfloat16" or "float16": what the encoder computes in. The
                front-end and the results are always float32.
            compile: whether the encoder runs through `torch.compile`: faster on large batches on
                CUDA after some seconds of compiling for each new kind of input.

        Raises:
            ValueError: an option outside its range.
        """
        super().__init__()
        if not hop_ms > 0:
            raise ValueError(f"hop_ms must be positive, got {hop_ms}")
        if timestamp_mode not in TIMESTAMP_MODES:
            raise ValueError(f"timestamp_mode must be one of {TIMESTAMP_MODES}: {timestamp_mode!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {tuple(PRECISIONS)}, got {precision!r}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.mel = MelSpectrogram()
        self.encoder = encoder.to(PRECISIONS[precision])
        self.patchings = patchings
        self.hop_ms = float(hop_ms)
        self.timestamp_mode = timestamp_mode
        self.timestamp_layer = encoder.config.choose_timestamp_layer(timestamp_layer)
        self.batch_size = batch_size
        self.compile_encoder = compile
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = len(patchings) * encoder.config.embed_dim
        self.timestamp_embedding_size = self.scene_embedding_size

    def forward(self, waveform: Tensor) -> Tensor:
        """Scene embeddings: see `embed_scenes`."""
        return self.embed_scenes(waveform)

    def embed_scenes(self, waveform: Tensor) -> Tensor:
        """One vector a sound: the mean over its chunks, weighted by their frames.

        Args:
            waveform: samples in [-1, 1] at 16 kHz, shape (B, S), S >= 1.

        Returns:
            float32, shape (B, scene_embedding_size).
        """
        chunks, frames = self.embed_chunks(waveform)
        return (chunks * (frames / frames.sum()).unsqueeze(-1)).sum(1)

    def embed_chunks(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """One vector a chunk, by the rule at the head of this module.

        Args:
            waveform: as for `embed_scenes`.

        Returns:
            Vectors, float32, shape (B, K, scene_embedding_size), and the frames of each chunk,
            float32, shape (K,), with K = ceil(F / chunk frames).
        """
        waveform = self._prepare(waveform)
        size = self.encoder.config.chunk_frames
        n_frames = frame_count(waveform.shape[-1])
        starts = range(0, n_frames, size)
        rows = []
        with torch.inference_mode():
            for sounds in self._sound_blocks(waveform, len(starts)):
                parts = []
                for first, last in self._blocks(len(starts), len(sounds)):
                    stop = min(last * size, n_frames)
                    mel = self._frames(sounds, first * size, stop)
                    parts += self._embed_consecutive(mel)
                rows.append(torch.cat(parts, dim=1))
            vectors = torch.cat(rows)
        frames = torch.tensor([min(size, n_frames - s) for s in starts], dtype=torch.float32)
        # A copy made outside inference mode is an ordinary tensor, which a probe may train on.
        return vectors.clone(), frames.to(vectors.device)

    def embed_timestamps(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """A vector every `hop_ms`, centred on its time, the first at 0, none past the end.

        In mode "tokens" chunks overlap by half and their encoded tokens become a sequence: square
        tokens averaged over the frequency rows, vertical tokens as they are, one vector a patch
        column; where two chunks give a column, the one it lies more centrally in counts more. The
        grid is read off that sequence by linear interpolation between the columns' centres. The
        tokens are those after block `timestamp_layer` and the final norm.

        In mode "window", the slow reference, a full chunk is embedded around each time (less of it
        within half a chunk of the sound's ends).

        Args:
            waveform: samples in [-1, 1] at 16 kHz, shape (B, S), S >= 1.

        Returns:
            Vectors, float32, shape (B, T, timestamp_embedding_size), and times in milliseconds,
            float32, shape (B, T): i * hop_ms for i < T = 1 + floor(duration / hop_ms).
        """
        waveform = self._prepare(waveform)
        batch, n_samples = waveform.shape
        count = timestamp_count(n_samples, self.hop_ms)
        # float64 until the end: an hour holds millions of milliseconds.
        times = torch.arange(count, dtype=torch.float64) * self.hop_ms
        frames_per_step = self.hop_ms * SAMPLE_RATE / 1000 / HOP_LENGTH
        positions = times * SAMPLE_RATE / 1000 / HOP_LENGTH
        if self.timestamp_mode == "tokens":
            embed = self._embed_tokens_at
            chunks_per_step = frames_per_step / overlap_hop(self.encoder.config.chunk_frames)
        else:
            embed, chunks_per_step = self._embed_windows_at, 1.0
        vectors = torch.empty(batch, count, self.timestamp_embedding_size, device=waveform.device)
        with torch.inference_mode():
            row = 0
            for sounds in self._sound_blocks(waveform, 1 + int(count * chunks_per_step)):
                n_chunks = max(self._chunks_per_pass() // len(sounds), 1)
                step = max(int(n_chunks / chunks_per_step), 1)
                for first in range(0, count, step):
                    block = embed(sounds, positions[first : first + step])
                    vectors[row : row + len(sounds), first : first + step] = block
                row += len(sounds)
        return vectors, times.float().to(waveform.device).expand(batch, count).clone()

    def _prepare(self, waveform: Tensor) -> Tensor:
        """Check audio and bring it to the model's device as float32."""
        if waveform.ndim != 2 or 0 in waveform.shape:
            raise ValueError(
                f"audio must have shape (n_sounds, n_samples), got {tuple(waveform.shape)}"
            )
        if not waveform.is_floating_point():
            raise ValueError(f"audio must be floating point in [-1, 1], got {waveform.dtype}")
        return waveform.detach().to(self.mel.window.device, torch.float32)

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
        return 32 if self.mel.window.device.type == "cpu" else 1280

    def _sound_blocks(self, waveform: Tensor, chunks_each: int) -> Iterator[Tensor]:
        """As many sounds at a time as one pass of the encoder takes, at least one."""
        yield from waveform.split(max(self._chunks_per_pass() // chunks_each, 1))

    def _blocks(self, n_chunks: int, n_sounds: int) -> Iterator[tuple[int, int]]:
        """Ranges of chunks such that each, over all the sounds, fills one pass."""
        step = max(self._chunks_per_pass() // n_sounds, 1)
        for first in range(0, n_chunks, step):
            yield first, min(first + step, n_chunks)

    def _embed_consecutive(self, mel: Tensor) -> list[Tensor]:
        """Embed consecutive chunks of (B, M, F): full ones (B, K, D), then a partial (B, 1, D)."""
        size = self.encoder.config.chunk_frames
        full = mel.shape[-1] // size
        parts = []
        if full:
            chunks = mel[..., : full * size].unflatten(-1, (full, size)).transpose(1, 2)
            embedded = self._embed(chunks.flatten(0, 1))
            parts.append(embedded.unflatten(0, (len(mel), full)))
        if mel.shape[-1] > full * size:
            parts.append(self._embed(mel[..., full * size :]).unsqueeze(1))
        return parts

    def _embed(self, chunks: Tensor, depth: int | None = None) -> Tensor:
        """Mean-pooled embeddings of chunks of one width: (N, M, F) -> (N, D), float32."""
        return torch.cat([tokens.mean(1) for tokens in self._encode(chunks, depth)], dim=-1).float()

    def _encode(self, chunks: Tensor, depth: int | None = None) -> list[Tensor]:
        """Encoded tokens (N, tokens, D) of chunks of one width, for each patching."""
        encode = compiled_encode() if self.compile_encoder else encode_chunks
        return encode(self.encoder, chunks, self.patchings, depth)

    def _embed_tokens_at(self, waveform: Tensor, positions: Tensor) -> Tensor:
        """Vectors at some positions (in frames, ascending) from the tokens of overlapping chunks.

        All chunks that touch a needed column are encoded, and only those, so the result does not
        depend on how the positions are cut into blocks.
        """
        n_frames = frame_count(waveform.shape[-1])
        size = self.encoder.config.chunk_frames
        hop = overlap_hop(size)
        n_chunks = 1 + max(-(-(n_frames - size) // hop), 0)
        grids = {p: column_grid(positions, PATCHINGS[p][1], n_frames) for p in self.patchings}
        first_frame = min(int(lower[0]) * PATCHINGS[p][1] for p, (lower, _) in grids.items())
        last_frame = max(
            (int(lower[-1]) + 2) * PATCHINGS[p][1] - 1 for p, (lower, _) in grids.items()
        )
        first = max((first_frame - size) // hop + 1, 0)
        last = min(last_frame // hop + 1, n_chunks)
        mel = self._frames(waveform, first * hop, min((last - 1) * hop + size, n_frames))
        columns = self._overlap_columns(mel, last - first, hop)
        results = []
        for patching, sequence in zip(self.patchings, columns, strict=True):
            width = PATCHINGS[patching][1]
            lower, fraction = grids[patching]
            index = (lower - first * hop // width).to(sequence.device)
            upper = (index + 1).clamp(max=sequence.shape[1] - 1)
            weight = fraction.to(sequence).unsqueeze(-1)
            results.append(torch.lerp(sequence[:, index], sequence[:, upper], weight))
        return torch.cat(results, dim=-1)

    def _overlap_columns(self, mel: Tensor, n_chunks: int, hop: int) -> list[Tensor]:
        """Merge the tokens of overlapping chunks: (B, M, F) -> (B, columns, D) a patching."""
        batch, _, n_frames = mel.shape
        size = self.encoder.config.chunk_frames
        full = n_chunks if (n_chunks - 1) * hop + size <= n_frames else n_chunks - 1
        pieces = []  # (first chunk, number of chunks, tokens a patching)
        if full:
            chunks = mel.unfold(-1, size, hop)[:, :, :full].transpose(1, 2)
            pieces.append((0, full, self._encode(chunks.flatten(0, 1), self.timestamp_layer)))
        if full < n_chunks:
            rest = mel[..., full * hop :]
            pieces.append((full, 1, self._encode(rest, self.timestamp_layer)))
        merged = []
        for i, patching in enumerate(self.patchings):
            width = PATCHINGS[patching][1]
            n_columns = -(-n_frames // width)
            total = torch.zeros(batch, n_columns, self.encoder.config.embed_dim, device=mel.device)
            weights = torch.zeros(n_columns, device=mel.device)
            for first, count, tokens in pieces:
                rows = token_grid(patching, size)[0]
                columns = tokens[i].float().unflatten(1, (rows, -1)).mean(1)
                n = columns.shape[1]
                weight = column_weights(size // width, mel.device)[:n]
                index = (
                    torch.arange(first, first + count, device=mel.device)[:, None] * (hop // width)
                    + torch.arange(n, device=mel.device)
                ).flatten()
                columns = (columns * weight[:, None]).unflatten(0, (batch, count)).flatten(1, 2)
                total.index_add_(1, index, columns)
                weights.index_add_(0, index, weight.repeat(count))
            merged.append(total / weights[:, None])
        return merged

    def _embed_windows_at(self, waveform: Tensor, positions: Tensor) -> Tensor:
        """Embed the chunk around each position, cut off at the sound's ends."""
        n_frames = frame_count(waveform.shape[-1])
        size = self.encoder.config.chunk_frames
        starts = [int(p) - size // 2 for p in positions.round()]
        origin = max(starts[0], 0)
        mel = self._frames(waveform, origin, min(starts[-1] + size, n_frames))
        windows = [(max(s, 0) - origin, min(s + size, n_frames) - origin) for s in starts]
        result = torch.empty(
            len(waveform), len(windows), self.timestamp_embedding_size, device=mel.device
        )
        for width in {stop - start for start, stop in windows}:
            chosen = [i for i, (start, stop) in enumerate(windows) if stop - start == width]
            cut = torch.stack([mel[..., windows[i][0] : windows[i][1]] for i in chosen], dim=1)
            result[:, chosen] = self._embed(cut.flatten(0, 1), self.timestamp_layer).unflatten(
                0, cut.shape[:2]
            )
        return result


def encode_chunks(
    encoder: MynaEncoder,
    chunks: Tensor,
    patchings: tuple[str, ...],
    depth: int | None = None,
) -> list[Tensor]:
    """Tokens (N, tokens, D) of chunks (N, M, F) after `depth` blocks, for each patching.

    Patchings whose token counts agree (48 each for a full chunk) share one pass.
    """
    tokens = [encoder.tokens(fill_patches(chunks, p), p) for p in patchings]
    if len({t.shape[1] for t in tokens}) == 1:
        return list(encoder.transformer(torch.cat(tokens), depth).chunk(len(tokens)))
    return [encoder.transformer(t, depth) for t in tokens]


@cache
def compiled_encode() -> Callable[..., list[Tensor]]:
    """`encode_chunks` through `torch.compile`; one for all models, so models stay picklable.

    On CUDA its kernels are replayed as one graph for each shape: short sounds are bound by
    launching them.
    """
    return torch.compile(encode_chunks, mode="reduce-overhead")


def fill_patches(chunks: Tensor, patching: str) -> Tensor:
    """Continue chunks (N, M, F) with silence to a whole number of patch columns."""
    width = PATCHINGS[patching][1]
    return functional.pad(chunks, (0, -chunks.shape[-1] % width))


def timestamp_count(n_samples: int, hop_ms: float) -> int:
    """Times 0, hop_ms, 2 hop_ms … that are not past the end of a sound at 16 kHz.

    >>> [timestamp_count(n, 50.0) for n in (1, 799, 800, 16_000)]
    [1, 1, 2, 21]
    """
    duration_ms = n_samples * 1000 / SAMPLE_RATE
    count = int(duration_ms / hop_ms) + 1
    # The quotient may round up to a whole number that the product then exceeds.
    return count - ((count - 1) * hop_ms > duration_ms)


def overlap_hop(chunk_frames: int) -> int:
    """Frames between overlapping chunks: half a chunk, in whole columns of every patching.

    >>> overlap_hop(96), overlap_hop(98)
    (48, 48)
    """
    widest = max(frames for _, frames in PATCHINGS.values())
    return max(chunk_frames // 2 // widest, 1) * widest


def column_grid(positions: Tensor, width: int, n_frames: int) -> tuple[Tensor, Tensor]:
    """Where positions fall between the centres of patch columns.

    A column of `width` frames is centred (width - 1) / 2 frames after its first. Positions before
    the first centre or after the last take that column alone.

    Args:
        positions: in frames, float64, shape (T,).
        width: frames of a column.
        n_frames: frames of the sound.

    Returns:
        The column before each position (T,) int64 and the weight of the next one (T,) in [0, 1).

    >>> column_grid(torch.tensor([0.0, 15.5, 40.0]).double(), 16, 32)
    (tensor([0, 0, 1]), tensor([0.0000, 0.5000, 0.0000], dtype=torch.float64))
    """
    last = -(-n_frames // width) - 1
    coordinate = ((positions - (width - 1) / 2) / width).clamp(0, last)
    lower = coordinate.floor()
    return lower.long(), coordinate - lower


def column_weights(n_columns: int, device: torch.device | None = None) -> Tensor:
    """Triangular weights of a chunk's columns, largest at its middle, none of them zero.

    >>> column_weights(6)
    tensor([0.1667, 0.5000, 0.8333, 0.8333, 0.5000, 0.1667])
    """
    centres = (torch.arange(n_columns, device=device) + 0.5) / n_columns
    return 1 - (2 * centres - 1).abs()
