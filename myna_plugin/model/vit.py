"""The plain Vision Transformer that Myna uses, with the parameter names of published checkpoints.

Source: paper §3.4; SimpleViT (Beyer et al. 2022): mean pooling instead of a class token, fixed
two-dimensional sine-cosine positions, pre-norm blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_DIM = 64

Groups = Sequence[tuple[int, int]]
"""Sequences of several lengths, one after the other: how many there are, and of how many tokens."""


def patchify(spectrogram: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Cut a spectrogram into flat, non-overlapping patches.

    Args:
        spectrogram: shape (B, M, F); M and F must be multiples of the patch's sides.
        patch_size: (mel bands, frames) of a patch.

    Returns:
        Shape (B, N, bands * frames): tokens run row-major over the grid of patches (all times of
        the lowest bands first), values row-major inside a patch.

    >>> patchify(torch.zeros(2, 128, 96), (16, 16)).shape
    torch.Size([2, 48, 256])
    """
    bands, frames = patch_size
    batch, n_mels, n_frames = spectrogram.shape
    if n_mels % bands or n_frames % frames:
        raise ValueError(
            f"{n_mels} bands by {n_frames} frames do not divide into patches of {bands} by {frames}"
        )
    grid = spectrogram.reshape(batch, n_mels // bands, bands, n_frames // frames, frames)
    return grid.transpose(2, 3).reshape(batch, -1, bands * frames)


def sincos_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed 2-D position codes, shape (rows * columns, dim), float32.

    Order [sin x, cos x, sin y, cos y] with x the column (time), y the row (frequency) and
    frequencies 10000^(-i / (dim/4 - 1)), i = 0 … dim/4 - 1.

    Source: Beyer et al. 2022.

    >>> sincos_positions(8, 6, 384).shape
    torch.Size([48, 384])
    """
    if dim % 4 or dim < 8:
        raise ValueError(f"position codes need a width divisible by 4 and of at least 8, got {dim}")
    omega = 10_000.0 ** -(torch.arange(dim // 4) / (dim // 4 - 1))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    x, y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


@cache
def onednn_pays() -> bool:
    """Whether oneDNN's products are faster than those that torch takes: on AMD with AVX-512.

    MKL, which torch takes, keeps to AVX2 there: measured in benchmarks/README.md. What has not been
    measured stays as it is.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # no public name: it may go
        return False
    known = torch.cpu.get_capabilities()
    return str(known.get("cpu_name", "")).startswith("AMD") and known.get("avx512_bf16", False)


def takes_onednn(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer's product is to be oneDNN's: in inference, of a plain linear layer."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if torch.is_grad_enabled() or traced or x.device.type != "cpu" or not onednn_pays():
        return False
    # Others may have replaced the layer, or hooked it.
    is_plain = type(layer) is nn.Linear and not layer._forward_hooks | layer._forward_pre_hooks
    return is_plain and layer.weight.dtype == x.dtype in (torch.float32, torch.bfloat16)


def project(layer: nn.Module, x: Tensor, after: str = "none") -> Tensor:
    """A linear layer, perhaps with "gelu" (the exact one) after it: (..., D) -> (..., E).

    What comes after is for those who know that the layer `takes_onednn`.
    """
    if not takes_onednn(layer, x):
        return layer(x)
    form = "none" if after == "gelu" else ""
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, after, [], form)


class Attention(nn.Module):
    """Multi-head self-attention, pre-norm, heads of 64, no biases: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * num_heads * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(num_heads * HEAD_DIM, dim, bias=False)

    def forward(self, x: Tensor, groups: Groups | None = None) -> Tensor:
        """The same of `groups`, one after the other: (T, D) -> (T, D)."""
        qkv = project(self.to_qkv, self.norm(x))
        if groups is None:
            return project(self.to_out, self._mix(qkv))
        parts = qkv.split([count * n_tokens for count, n_tokens in groups])
        mixed = [
            self._mix(part.view(*group, -1)).flatten(0, 1)
            for part, group in zip(parts, groups, strict=True)
        ]
        return project(self.to_out, torch.cat(mixed) if len(mixed) > 1 else mixed[0])

    def _mix(self, qkv: Tensor) -> Tensor:
        return self.attend(*self.split_heads(qkv)).flatten(2)

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, N, 64) out of one product (B, N, 3 · heads · 64)."""
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Values mixed by how much each token heeds each other: (B, N, heads, 64)."""
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)


class FeedForward(nn.Module):
    """Pre-norm two-layer perceptron with GELU: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        # Indices 0, 1 and 3 carry the parameters, as in published checkpoints.
        self.net = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and x.dtype != torch.float32 and not torch.is_grad_enabled():
            return self._forward_fused(x)
        norm, expand, _, contract = self.net
        if takes_onednn(expand, x):
            return project(contract, project(expand, norm(x), "gelu"))
        return self.net(x)

    def _forward_fused(self, x: Tensor) -> Tensor:
        """Product, bias and GELU in one CUDA kernel, for inference in half precision.

        The kernel's GELU is the tanh form, up to 5e-4 from the exact one: less than bfloat16
        rounds away, and unseen in the embeddings (error 0.3 % of the norm with and without).
        """
        norm, expand, contract = self.net[0], cast(nn.Linear, self.net[1]), self.net[3]
        flat = norm(x).flatten(0, -2)
        hidden = torch._addmm_activation(expand.bias, flat, expand.weight.t(), use_gelu=True)
        return contract(hidden).view_as(x)


class Block(nn.ModuleList):
    """Attention, then perceptron, each added to its input: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        # A list, because published checkpoints number the two: 0 and 1.
        super().__init__([Attention(dim, num_heads), FeedForward(dim, mlp_dim)])

    def forward(self, x: Tensor, groups: Groups | None = None) -> Tensor:
        """The same of `groups`, one after the other: (T, D) -> (T, D)."""
        attention, perceptron = self
        x = x + attention(x, groups)
        return x + perceptron(x)


class Transformer(nn.Module):
    """Pre-norm transformer encoder with a final norm: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(dim, num_heads, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x)
        return self.norm(x)

    def states(self, groups: Sequence[Tensor], layers: Sequence[int]) -> list[list[Tensor]]:
        """Tokens after some blocks, counted from 1, before the final norm.

        All goes through one pass: a token's products do not ask which sequence it is of, attention
        alone is computed for one length after the other.

        Args:
            groups: sequences, of one length in a group, each (B, N, D).
            layers: the blocks.

        Returns:
            [group][layer]: shaped as the group.
        """
        shapes = [tokens.shape[:2] for tokens in groups]
        lengths = groupby(shapes, key=lambda shape: shape[1])
        joined = [(sum(count for count, _ in same), length) for length, same in lengths]
        x = torch.cat([tokens.flatten(0, 1) for tokens in groups])
        states: dict[int, list[Tensor]] = {}
        for layer, block in enumerate(self.layers[: max(layers)], start=1):
            x = block(x, joined)
            if layer in layers:
                parts = x.split([count * length for count, length in shapes])
                states[layer] = [p.view(*own, -1) for p, own in zip(parts, shapes, strict=True)]
        return [[states[layer][i] for layer in layers] for i in range(len(groups))]
