"""The plain Vision Transformer that Myna uses, with the parameter names of published checkpoints.

Source: paper §3.4; SimpleViT (Beyer et al. 2022): mean pooling instead of a class token, fixed
two-dimensional sine-cosine positions, pre-norm blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_DIM = 64


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


class Attention(nn.Module):
    """Multi-head self-attention, pre-norm, heads of 64, no biases: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * num_heads * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(num_heads * HEAD_DIM, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, n_tokens, _ = x.shape
        qkv = self.to_qkv(self.norm(x)).view(batch, n_tokens, 3, self.num_heads, HEAD_DIM)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).reshape(batch, n_tokens, -1))


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

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = x + layer(x)
        return x


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

    def states(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Tokens after some blocks, counted from 1, before the final norm: each (B, N, D)."""
        states = {}
        for layer, block in enumerate(self.layers[: max(layers)], start=1):
            x = block(x)
            if layer in layers:
                states[layer] = x
        return [states[layer] for layer in layers]
