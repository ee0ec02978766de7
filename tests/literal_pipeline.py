"""The published pipeline, written out slowly and literally: the oracle of the fast one.

nnAudio's mel of the whole file, consecutive chunks, every patch cut with Python loops, attention
head by head. It reads the weights from a state dict by their published names. What is not
published (the partial chunk, blocks before the last, timestamps) is written out the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from nnAudio.features import MelSpectrogram
from torch import Tensor
from torch.nn import functional

PATCHES = {"square": (16, 16), "vertical": (128, 2)}

TOKENIZERS = {
    "square": [("square", "to_patch_embedding")],
    "vertical": [("vertical", "to_patch_embedding")],
    "hybrid": [("square", "to_patch_embedding"), ("vertical", "to_patch_embedding_b")],
}


def whole_file_mel(waveform: Tensor) -> Tensor:
    """(1, S) -> (128, F)."""
    return MelSpectrogram(sr=16000, n_mels=128, verbose=False)(waveform)[0]


def cut_chunks(mel: Tensor, chunk_frames: int) -> list[Tensor]:
    whole = mel.shape[1] // chunk_frames
    return [mel[:, i * chunk_frames : (i + 1) * chunk_frames] for i in range(whole)]


def cut_patches(chunk: Tensor, patching: str) -> Tensor:
    bands, frames = PATCHES[patching]
    patches = [
        chunk[row : row + bands, column : column + frames].flatten()
        for row in range(0, chunk.shape[0], bands)
        for column in range(0, chunk.shape[1], frames)
    ]
    return torch.stack(patches)


def position_codes(rows: int, columns: int, dim: int) -> Tensor:
    codes = torch.empty(rows * columns, dim)
    quarter = dim // 4
    for y in range(rows):
        for x in range(columns):
            for i in range(quarter):
                omega = 1 / 10000 ** (i / (quarter - 1))
                token = codes[y * columns + x]
                token[i], token[quarter + i] = math.sin(x * omega), math.cos(x * omega)
                token[2 * quarter + i] = math.sin(y * omega)
                token[3 * quarter + i] = math.cos(y * omega)
    return codes


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    queries, keys, values = (
        norm(x, weights, f"{name}.norm") @ weights[f"{name}.to_qkv.weight"].T
    ).chunk(3, -1)
    heads = []
    for start in range(0, queries.shape[-1], 64):
        q, k, v = (t[:, start : start + 64] for t in (queries, keys, values))
        heads.append(torch.softmax(q @ k.T / 8, dim=-1) @ v)
    return torch.cat(heads, -1) @ weights[f"{name}.to_out.weight"].T


def kept_tokens(patching: str, columns: int, share: float, number: int) -> list[int]:
    """Which tokens, row-major, the chunk of some number keeps: evenly spaced over the columns read
    one after the other, each from three rows further down than the one before; six at least."""
    rows = 128 // PATCHES[patching][0]
    places = []
    for column in range(columns):
        for step in range(rows):
            row = (3 * column + step) % rows
            places.append(row * columns + column)
    count = min(max(math.ceil(share * len(places)), 6), len(places))
    offset = number % round(1 / share)
    return [places[(offset + i * len(places) // count) % len(places)] for i in range(count)]


def encode(
    chunk: Tensor,
    weights: dict[str, Tensor],
    patching: str,
    tokenizer: str,
    layer: int | None = None,
    kept: Sequence[int] | None = None,
) -> Tensor:
    """Tokens of one chunk after a block (None for the last) and the norm: (128, F) -> (N, D).

    All of them, or those that are kept before the first block.
    """
    x = norm(cut_patches(chunk, patching), weights, f"{tokenizer}.1")
    x = x @ weights[f"{tokenizer}.2.weight"].T + weights[f"{tokenizer}.2.bias"]
    x = norm(x, weights, f"{tokenizer}.3")
    bands, frames = PATCHES[patching]
    x = x + position_codes(chunk.shape[0] // bands, chunk.shape[1] // frames, x.shape[-1])
    x = x if kept is None else torch.stack([x[token] for token in kept])
    depth = 1 + max(int(k.split(".")[2]) for k in weights if k.startswith("transformer.layers."))
    for i in range(depth if layer is None else layer):
        x = x + attend(x, weights, f"transformer.layers.{i}.0")
        net = f"transformer.layers.{i}.1.net"
        hidden = norm(x, weights, f"{net}.0") @ weights[f"{net}.1.weight"].T
        hidden = functional.gelu(hidden + weights[f"{net}.1.bias"])
        x = x + hidden @ weights[f"{net}.3.weight"].T + weights[f"{net}.3.bias"]
    return norm(x, weights, "transformer.norm")


def embed_chunks(waveform: Tensor, weights: dict[str, Tensor], kind: str) -> Tensor:
    """Chunk embeddings of one sound, the rest dropped: (1, S) -> (K, D), D doubled for hybrid."""
    chunks = cut_chunks(whole_file_mel(waveform), 98 if kind == "vertical" else 96)
    tokenizers = TOKENIZERS[kind]
    return torch.stack(
        [
            torch.cat([encode(c, weights, patching, name).mean(0) for patching, name in tokenizers])
            for c in chunks
        ]
    )


def fill(chunk: Tensor, patching: str) -> Tensor:
    """Silence up to the next whole patch column: (128, F) -> (128, F')."""
    width = PATCHES[patching][1]
    filled = torch.zeros(chunk.shape[0], math.ceil(chunk.shape[1] / width) * width)
    filled[:, : chunk.shape[1]] = chunk
    return filled


def embed_scene(
    waveform: Tensor,
    weights: dict[str, Tensor],
    kind: str,
    layers: Sequence[int],
    share: float | None = None,
) -> Tensor:
    """Scene embedding of one sound: (1, S) -> (D for each patching of each layer,).

    Of all tokens, or of a share of each chunk's.
    """
    mel = whole_file_mel(waveform)
    total = torch.zeros(())
    size = 98 if kind == "vertical" else 96
    for start in range(0, mel.shape[1], size):
        chunk = mel[:, start : start + size]
        parts = []
        for layer in layers:
            for patching, name in TOKENIZERS[kind]:
                filled = fill(chunk, patching)
                columns = filled.shape[1] // PATCHES[patching][1]
                kept = None
                if share is not None:
                    kept = kept_tokens(patching, columns, share, start // size)
                parts.append(encode(filled, weights, patching, name, layer, kept).mean(0))
        total = total + chunk.shape[1] * torch.cat(parts)
    return total / mel.shape[1]


def token_statistics(
    waveform: Tensor, weights: dict[str, Tensor], kind: str, layers: Sequence[int]
) -> np.ndarray:
    """Mean, then deviation, over all tokens of a sound, for each patching of each layer, float64.

    A chunk's frames are divided among its tokens: what a token counts.
    """
    mel = whole_file_mel(waveform)
    size = 98 if kind == "vertical" else 96
    vector = []
    for layer in layers:
        for patching, name in TOKENIZERS[kind]:
            tokens, shares = [], []
            for start in range(0, mel.shape[1], size):
                chunk = mel[:, start : start + size]
                states = encode(fill(chunk, patching), weights, patching, name, layer).numpy()
                tokens += list(states.astype(np.float64))
                shares += [chunk.shape[1] / len(states)] * len(states)
            mean = np.average(tokens, axis=0, weights=shares)
            variance = np.average((np.array(tokens) - mean) ** 2, axis=0, weights=shares)
            vector += [mean, np.sqrt(variance)]
    return np.concatenate(vector)


def read_timestamps(
    mel: Tensor, times_ms: Sequence[float], patching: str, encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """One patching's timestamp embeddings of one sound, a chunk and a column at a time.

    Args:
        mel: of the whole sound, shape (128, F).
        times_ms: where to read.
        patching: its name.
        encode: tokens of a chunk of whole patches, (128, F) -> (N, D).

    Returns:
        Shape (T, D).
    """
    bands, width = PATCHES[patching]
    n_frames = mel.shape[1]
    n_columns = math.ceil(n_frames / width)
    total, weight = [0.0] * n_columns, [0.0] * n_columns
    start = 0
    while True:
        filled = fill(mel[:, start : start + 96], patching)
        columns = filled.shape[1] // width
        tokens = encode(filled)
        for column in range(columns):
            rows = [tokens[row * columns + column] for row in range(128 // bands)]
            centrality = 1 - abs((2 * column + 1) / (96 / width) - 1)
            total[start // width + column] += centrality * torch.stack(rows).mean(0)
            weight[start // width + column] += centrality
        if start + 96 >= n_frames:
            break
        start += 48
    vectors = []
    for time_ms in times_ms:
        place = min(max((time_ms / 32 - (width - 1) / 2) / width, 0), n_columns - 1)
        below = int(place)
        above = min(below + 1, n_columns - 1)
        before, after = total[below] / weight[below], total[above] / weight[above]
        vectors.append((1 - (place - below)) * before + (place - below) * after)
    return torch.stack(vectors)


def embed_windows(
    mel: Tensor, times_ms: Sequence[float], embed: Callable[[Tensor], Tensor]
) -> Tensor:
    """A whole chunk around each time, less of it at the sound's ends: (128, F) -> (T, D)."""
    centres = [round(time_ms / 32) for time_ms in times_ms]
    return torch.stack([embed(mel[:, max(c - 48, 0) : c + 48]) for c in centres])
