"""Hidden states of every layer as sequences over time: what evaluators of speech and music read.

`Embedder` gives the last layer without gradients. Evaluators pick or mix layers and may fine-tune,
so here every layer is kept and autograd is left on. Both share one time axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from myna_plugin.audio import SAMPLE_RATE
from myna_plugin.embedding import (
    column_grid,
    column_weights,
    fill_patches,
    overlap_hop,
    timestamp_count,
)
from myna_plugin.encoder import PATCHINGS, MynaEncoder, token_grid
from myna_plugin.spectrogram import HOP_LENGTH, MelSpectrogram, frame_count

CHUNKS_PER_PASS = 64
"""Chunks encoded at a time: bounds memory where no gradients are kept, changes no result."""


class HiddenStates(nn.Module):
    """Waveforms -> the hidden states of all layers, a vector every `hop_ms`.

    The last state, which carries the transformer's final norm, is what
    `Embedder.embed_timestamps` returns in mode "tokens"; the others are read off the same tokens
    one or more blocks earlier, before any norm.

    Attributes:
        sample_rate: 16000 Hz.
        embedding_size: width D of every state: the encoder's for each patching.
        depth: number of states L.
    """

    def __init__(
        self, encoder: MynaEncoder, patchings: tuple[str, ...], hop_ms: float = 50.0
    ) -> None:
        """Wrap an encoder.

        Args:
            encoder: the model; trained in place where its parameters ask for gradients.
            patchings: which of its patchings to use, concatenated in this order.
            hop_ms: milliseconds between vectors, > 0.

        Raises:
            ValueError: `hop_ms` is not positive, or the encoder lacks a patching.
        """
        super().__init__()
        if not hop_ms > 0:
            raise ValueError(f"hop_ms must be positive, got {hop_ms}")
        for patching in patchings:
            encoder.tokenizer(patching)
        self.mel = MelSpectrogram()
        self.encoder = encoder
        self.patchings = patchings
        self.hop_ms = float(hop_ms)
        self.sample_rate = SAMPLE_RATE
        self.embedding_size = len(patchings) * encoder.config.embed_dim
        self.depth = encoder.config.depth

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Hidden states of whole sounds.

        Args:
            waveform: samples in [-1, 1] at 16 kHz, shape (B, S), S >= 1, on the model's device.

        Returns:
            L tensors of shape (B, T, D), first block first, centred on 0, hop_ms, 2 hop_ms …
            with T = 1 + floor(duration / hop_ms).

        Raises:
            ValueError: audio of another shape, of integers, or with NaN or infinite samples.
        """
        mel = self._spectrogram(waveform)
        hop_frames = self.hop_ms * SAMPLE_RATE / 1000 / HOP_LENGTH
        count = timestamp_count(waveform.shape[-1], self.hop_ms)
        positions = torch.arange(count, dtype=torch.float64) * hop_frames
        columns = self._columns(mel)
        joined = []
        for patching, states in zip(self.patchings, columns, strict=True):
            lower, fraction = column_grid(positions, PATCHINGS[patching][1], mel.shape[-1])
            lower = lower.to(mel.device)
            upper = (lower + 1).clamp(max=states[0].shape[1] - 1)
            weight = fraction.to(states[0]).unsqueeze(-1)
            joined.append([torch.lerp(s[:, lower], s[:, upper], weight) for s in states])
        return tuple(torch.cat(parts, dim=-1) for parts in zip(*joined, strict=True))

    def _spectrogram(self, waveform: Tensor) -> Tensor:
        """Mel power (B, M, F) in float32, whatever precision surrounds it."""
        if waveform.ndim != 2 or 0 in waveform.shape:
            raise ValueError(f"audio must have shape (B, S), got {tuple(waveform.shape)}")
        if not waveform.is_floating_point():
            raise ValueError(f"audio must be floating point in [-1, 1], got {waveform.dtype}")
        # Mel power spans too many decades for the half precision of a trainer's autocast.
        with torch.autocast(waveform.device.type, enabled=False):
            mel = self.mel.frames(waveform, 0, frame_count(waveform.shape[-1]))
        if not mel.isfinite().all():
            raise ValueError("audio holds NaN or infinite samples, or far outside [-1, 1]")
        return mel

    def _columns(self, mel: Tensor) -> list[list[Tensor]]:
        """States of the patch columns of whole sounds: [patching][layer] (B, columns, D).

        Chunks overlap by half; where two give a column, the one it lies more centrally in counts
        more (`column_weights`).
        """
        batch, _, n_frames = mel.shape
        size = self.encoder.config.chunk_frames
        hop = overlap_hop(size)
        n_chunks = 1 + max(-(-(n_frames - size) // hop), 0)
        full = n_chunks if (n_chunks - 1) * hop + size <= n_frames else n_chunks - 1
        pieces = []  # (first chunk, number of chunks, states of their columns)
        if full:
            chunks = mel.unfold(-1, size, hop)[:, :, :full].transpose(1, 2).flatten(0, 1)
            pieces.append((0, full, self._encode(chunks)))
        if full < n_chunks:
            pieces.append((full, 1, self._encode(mel[..., full * hop :])))
        merged = []
        for i, patching in enumerate(self.patchings):
            width = PATCHINGS[patching][1]
            weight = column_weights(size // width, mel.device)
            parts = [(first, count, states[i]) for first, count, states in pieces]
            merged.append(
                [
                    _overlap_add(
                        [(first, s[k].unflatten(0, (batch, count))) for first, count, s in parts],
                        weight,
                        hop // width,
                        -(-n_frames // width),
                    )
                    for k in range(self.depth)
                ]
            )
        return merged

    def _encode(self, chunks: Tensor) -> list[list[Tensor]]:
        """States of the columns of chunks (N, M, F): [patching][layer] (N, columns, D)."""
        passes = [self._encode_pass(block) for block in chunks.split(CHUNKS_PER_PASS)]
        return [
            [torch.cat(blocks) for blocks in zip(*layers, strict=True)]
            for layers in zip(*passes, strict=True)
        ]

    def _encode_pass(self, chunks: Tensor) -> list[list[Tensor]]:
        tokens = [self.encoder.tokens(fill_patches(chunks, p), p) for p in self.patchings]
        rows = [token_grid(p, chunks.shape[-1])[0] for p in self.patchings]
        states = [self._blocks(t) for t in tokens]
        return [
            [s.float().unflatten(1, (r, -1)).mean(1) for s in layers]
            for r, layers in zip(rows, states, strict=True)
        ]

    def _blocks(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (N, tokens, D) after each block, the last one normed."""
        states = []
        for block in self.encoder.transformer.layers:
            tokens = block(tokens)
            states.append(tokens)
        states[-1] = self.encoder.transformer.norm(states[-1])
        return states


def _overlap_add(
    pieces: list[tuple[int, Tensor]], weight: Tensor, hop: int, n_columns: int
) -> Tensor:
    """Weighted mean of overlapping chunks of columns.

    Args:
        pieces: number of the first chunk and the chunks (B, K, columns, D), consecutive.
        weight: of each column of a full chunk, > 0.
        hop: columns between chunk starts.
        n_columns: columns of the sound.

    Returns:
        Shape (B, n_columns, D).
    """
    batch, _, _, dim = pieces[0][1].shape
    total = pieces[0][1].new_zeros(batch, n_columns, dim)
    weights = weight.new_zeros(n_columns)
    for first, chunks in pieces:
        count, n = chunks.shape[1:3]
        start = torch.arange(first, first + count, device=chunks.device)[:, None] * hop
        index = (start + torch.arange(n, device=chunks.device)).flatten()
        weighted = (chunks * weight[:n, None]).flatten(1, 2)
        total = total.index_add(1, index, weighted)
        weights = weights.index_add(0, index, weight[:n].repeat(count))
    return total / weights[:, None]
