"""Hidden states of every layer as sequences over time: what evaluators of speech and music read.

`Embedder` gives one layer without gradients. Evaluators pick or mix layers and may fine-tune,
so here every layer is kept and autograd is left on. Both share one time axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from myna_plugin.common.numbers import check_number
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.chunks import (
    SHORTEST_HOP_MS,
    Encoded,
    average_chunks,
    consecutive_frames,
    embed_moments,
    encode_chunks,
    frames_needed,
    pool_consecutive,
    pool_tokens,
    read_sequences,
    timestamp_grid,
)
from myna_plugin.model.encoder import MynaEncoder
from myna_plugin.model.spectrogram import MelSpectrogram

CHUNKS_PER_PASS = 64
"""Chunks encoded at a time: bounds memory where no gradients are kept, changes no result."""


class HiddenStates(nn.Module):
    """Waveforms -> the hidden states of all layers, a vector every `hop_ms`.

    The last state, which carries the transformer's final norm, is what
    `Embedder.embed_timestamps` returns of the last block; the others are read off
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
            hop_ms: milliseconds between vectors, a sample's 0.0625 at least.

        Raises:
            TypeError: `hop_ms` is no number.
            ValueError: it is outside its range, or the encoder lacks a patching.
        """
        super().__init__()
        for patching in patchings:
            encoder.tokenizer(patching)
        self.mel = MelSpectrogram()
        self.encoder = encoder
        self.patchings = patchings
        self.hop_ms = float(check_number("hop_ms", hop_ms, float, SHORTEST_HOP_MS))
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
    size, n_frames = encoder.config.chunk_frames, mel.shape[-1]
    layers = range(1, encoder.config.depth + 1)

    def encode(cuts: Sequence[Tensor]) -> list[Encoded]:
        return [encode_cut(cut) for cut in cuts]

    def encode_cut(chunks: Tensor) -> Encoded:
        passes = [
            encode_chunks(encoder, [block], patchings, layers, normed=False)[0]
            for block in chunks.split(CHUNKS_PER_PASS)
        ]
        encoded = [
            [torch.cat(blocks) for blocks in zip(*own, strict=True)]
            for own in zip(*passes, strict=True)
        ]
        return [[*states, encoder.transformer.norm(last)] for *states, last in encoded]

    _, positions = timestamp_grid(n_samples, hop_ms)
    start, stop = frames_needed(positions, patchings, n_frames, size)
    needed = mel[..., start:stop]
    return tuple(read_sequences(encode, needed, start, positions, patchings, n_frames, size))


def embed_scenes(
    encoder: MynaEncoder,
    mel: Tensor,
    patchings: tuple[str, ...],
    layers: tuple[int, ...],
    pooling: str,
) -> Tensor:
    """Scene embeddings that gradients flow through: `Embedder.embed_scenes` from mel power.

    Args:
        encoder: the model.
        mel: mel power of whole sounds, shape (B, 128, F).
        patchings: concatenated in this order, for each layer.
        layers: the blocks whose pooled tokens are joined.
        pooling: of `POOLINGS`.

    Returns:
        Shape (B, D).
    """
    size = encoder.config.chunk_frames

    def pool(cuts: Sequence[Tensor], _: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat([*pooled(cut.split(CHUNKS_PER_PASS))]) for cut in cuts]

    def pooled(blocks: Sequence[Tensor]) -> Iterator[Tensor]:
        for block in blocks:
            (encoded,) = encode_chunks(encoder, [block], patchings, layers)
            yield pool_tokens(encoded, pooling)

    frames = consecutive_frames(mel.shape[-1], size).to(mel.device)
    moments = average_chunks(pool_consecutive(pool, mel, size), frames)
    return embed_moments(moments, pooling, encoder.config.embed_dim)
