# The arguments of Triton kernels have no types that Python knows:
# mypy: disable-error-code="no-untyped-def,attr-defined"
"""Attention within short sequences, and its gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from myna_plugin.pretraining.step.kernels.launching import (
    HEAD_DIM,
    precision,
)


@triton.jit
def _attention_tile(
    qkv_ptr, tile, head, n_rows, heads, length, scale, PER_TILE: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Several whole sequences: q, k, v, block-diagonal probabilities, and where they are."""
    local = tl.arange(0, BLOCK)
    rows = tile.to(tl.int64) * (PER_TILE * length) + local
    # Rows past the last sequence form groups of their own, so that no softmax runs over nothing.
    sequence = tl.where(local < PER_TILE * length, local // length, PER_TILE + local)
    inside = (local < PER_TILE * length) & (rows < n_rows)
    inner = heads * HEAD_DIM
    at = rows[:, None] * (3 * inner) + head * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    q = tl.load(qkv_ptr + at, mask=inside[:, None], other=0)
    k = tl.load(qkv_ptr + at + inner, mask=inside[:, None], other=0)
    v = tl.load(qkv_ptr + at + 2 * inner, mask=inside[:, None], other=0)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    scores = tl.where(sequence[:, None] == sequence[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    return q, k, v, weights, at, rows, inside


@triton.jit
def _attention_kernel(
    qkv_ptr, out_ptr, n_rows, heads, length, scale,
    PER_TILE: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Heads run fastest, so that programs side by side share rows; one axis, as others are short.
    head = tl.program_id(0) % heads
    tile = tl.program_id(0) // heads
    _q, _k, v, weights, _at, rows, inside = _attention_tile(
        qkv_ptr, tile, head, n_rows, heads, length, scale, PER_TILE, BLOCK, PRECISION
    )
    out = tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
    at = rows[:, None] * (heads * HEAD_DIM) + head * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _attention_backward_kernel(
    qkv_ptr, dout_ptr, dqkv_ptr, n_rows, heads, length, scale,
    PER_TILE: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % heads
    tile = tl.program_id(0) // heads
    q, k, v, weights, at, rows, inside = _attention_tile(
        qkv_ptr, tile, head, n_rows, heads, length, scale, PER_TILE, BLOCK, PRECISION
    )
    inner = heads * HEAD_DIM
    out_at = rows[:, None] * inner + head * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    dout = tl.load(dout_ptr + out_at, mask=inside[:, None], other=0)
    dweights = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
    mixed = tl.sum(weights * dweights, 1)
    dscores = (weights * (dweights - mixed[:, None]) * scale).to(q.dtype)
    dv = tl.dot(tl.trans(weights.to(v.dtype)), dout, input_precision=PRECISION)
    dq = tl.dot(dscores, k, input_precision=PRECISION)
    dk = tl.dot(tl.trans(dscores), q, input_precision=PRECISION)
    kind = dqkv_ptr.dtype.element_ty
    tl.store(dqkv_ptr + at, dq.to(kind), mask=inside[:, None])
    tl.store(dqkv_ptr + at + inner, dk.to(kind), mask=inside[:, None])
    tl.store(dqkv_ptr + at + 2 * inner, dv.to(kind), mask=inside[:, None])


MAX_LENGTH = 64
"""Tokens of the longest sequence that `attention` takes; a full crop has 48."""


def attention_tile(length: int) -> tuple[int, int, int]:
    """Rows of a tile, whole sequences in it, and warps.

    >>> attention_tile(5), attention_tile(12), attention_tile(48)
    ((16, 3, 1), (32, 2, 2), (64, 1, 4))
    """
    if length > MAX_LENGTH:
        raise ValueError(f"attention in one tile takes at most {MAX_LENGTH} tokens, got {length}")
    block = 16 if length <= 8 else 32 if length <= 16 else 64
    return block, block // length, block // 16


def _launch_attention(kernel, tensors: tuple[Tensor, ...], length: int, heads: int, tile) -> None:
    qkv = tensors[0]
    block, per_tile, warps = tile or attention_tile(length)
    grid = (heads * triton.cdiv(len(qkv), per_tile * length),)
    kernel[grid](
        *tensors, len(qkv), heads, length, float(HEAD_DIM.value) ** -0.5,
        PER_TILE=per_tile, BLOCK=block, PRECISION=precision(qkv), num_warps=warps,
    )  # fmt: skip


def attention(
    qkv: Tensor, length: int, heads: int, tile: tuple[int, int, int] | None = None
) -> Tensor:
    """Multi-head self-attention within consecutive sequences.

    Whole sequences are packed into one tile and multiplied together under a block-diagonal mask:
    it wastes products, of which there are plenty, and reads and writes every number once.

    Args:
        qkv: queries, keys, values, each heads of 64; shape (T, 3 * heads * 64), T a multiple of
            `length`.
        length: tokens of a sequence, at most 64.
        heads: number of heads.
        tile: see `attention_tile`, which is asked when None.

    Returns:
        Shape (T, heads * 64).
    """
    out = torch.empty(len(qkv), qkv.shape[1] // 3, device=qkv.device, dtype=qkv.dtype)
    _launch_attention(_attention_kernel, (qkv, out), length, heads, tile)
    return out


def attention_backward(
    qkv: Tensor, dout: Tensor, length: int, heads: int, tile: tuple[int, int, int] | None = None
) -> Tensor:
    """Gradient of `qkv` from that of `attention`'s result; probabilities are computed again."""
    dqkv = torch.empty_like(qkv)
    _launch_attention(_attention_backward_kernel, (qkv, dout, dqkv), length, heads, tile)
    return dqkv
