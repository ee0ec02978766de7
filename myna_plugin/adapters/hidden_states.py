"""Hidden states of every layer as sequences over time: what evaluators of speech and music read.

`Embedder` gives the last layer without gradients. Evaluators pick or mix layers and may fine-tune,
so here every layer is kept and autograd is left on. Both share one time axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.embedding import (
    column_grid,
    column_weights,
    fill_patches,
    overlap_hop,
    timestamp_count,
)
from myna_plugin.model.encoder import PATCHINGS, MynaEncoder, token_grid
from myna_plugin.model.spectrogram import HOP_LENGTH, MelSpectrogram

CHUNKS_PER_PASS = 64
"""Chunks encoded at a time: bounds memory where no gradients are kept, changes no result."""


class HiddenStates(nn.Module):
    """Waveforms -> the hidden states of all layers, a vector every `hop_ms`.

    The last state, which carries the transformer's final norm, is what
    `Embedder.embed_timestamps` returns in mode "tokens" of the last block; the others are read off
    the same tokens one or more blocks earlier, before any norm.

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
        mel = compute_mel(self.mel, waveform)
        return read_layers(self.encoder, mel, waveform.shape[-1], self.patchings, self.hop_ms)

    def forward_sounds(self, sounds: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Hidden states of sounds of different lengths.

        Args:
            sounds: waveforms of shape (S,), as for `forward`.

        Returns:
            L tensors of shape (B, T, D), T that of the longest; zero past a sound's own end, and
            independent of the sounds around it.
        """
        layers: list[tuple[Tensor, ...]] = [()] * len(sounds)
        for rows in rows_by_length([len(sound) for sound in sounds]):
            states = self(torch.stack([sounds[row] for row in rows]))
            for row, *own in zip(rows, *states, strict=True):
                layers[row] = tuple(own)
        return pad_layers(layers)


def rows_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of equal length together, so that sounds share a pass and need no filling.

    >>> rows_by_length([5, 3, 5])
    [[1], [0, 2]]
    """
    return [
        [row for row, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))
    ]


def pad_layers(layers: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Each sound's L states (T, D) -> L tensors (B, T, D), zero past a sound's end."""
    return tuple(
        pad_sequence(list(states), batch_first=True) for states in zip(*layers, strict=True)
    )


def compute_mel(front_end: MelSpectrogram, waveform: Tensor) -> Tensor:
    """Mel power (B, M, F) of sounds (B, S) in float32, whatever precision surrounds it.

    Raises:
        ValueError: audio of another shape, of integers, or with NaN or infinite samples.
    """
    if waveform.ndim != 2 or 0 in waveform.shape:
        raise ValueError(f"audio must have shape (B, S), got {tuple(waveform.shape)}")
    if not waveform.is_floating_point():
        raise ValueError(f"audio must be floating point in [-1, 1], got {waveform.dtype}")
    # Mel power spans too many decades for the half precision of a trainer's autocast.
    with torch.autocast(waveform.device.type, enabled=False):
        mel = front_end(waveform)
    if not mel.isfinite().all():
        raise ValueError("audio holds NaN or infinite samples, or samples far outside [-1, 1]")
    return mel


def read_layers(
    encoder: MynaEncoder, mel: Tensor, n_samples: int, patchings: tuple[str, ...], hop_ms: float
) -> tuple[Tensor, ...]:
    """Hidden states of all layers on the grid of `hop_ms`: see `HiddenStates.forward`.

    Args:
        encoder: the model.
        mel: mel power of whole sounds, shape (B, 128, F).
        n_samples: length of the sounds in samples.
        patchings: concatenated in this order.
        hop_ms: milliseconds between vectors.
    """
    count = timestamp_count(n_samples, hop_ms)
    hop_frames = hop_ms * SAMPLE_RATE / 1000 / HOP_LENGTH
    positions = torch.arange(count, dtype=torch.float64) * hop_frames
    joined = []
    for patching, states in zip(patchings, _columns(encoder, mel, patchings), strict=True):
        lower, fraction = column_grid(positions, PATCHINGS[patching][1], mel.shape[-1])
        lower = lower.to(mel.device)
        upper = (lower + 1).clamp(max=states[0].shape[1] - 1)
        weight = fraction.to(states[0]).unsqueeze(-1)
        joined.append([torch.lerp(s[:, lower], s[:, upper], weight) for s in states])
    return tuple(torch.cat(parts, dim=-1) for parts in zip(*joined, strict=True))


def embed_scenes(encoder: MynaEncoder, mel: Tensor, patchings: tuple[str, ...]) -> Tensor:
    """Scene embeddings that gradients flow through: `Embedder.embed_scenes` from mel power.

    Args:
        encoder: the model.
        mel: mel power of whole sounds, shape (B, 128, F).
        patchings: concatenated in this order.

    Returns:
        Shape (B, D).
    """
    size, n_frames = encoder.config.chunk_frames, mel.shape[-1]
    full = n_frames // size
    total = mel.new_zeros(len(mel), len(patchings) * encoder.config.embed_dim)
    if full:
        chunks = mel[..., : full * size].unflatten(-1, (full, size)).transpose(1, 2).flatten(0, 1)
        embedded = [_embed(encoder, block, patchings) for block in chunks.split(CHUNKS_PER_PASS)]
        total = size * torch.cat(embedded).unflatten(0, (len(mel), full)).sum(1)
    if rest := n_frames - full * size:
        total = total + rest * _embed(encoder, mel[..., full * size :], patchings)
    return total / n_frames


def _embed(encoder: MynaEncoder, chunks: Tensor, patchings: tuple[str, ...]) -> Tensor:
    """Mean-pooled embeddings (N, D) of chunks (N, M, F)."""
    return torch.cat([encoder(fill_patches(chunks, p), p).float() for p in patchings], dim=-1)


def _columns(encoder: MynaEncoder, mel: Tensor, patchings: tuple[str, ...]) -> list[list[Tensor]]:
    """States of the patch columns of whole sounds: [patching][layer] (B, columns, D).

    Chunks overlap by half; where two give a column, the one it lies more centrally in counts
    more (`column_weights`).
    """
    batch, _, n_frames = mel.shape
    size = encoder.config.chunk_frames
    hop = overlap_hop(size)
    n_chunks = 1 + max(-(-(n_frames - size) // hop), 0)
    full = n_chunks if (n_chunks - 1) * hop + size <= n_frames else n_chunks - 1
    pieces = []  # (first chunk, states of the chunks' columns)
    if full:
        chunks = mel.unfold(-1, size, hop)[:, :, :full].transpose(1, 2).flatten(0, 1)
        pieces.append((0, _encode(encoder, chunks, patchings)))
    if full < n_chunks:
        pieces.append((full, _encode(encoder, mel[..., full * hop :], patchings)))
    merged = []
    for i, patching in enumerate(patchings):
        width = PATCHINGS[patching][1]
        weight = column_weights(size // width, mel.device)
        layers = []
        for k in range(encoder.config.depth):
            parts = [(first, states[i][k].unflatten(0, (batch, -1))) for first, states in pieces]
            layers.append(_overlap_add(parts, weight, hop // width, -(-n_frames // width)))
        merged.append(layers)
    return merged


def _encode(encoder: MynaEncoder, chunks: Tensor, patchings: tuple[str, ...]) -> list[list[Tensor]]:
    """States of the columns of chunks (N, M, F): [patching][layer] (N, columns, D)."""
    passes = [
        [_encode_pass(encoder, fill_patches(block, p), p) for p in patchings]
        for block in chunks.split(CHUNKS_PER_PASS)
    ]
    return [
        [torch.cat(blocks) for blocks in zip(*layers, strict=True)]
        for layers in zip(*passes, strict=True)
    ]


def _encode_pass(encoder: MynaEncoder, chunks: Tensor, patching: str) -> list[Tensor]:
    """Tokens after each block, the last one normed, averaged over the frequency rows."""
    rows = token_grid(patching, chunks.shape[-1])[0]
    tokens = encoder.tokens(chunks, patching)
    states = []
    for block in encoder.transformer.layers:
        tokens = block(tokens)
        states.append(tokens)
    states[-1] = encoder.transformer.norm(states[-1])
    return [state.float().unflatten(1, (rows, -1)).mean(1) for state in states]


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
