"""The published pipeline, written out slowly and literally: the oracle of the fast one.

nnAudio's mel of the whole file, consecutive chunks, the rest dropped, every patch cut with Python
loops, attention head by head. It reads the weights from a state dict by their published names.
"""

from __future__ import annotations

import math

import torch
from nnAudio.features import MelSpectrogram
from torch import Tensor
from torch.nn import functional

PATCHES = {"square": (16, 16), "vertical": (128, 2)}


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


def encode(chunk: Tensor, weights: dict[str, Tensor], patching: str, tokenizer: str) -> Tensor:
    """Encoded tokens of one chunk: (128, F) -> (N, D)."""
    x = norm(cut_patches(chunk, patching), weights, f"{tokenizer}.1")
    x = x @ weights[f"{tokenizer}.2.weight"].T + weights[f"{tokenizer}.2.bias"]
    x = norm(x, weights, f"{tokenizer}.3")
    bands, frames = PATCHES[patching]
    x = x + position_codes(chunk.shape[0] // bands, chunk.shape[1] // frames, x.shape[-1])
    depth = 1 + max(int(k.split(".")[2]) for k in weights if k.startswith("transformer.layers."))
    for i in range(depth):
        x = x + attend(x, weights, f"transformer.layers.{i}.0")
        net = f"transformer.layers.{i}.1.net"
        hidden = norm(x, weights, f"{net}.0") @ weights[f"{net}.1.weight"].T
        hidden = functional.gelu(hidden + weights[f"{net}.1.bias"])
        x = x + hidden @ weights[f"{net}.3.weight"].T + weights[f"{net}.3.bias"]
    return norm(x, weights, "transformer.norm")


def embed_chunks(waveform: Tensor, weights: dict[str, Tensor], kind: str) -> Tensor:
    """Chunk embeddings of one sound, the rest dropped: (1, S) -> (K, D), D doubled for hybrid."""
    chunks = cut_chunks(whole_file_mel(waveform), 98 if kind == "vertical" else 96)
    first, second = "to_patch_embedding", "to_patch_embedding_b"
    tokenizers = {
        "square": [("square", first)],
        "vertical": [("vertical", first)],
        "hybrid": [("square", first), ("vertical", second)],
    }[kind]
    return torch.stack(
        [
            torch.cat([encode(c, weights, patching, name).mean(0) for patching, name in tokenizers])
            for c in chunks
        ]
    )
