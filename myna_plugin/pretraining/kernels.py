# The arguments of Triton kernels have no types that Python knows:
# mypy: disable-error-code="no-untyped-def,attr-defined"
"""Triton kernels of the fast training step, and the functions that launch them.

Importing this module needs Triton; `acceleration.kernels_for` is how the rest asks for it. Every
kernel computes what a few lines of plain torch compute (`fused.PlainOperations`, `losses`,
`crops`), accumulates in float32, and takes float32, float16 or bfloat16.

What decides their shape: at 90 % masking a sequence has 5 tokens and a batch 82,000 of them, so all
but the matrix products is limited by memory traffic, and each array should be read and written as
few times as possible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

HEAD_DIM = tl.constexpr(64)
PATCH_AREA = tl.constexpr(256)
N_MELS = tl.constexpr(128)


def _processors(tensor: Tensor) -> int:
    """Multiprocessors of the tensor's device; 2 for the interpreter on a CPU."""
    if not tensor.is_cuda:
        return 2
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


# --------------------------------------------------------------------------------------
# LayerNorm, with the residual sum before it
# --------------------------------------------------------------------------------------


@triton.jit
def _add_norm_kernel(
    x_ptr, y_ptr, y_bias_ptr, weight_ptr, bias_ptr, extra_ptr, which_ptr,
    total_ptr, out_ptr, mean_ptr, rstd_ptr, n_rows, width, eps,
    HAS_Y: tl.constexpr, HAS_Y_BIAS: tl.constexpr, HAS_EXTRA: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    in_width = columns < width
    inside = (rows < n_rows)[:, None] & in_width[None, :]
    at = rows[:, None] * width + columns[None, :]
    value = tl.load(x_ptr + at, mask=inside, other=0).to(tl.float32)
    if HAS_Y:
        value += tl.load(y_ptr + at, mask=inside, other=0).to(tl.float32)
        if HAS_Y_BIAS:
            value += tl.load(y_bias_ptr + columns, mask=in_width, other=0).to(tl.float32)[None, :]
        stored = value.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + at, stored, mask=inside)
        value = stored.to(tl.float32)  # the norm sees what the backward pass will read
    mean = tl.sum(value, 1) / width
    centred = tl.where(inside, value - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    weight = tl.load(weight_ptr + columns, mask=in_width, other=0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=in_width, other=0).to(tl.float32)
    out = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    if HAS_EXTRA:
        which = tl.load(which_ptr + rows, mask=rows < n_rows, other=0)
        extra_at = which[:, None] * width + columns[None, :]
        out += tl.load(extra_ptr + extra_at, mask=inside, other=0).to(tl.float32)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(mean_ptr + rows, mean, mask=rows < n_rows)
    tl.store(rstd_ptr + rows, rstd, mask=rows < n_rows)


def add_norm(
    x: Tensor, y: Tensor | None, y_bias: Tensor | None, weight: Tensor, bias: Tensor, eps: float,
    extra: tuple[Tensor, Tensor] | None = None, out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """x + y + y_bias and its LayerNorm.

    Args:
        x: shape (T, D), contiguous, as is `y`.
        y: shape (T, D), or None to norm `x` itself.
        y_bias: shape (D,), or None.
        weight: LayerNorm's scale, shape (D,).
        bias: LayerNorm's shift, shape (D,).
        eps: added to the variance.
        extra: rows to add to the norm, shape (R, D), and which one for every row, int64, (T,).
        out: where to put the norm, shape (T, D).

    Returns:
        The sum (`x` itself without `y`), its norm, and the rows' mean and 1 / deviation.
    """
    n_rows, width = x.shape
    total = x if y is None else torch.empty_like(x)
    out = torch.empty_like(x) if out is None else out
    mean = torch.empty(n_rows, device=x.device, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    extra_rows, which = extra or (None, None)
    block = triton.next_power_of_2(width)
    rows = max(1, 4096 // block)
    _add_norm_kernel[(triton.cdiv(n_rows, rows),)](
        x, y, y_bias, weight, bias, extra_rows, which, total, out, mean, rstd, n_rows, width, eps,
        HAS_Y=y is not None, HAS_Y_BIAS=y_bias is not None, HAS_EXTRA=extra is not None,
        ROWS=rows, WIDTH=block, num_warps=4,
    )  # fmt: skip
    return total, out, mean, rstd


@triton.jit
def _norm_backward_kernel(
    dout_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, residual_ptr, dx_ptr, partial_ptr,
    n_rows, width,
    HAS_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, WIDTH)
    in_width = columns < width
    weight = tl.load(weight_ptr + columns, mask=in_width, other=0).to(tl.float32)
    dweight = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    dbias = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    dx_sum = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0)):
        rows = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < n_rows)[:, None] & in_width[None, :]
        at = rows[:, None] * width + columns[None, :]
        dout = tl.load(dout_ptr + at, mask=inside, other=0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=inside, other=0).to(tl.float32)
        mean = tl.load(mean_ptr + rows, mask=rows < n_rows, other=0)
        rstd = tl.load(rstd_ptr + rows, mask=rows < n_rows, other=0)
        normed = tl.where(inside, (x - mean[:, None]) * rstd[:, None], 0.0)
        weighted = dout * weight[None, :]
        shift = tl.sum(weighted, 1) / width
        slope = tl.sum(weighted * normed, 1) / width
        dx = (weighted - shift[:, None] - normed * slope[:, None]) * rstd[:, None]
        if HAS_RESIDUAL:
            dx += tl.load(residual_ptr + at, mask=inside, other=0).to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        dweight += dout * normed
        dbias += dout
        dx_sum += tl.where(inside, dx, 0.0)
    at = partial_ptr + tl.program_id(0) * width + columns
    size = tl.num_programs(0) * width
    tl.store(at, tl.sum(dweight, 0), mask=in_width)
    tl.store(at + size, tl.sum(dbias, 0), mask=in_width)
    tl.store(at + 2 * size, tl.sum(dx_sum, 0), mask=in_width)


def norm_backward(
    dout: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradient of LayerNorm's input, plus the gradient that passes by it.

    Args:
        dout: gradient of the norm's output, shape (T, D).
        x: the norm's input, shape (T, D).
        mean: of each row, shape (T,).
        rstd: 1 / deviation of each row, shape (T,).
        weight: LayerNorm's scale, shape (D,).
        residual: a gradient to add to the result, shape (T, D), or None.

    Returns:
        The gradient of `x`, (T, D), and sums over rows, float32 (3, D): gradients of scale and
        shift, and the sum of the first result.
    """
    n_rows, width = x.shape
    block = triton.next_power_of_2(width)
    rows = max(1, 2048 // block)
    programs = min(triton.cdiv(n_rows, rows), 4 * _processors(x))
    dx = torch.empty_like(x)
    partial = torch.empty(3, programs, width, device=x.device, dtype=torch.float32)
    _norm_backward_kernel[(programs,)](
        dout, x, mean, rstd, weight, residual, dx, partial, n_rows, width,
        HAS_RESIDUAL=residual is not None, ROWS=rows, WIDTH=block, num_warps=4,
    )  # fmt: skip
    return dx, partial.sum(1)


# --------------------------------------------------------------------------------------
# Attention within short sequences
# --------------------------------------------------------------------------------------


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

    >>> attention_tile(5), attention_tile(48)
    ((32, 6, 2), (64, 1, 4))
    """
    if length > MAX_LENGTH:
        raise ValueError(f"attention in one tile takes at most {MAX_LENGTH} tokens, got {length}")
    block = 32 if length <= 16 else 64
    return block, block // length, block // 16


def _launch_attention(kernel, tensors: tuple[Tensor, ...], length: int, heads: int, tile) -> None:
    qkv = tensors[0]
    block, per_tile, warps = tile or attention_tile(length)
    grid = (heads * triton.cdiv(len(qkv), per_tile * length),)
    kernel[grid](
        *tensors, len(qkv), heads, length, float(HEAD_DIM.value) ** -0.5,
        PER_TILE=per_tile, BLOCK=block, PRECISION=_precision(qkv), num_warps=warps,
    )  # fmt: skip


def _precision(tensor: Tensor) -> str:
    # Three products of tf32 parts give float32 its precision; half precision ignores this.
    return "tf32x3" if tensor.dtype == torch.float32 else "tf32"


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


# --------------------------------------------------------------------------------------
# GELU
# --------------------------------------------------------------------------------------


@triton.jit
def _normal_distribution(x):
    """Cumulative distribution and density of the standard normal at x.

    The error function by Abramowitz & Stegun 7.1.26 (absolute error below 1.5e-7, i.e. exact for
    float32's purposes here), which shares its one exponential with the density.
    """
    tail = tl.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + 0.23164189 * tl.abs(x))
    poly = 1.061405429 * t - 1.453152027
    poly = poly * t + 1.421413741
    poly = poly * t - 0.284496736
    poly = poly * t + 0.254829592
    half = 0.5 * poly * t * tail
    return tl.where(x >= 0, 1.0 - half, half), 0.3989422804014327 * tail


@triton.jit
def _gelu_kernel(
    h_ptr, bias_ptr, out_ptr, n_rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    n_column_tiles = tl.cdiv(width, COLUMNS)
    rows = (tl.program_id(0) // n_column_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) % n_column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
    at = rows[:, None] * width + columns[None, :]
    x = tl.load(h_ptr + at, mask=inside, other=0).to(tl.float32)
    x += tl.load(bias_ptr + columns, mask=columns < width, other=0).to(tl.float32)[None, :]
    cdf, _ = _normal_distribution(x)
    tl.store(out_ptr + at, (x * cdf).to(out_ptr.dtype.element_ty), mask=inside)


def gelu(h: Tensor, bias: Tensor) -> Tensor:
    """GELU(h + bias), exact (not the tanh form): (T, M), (M,) -> (T, M)."""
    n_rows, width = h.shape
    out = torch.empty_like(h)
    grid = (triton.cdiv(width, 512) * triton.cdiv(n_rows, 8),)
    _gelu_kernel[grid](h, bias, out, n_rows, width, ROWS=8, COLUMNS=512, num_warps=4)
    return out


@triton.jit
def _gelu_backward_kernel(
    dout_ptr, h_ptr, bias_ptr, dh_ptr, partial_ptr, n_rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    in_width = columns < width
    bias = tl.load(bias_ptr + columns, mask=in_width, other=0).to(tl.float32)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(n_rows, ROWS), tl.num_programs(1)):
        rows = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < n_rows)[:, None] & in_width[None, :]
        at = rows[:, None] * width + columns[None, :]
        x = tl.load(h_ptr + at, mask=inside, other=0).to(tl.float32) + bias[None, :]
        dout = tl.load(dout_ptr + at, mask=inside, other=0).to(tl.float32)
        cdf, density = _normal_distribution(x)
        dh = dout * (cdf + x * density)
        tl.store(dh_ptr + at, dh.to(dh_ptr.dtype.element_ty), mask=inside)
        total += dh
    tl.store(partial_ptr + tl.program_id(1) * width + columns, tl.sum(total, 0), mask=in_width)


def gelu_backward(dout: Tensor, h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `gelu`'s two arguments: (T, M) and float32 (M,)."""
    n_rows, width = h.shape
    dh = torch.empty_like(h)
    blocks = triton.cdiv(width, 512)
    programs = min(triton.cdiv(n_rows, 4), max(1, 4 * _processors(h) // blocks))
    partial = torch.empty(programs, width, device=h.device, dtype=torch.float32)
    _gelu_backward_kernel[(blocks, programs)](
        dout, h, bias, dh, partial, n_rows, width, ROWS=4, COLUMNS=512, num_warps=4
    )
    return dh, partial.sum(0)


# --------------------------------------------------------------------------------------
# Matrix products with GELU in their epilogue
# --------------------------------------------------------------------------------------


@triton.jit
def _halves(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The left and the right half of a tile, so that an epilogue holds half as much at once."""
    parted = tl.permute(tl.reshape(tile, (ROWS, 2, COLUMNS // 2)), (0, 2, 1))
    return tl.split(parted)


@triton.jit
def _store_gelu(h_desc, out_desc, bias_ptr, total, row, column, COLUMNS: tl.constexpr):
    h = total.to(h_desc.dtype)
    h_desc.store([row, column], h)
    bias = tl.load(bias_ptr + column + tl.arange(0, COLUMNS)).to(tl.float32)
    shifted = h.to(tl.float32) + bias[None, :]
    cdf, _ = _normal_distribution(shifted)
    out_desc.store([row, column], (shifted * cdf).to(out_desc.dtype))


@triton.jit
def _linear_gelu_kernel(
    x_desc, weight_desc, bias_ptr, h_desc, out_desc, n_rows, width, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    n_column_tiles = tl.cdiv(width, COLUMNS)
    n_tiles = tl.cdiv(n_rows, ROWS) * n_column_tiles
    half: tl.constexpr = COLUMNS // 2
    for tile in tl.range(tl.program_id(0), n_tiles, tl.num_programs(0), flatten=FLATTEN):
        row = tile // n_column_tiles * ROWS
        column = tile % n_column_tiles * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for step in range(tl.cdiv(depth, DEPTH)):
            x = x_desc.load([row, step * DEPTH])
            weight = weight_desc.load([column, step * DEPTH])
            total = tl.dot(x, weight.T, total)
        left, right = _halves(total, ROWS, COLUMNS)
        _store_gelu(h_desc, out_desc, bias_ptr, left, row, column, half)
        _store_gelu(h_desc, out_desc, bias_ptr, right, row, column + half, half)


@triton.jit
def _store_gelu_backward(
    h_desc, dh_desc, bias_ptr, partial_ptr, total, row, column, COLUMNS: tl.constexpr
):
    columns = column + tl.arange(0, COLUMNS)
    bias = tl.load(bias_ptr + columns).to(tl.float32)
    x = h_desc.load([row, column]).to(tl.float32) + bias[None, :]
    cdf, density = _normal_distribution(x)
    dh = total * (cdf + x * density)
    dh_desc.store([row, column], dh.to(dh_desc.dtype))
    # Rows past the end were read as zeros, so they add nothing.
    tl.store(partial_ptr + columns, tl.sum(dh, 0))


@triton.jit
def _linear_gelu_backward_kernel(
    dy_desc, weight_desc, h_desc, bias_ptr, dh_desc, partial_ptr, n_rows, width, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    n_column_tiles = tl.cdiv(width, COLUMNS)
    n_tiles = tl.cdiv(n_rows, ROWS) * n_column_tiles
    half: tl.constexpr = COLUMNS // 2
    for tile in tl.range(tl.program_id(0), n_tiles, tl.num_programs(0), flatten=FLATTEN):
        row = tile // n_column_tiles * ROWS
        column = tile % n_column_tiles * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for step in range(tl.cdiv(depth, DEPTH)):
            dy = dy_desc.load([row, step * DEPTH])
            weight = weight_desc.load([step * DEPTH, column])
            total = tl.dot(dy, weight, total)
        left, right = _halves(total, ROWS, COLUMNS)
        partial = partial_ptr + tile // n_column_tiles * width
        _store_gelu_backward(h_desc, dh_desc, bias_ptr, partial, left, row, column, half)
        _store_gelu_backward(h_desc, dh_desc, bias_ptr, partial, right, row, column + half, half)


Config = dict[str, int | bool]
"""Tile sides, warps, stages and programs per multiprocessor of a matrix product."""

GELU_CONFIG: Config = {
    "ROWS": 128, "COLUMNS": 128, "DEPTH": 64, "FLATTEN": False,
    "num_warps": 8, "num_stages": 3, "per_processor": 2,
}  # fmt: skip


def _split_config(config: Config) -> tuple[Config, int]:
    rest = dict(config)
    return rest, int(rest.pop("per_processor"))


def linear_gelu(
    x: Tensor, weight: Tensor, bias: Tensor, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """h = x weight^T and GELU(h + bias) in one pass.

    Args:
        x: float16 or bfloat16, shape (T, K).
        weight: same dtype, shape (M, K); M a multiple of the tile's columns.
        bias: shape (M,).
        config: tile sides and launch settings.

    Returns:
        h and the activation, both (T, M).
    """
    options, per_processor = _split_config(config or GELU_CONFIG)
    (n_rows, depth), width = x.shape, len(weight)
    rows, columns, step = options["ROWS"], options["COLUMNS"], options["DEPTH"]
    h = torch.empty(n_rows, width, device=x.device, dtype=x.dtype)
    out = torch.empty_like(h)
    tiles = triton.cdiv(n_rows, rows) * triton.cdiv(width, columns)
    _linear_gelu_kernel[(min(tiles, per_processor * _processors(x)),)](
        TensorDescriptor.from_tensor(x, [rows, step]),
        TensorDescriptor.from_tensor(weight, [columns, step]),
        bias,
        TensorDescriptor.from_tensor(h, [rows, columns // 2]),
        TensorDescriptor.from_tensor(out, [rows, columns // 2]),
        n_rows, width, depth, **options,
    )  # fmt: skip
    return h, out


def linear_gelu_backward(
    dy: Tensor, weight: Tensor, h: Tensor, bias: Tensor, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """Gradient of h and bias where y = GELU(h + bias) weight^T, in one pass.

    Args:
        dy: float16 or bfloat16, shape (T, K).
        weight: same dtype, shape (K, M); M a multiple of the tile's columns.
        h: shape (T, M).
        bias: shape (M,).
        config: tile sides and launch settings.

    Returns:
        Gradients of h, (T, M), and of the bias, float32 (M,).
    """
    options, per_processor = _split_config(config or GELU_CONFIG)
    (n_rows, depth), width = dy.shape, weight.shape[1]
    rows, columns, step = options["ROWS"], options["COLUMNS"], options["DEPTH"]
    dh = torch.empty_like(h)
    row_tiles = triton.cdiv(n_rows, rows)
    tiles = row_tiles * triton.cdiv(width, columns)
    partial = torch.empty(row_tiles, width, device=dy.device, dtype=torch.float32)
    _linear_gelu_backward_kernel[(min(tiles, per_processor * _processors(dy)),)](
        TensorDescriptor.from_tensor(dy, [rows, step]),
        TensorDescriptor.from_tensor(weight, [step, columns]),
        TensorDescriptor.from_tensor(h, [rows, columns // 2]),
        bias,
        TensorDescriptor.from_tensor(dh, [rows, columns // 2]),
        partial,
        n_rows, width, depth, **options,
    )  # fmt: skip
    return dh, partial.sum(0)


# --------------------------------------------------------------------------------------
# Matrix products with the residual sum and LayerNorm in their epilogue
# --------------------------------------------------------------------------------------


@triton.jit
def _add_residual(total, residual_desc, total_desc, y_bias_ptr, row, column, PIECE: tl.constexpr,
                  HAS_Y_BIAS: tl.constexpr):  # fmt: skip
    """The sum as it is stored, a part of the row at a time."""
    total += residual_desc.load([row, column]).to(tl.float32)
    if HAS_Y_BIAS:
        total += tl.load(y_bias_ptr + column + tl.arange(0, PIECE)).to(tl.float32)[None, :]
    stored = total.to(total_desc.dtype)
    total_desc.store([row, column], stored)
    return stored.to(tl.float32)


@triton.jit
def _store_normed(centred, rstd, out_desc, weight_ptr, bias_ptr, row, column, PIECE: tl.constexpr):
    columns = column + tl.arange(0, PIECE)
    weight = tl.load(weight_ptr + columns).to(tl.float32)
    bias = tl.load(bias_ptr + columns).to(tl.float32)
    out = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    out_desc.store([row, column], out.to(out_desc.dtype))


@triton.jit
def _linear_add_norm_kernel(
    y_desc, y_weight_desc, residual_desc, y_bias_ptr, weight_ptr, bias_ptr,
    total_desc, out_desc, mean_ptr, rstd_ptr, n_rows, depth, eps,
    HAS_Y_BIAS: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    for tile in range(tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0)):
        row = tile * ROWS
        a = tl.zeros((ROWS, PIECE), dtype=tl.float32)
        b = tl.zeros((ROWS, PIECE), dtype=tl.float32)
        c = tl.zeros((ROWS, PIECE), dtype=tl.float32)
        for step in range(tl.cdiv(depth, DEPTH)):
            y = y_desc.load([row, step * DEPTH])
            a = tl.dot(y, y_weight_desc.load([0, step * DEPTH]).T, a)
            b = tl.dot(y, y_weight_desc.load([PIECE, step * DEPTH]).T, b)
            c = tl.dot(y, y_weight_desc.load([2 * PIECE, step * DEPTH]).T, c)
        a = _add_residual(a, residual_desc, total_desc, y_bias_ptr, row, 0, PIECE, HAS_Y_BIAS)
        b = _add_residual(b, residual_desc, total_desc, y_bias_ptr, row, PIECE, PIECE, HAS_Y_BIAS)
        c = _add_residual(
            c, residual_desc, total_desc, y_bias_ptr, row, 2 * PIECE, PIECE, HAS_Y_BIAS
        )
        mean = (tl.sum(a, 1) + tl.sum(b, 1) + tl.sum(c, 1)) / (3 * PIECE)
        a -= mean[:, None]
        b -= mean[:, None]
        c -= mean[:, None]
        variance = (tl.sum(a * a, 1) + tl.sum(b * b, 1) + tl.sum(c * c, 1)) / (3 * PIECE)
        rstd = tl.rsqrt(variance + eps)
        _store_normed(a, rstd, out_desc, weight_ptr, bias_ptr, row, 0, PIECE)
        _store_normed(b, rstd, out_desc, weight_ptr, bias_ptr, row, PIECE, PIECE)
        _store_normed(c, rstd, out_desc, weight_ptr, bias_ptr, row, 2 * PIECE, PIECE)
        rows = row + tl.arange(0, ROWS)
        tl.store(mean_ptr + rows, mean, mask=rows < n_rows)
        tl.store(rstd_ptr + rows, rstd, mask=rows < n_rows)


@triton.jit
def _begin_norm_backward(
    dout, x_desc, mean, rstd, weight_ptr, partial_ptr, size, row, column, PIECE: tl.constexpr
):
    """Gradient times scale, its sums along rows, and the norm's own gradients, for a part."""
    columns = column + tl.arange(0, PIECE)
    normed = (x_desc.load([row, column]).to(tl.float32) - mean[:, None]) * rstd[:, None]
    # Rows past the end were read as zeros, so they add nothing to the sums over rows.
    tl.store(partial_ptr + columns, tl.sum(dout * normed, 0))
    tl.store(partial_ptr + size + columns, tl.sum(dout, 0))
    weighted = dout * tl.load(weight_ptr + columns).to(tl.float32)[None, :]
    return weighted, tl.sum(weighted, 1), tl.sum(weighted * normed, 1)


@triton.jit
def _end_norm_backward(
    weighted, x_desc, residual_desc, dx_desc, mean, rstd, shift, slope, partial_ptr, row, column,
    PIECE: tl.constexpr,
):  # fmt: skip
    normed = (x_desc.load([row, column]).to(tl.float32) - mean[:, None]) * rstd[:, None]
    dx = (weighted - shift[:, None] - normed * slope[:, None]) * rstd[:, None]
    dx += residual_desc.load([row, column]).to(tl.float32)
    dx_desc.store([row, column], dx.to(dx_desc.dtype))
    tl.store(partial_ptr + column + tl.arange(0, PIECE), tl.sum(dx, 0))


@triton.jit
def _linear_norm_backward_kernel(
    dy_desc, y_weight_desc, x_desc, mean_ptr, rstd_ptr, weight_ptr, residual_desc,
    dx_desc, partial_ptr, n_rows, depth,
    PIECE: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    n_tiles = tl.cdiv(n_rows, ROWS)
    size = n_tiles * (3 * PIECE)
    for tile in range(tl.program_id(0), n_tiles, tl.num_programs(0)):
        row = tile * ROWS
        a = tl.zeros((ROWS, PIECE), dtype=tl.float32)
        b = tl.zeros((ROWS, PIECE), dtype=tl.float32)
        c = tl.zeros((ROWS, PIECE), dtype=tl.float32)
        for step in range(tl.cdiv(depth, DEPTH)):
            dy = dy_desc.load([row, step * DEPTH])
            a = tl.dot(dy, y_weight_desc.load([step * DEPTH, 0]), a)
            b = tl.dot(dy, y_weight_desc.load([step * DEPTH, PIECE]), b)
            c = tl.dot(dy, y_weight_desc.load([step * DEPTH, 2 * PIECE]), c)
        rows = row + tl.arange(0, ROWS)
        mean = tl.load(mean_ptr + rows, mask=rows < n_rows, other=0)
        rstd = tl.load(rstd_ptr + rows, mask=rows < n_rows, other=0)
        partial = partial_ptr + tile * (3 * PIECE)
        a, a_sum, a_slope = _begin_norm_backward(
            a, x_desc, mean, rstd, weight_ptr, partial, size, row, 0, PIECE
        )
        b, b_sum, b_slope = _begin_norm_backward(
            b, x_desc, mean, rstd, weight_ptr, partial, size, row, PIECE, PIECE
        )
        c, c_sum, c_slope = _begin_norm_backward(
            c, x_desc, mean, rstd, weight_ptr, partial, size, row, 2 * PIECE, PIECE
        )
        shift = (a_sum + b_sum + c_sum) / (3 * PIECE)
        slope = (a_slope + b_slope + c_slope) / (3 * PIECE)
        partial += 2 * size
        _end_norm_backward(
            a, x_desc, residual_desc, dx_desc, mean, rstd, shift, slope, partial, row, 0, PIECE
        )
        _end_norm_backward(
            b, x_desc, residual_desc, dx_desc, mean, rstd, shift, slope, partial, row, PIECE, PIECE
        )
        _end_norm_backward(
            c, x_desc, residual_desc, dx_desc, mean, rstd, shift, slope, partial, row, 2 * PIECE,
            PIECE,
        )  # fmt: skip


NORM_CONFIG: Config = {
    "ROWS": 128, "DEPTH": 64, "num_warps": 8, "num_stages": 3, "per_processor": 1,
}  # fmt: skip


def row_piece(width: int) -> int | None:
    """A third of a row's width where one tile can hold three such parts, else None.

    >>> row_piece(384), row_piece(192), row_piece(768)
    (128, 64, None)
    """
    piece = width // 3
    return piece if width == 3 * piece and piece in (32, 64, 128) else None


def _piece(width: int) -> int:
    piece = row_piece(width)
    if piece is None:
        raise ValueError(f"rows of {width} are not three parts of 32, 64 or 128")
    return piece


def linear_add_norm(
    y: Tensor, y_weight: Tensor, y_bias: Tensor | None, residual: Tensor,
    weight: Tensor, bias: Tensor, eps: float, config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`add_norm(residual, y y_weight^T, y_bias, …)` in one pass, for rows that one tile can hold.

    Args:
        y: float16 or bfloat16, shape (T, K).
        y_weight: same dtype, shape (D, K), D as `row_piece` allows.
        y_bias: shape (D,), or None.
        residual: shape (T, D).
        weight: LayerNorm's scale, shape (D,).
        bias: LayerNorm's shift, shape (D,).
        eps: added to the variance.
        config: tile sides and launch settings.

    Returns:
        As `add_norm`.
    """
    options, per_processor = _split_config(config or NORM_CONFIG)
    (n_rows, depth), width = y.shape, len(y_weight)
    piece, rows, step = _piece(width), options["ROWS"], options["DEPTH"]
    total = torch.empty_like(residual)
    out = torch.empty_like(residual)
    mean = torch.empty(n_rows, device=y.device, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    programs = min(triton.cdiv(n_rows, rows), per_processor * _processors(y))
    _linear_add_norm_kernel[(programs,)](
        TensorDescriptor.from_tensor(y, [rows, step]),
        TensorDescriptor.from_tensor(y_weight, [piece, step]),
        TensorDescriptor.from_tensor(residual, [rows, piece]),
        y_bias, weight, bias,
        TensorDescriptor.from_tensor(total, [rows, piece]),
        TensorDescriptor.from_tensor(out, [rows, piece]),
        mean, rstd, n_rows, depth, eps,
        HAS_Y_BIAS=y_bias is not None, PIECE=piece, **options,
    )  # fmt: skip
    return total, out, mean, rstd


def linear_norm_backward(
    dy: Tensor, y_weight: Tensor, x: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor, residual: Tensor, config: Config | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`norm_backward(dy y_weight, x, …, residual)` in one pass, for rows that one tile can hold.

    Args:
        dy: float16 or bfloat16, shape (T, K).
        y_weight: same dtype, shape (K, D), D as `row_piece` allows.
        x: the norm's input, shape (T, D).
        mean: of each row, shape (T,).
        rstd: 1 / deviation of each row, shape (T,).
        weight: LayerNorm's scale, shape (D,).
        residual: a gradient to add to the result, shape (T, D).
        config: tile sides and launch settings.

    Returns:
        As `norm_backward`.
    """
    options, per_processor = _split_config(config or NORM_CONFIG)
    (n_rows, depth), width = dy.shape, y_weight.shape[1]
    piece, rows, step = _piece(width), options["ROWS"], options["DEPTH"]
    dx = torch.empty_like(x)
    tiles = triton.cdiv(n_rows, rows)
    partial = torch.empty(3, tiles, width, device=x.device, dtype=torch.float32)
    _linear_norm_backward_kernel[(min(tiles, per_processor * _processors(dy)),)](
        TensorDescriptor.from_tensor(dy, [rows, step]),
        TensorDescriptor.from_tensor(y_weight, [step, piece]),
        TensorDescriptor.from_tensor(x, [rows, piece]),
        mean, rstd, weight,
        TensorDescriptor.from_tensor(residual, [rows, piece]),
        TensorDescriptor.from_tensor(dx, [rows, piece]),
        partial, n_rows, depth, PIECE=piece, **options,
    )  # fmt: skip
    return dx, partial.sum(1)


# --------------------------------------------------------------------------------------
# Crop, patchify, mask and norm in one gather
# --------------------------------------------------------------------------------------


@triton.jit
def _gather_kernel(
    frames_ptr, starts_ptr, tokens_ptr, out_ptr, n_rows, visible, columns, eps,
    BANDS: tl.constexpr, FRAMES: tl.constexpr, LOG: tl.constexpr, NORM: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < n_rows
    token = tl.load(tokens_ptr + rows, mask=inside, other=0)
    start = tl.load(starts_ptr + rows // visible, mask=inside, other=0)
    first = (start + token % columns * FRAMES) * N_MELS + token // columns * BANDS
    # Read in memory's order (bands run fastest), so that neighbours are read together.
    step = tl.arange(0, FRAMES)[:, None] * N_MELS + tl.arange(0, BANDS)[None, :]
    at = first[:, None, None] + step[None, :, :]
    value = tl.load(frames_ptr + at, mask=inside[:, None, None], other=0).to(tl.float32)
    if LOG:
        value = tl.log(1.0 + value)
    patch = tl.reshape(tl.permute(value, (0, 2, 1)), (ROWS, PATCH_AREA))
    if NORM:
        patch -= (tl.sum(patch, 1) / PATCH_AREA)[:, None]
        patch *= tl.rsqrt(tl.sum(patch * patch, 1) / PATCH_AREA + eps)[:, None]
    out_at = rows.to(tl.int64)[:, None] * PATCH_AREA + tl.arange(0, PATCH_AREA)[None, :]
    tl.store(out_ptr + out_at, patch.to(out_ptr.dtype.element_ty), mask=inside[:, None])


def gather_patches(
    frames: Tensor, starts: Tensor, tokens: Tensor, patch_size: tuple[int, int], columns: int,
    dtype: torch.dtype, log_mel: bool = False, norm_eps: float | None = None,
) -> Tensor:  # fmt: skip
    """Visible patches of crops straight from stored frames, normed if asked.

    Args:
        frames: mel power, time-major, shape (all frames, 128), contiguous.
        starts: first frame of every crop, int64, shape (V,).
        tokens: visible token numbers, int64, shape (V, visible).
        patch_size: (mel bands, frames); 256 numbers together.
        columns: columns of the crop's grid of patches.
        dtype: of the result.
        log_mel: whether to take log(1 + x) first.
        norm_eps: None for patches as they are; a number scales each to mean 0 and variance 1.

    Returns:
        Patches in `vit.patchify`'s order of values, shape (V, visible, 256).
    """
    bands, n_frames = patch_size
    out = torch.empty(*tokens.shape, PATCH_AREA.value, device=frames.device, dtype=dtype)
    _gather_kernel[(triton.cdiv(tokens.numel(), 8),)](
        frames, starts, tokens, out, tokens.numel(), tokens.shape[1], columns, norm_eps or 0.0,
        BANDS=bands, FRAMES=n_frames, LOG=log_mel, NORM=norm_eps is not None, ROWS=8, num_warps=4,
    )  # fmt: skip
    return out


# --------------------------------------------------------------------------------------
# Log denominators of the contrastive losses
# --------------------------------------------------------------------------------------


@triton.jit
def _similarity_tile(
    z, all_ptr, rows, columns, n_views, n_columns, offset, width, scale,
    WITH_POSITIVE: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Vectors of some columns and (s_ij - 1) / tau, -inf where j is not in i's denominator."""
    at = columns.to(tl.int64)[:, None] * width + tl.arange(0, WIDTH)[None, :]
    inside = (columns < n_columns)[:, None] & (tl.arange(0, WIDTH) < width)[None, :]
    others = tl.load(all_ptr + at, mask=inside, other=0)
    similarity = tl.dot(z, tl.trans(others), input_precision=PRECISION) * scale - scale
    pairs = n_views // 2
    all_pairs = n_columns // 2
    out = (rows % pairs + offset)[:, None] == (columns % all_pairs)[None, :]
    if WITH_POSITIVE:
        out = out & ((rows // pairs)[:, None] == (columns // all_pairs)[None, :])
    out = out | (columns >= n_columns)[None, :]
    return others, tl.where(out, float("-inf"), similarity)


@triton.jit
def _log_denominators_kernel(
    unit_ptr, all_ptr, partial_ptr, n_views, n_columns, offset, width, scale,
    WITH_POSITIVE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = (group * n_views + rows)[:, None] * width + tl.arange(0, WIDTH)[None, :]
    inside = (rows < n_views)[:, None] & (tl.arange(0, WIDTH) < width)[None, :]
    z = tl.load(unit_ptr + at, mask=inside, other=0)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(n_columns, COLUMNS), tl.num_programs(1)):
        _, similarity = _similarity_tile(
            z, all_ptr + group * n_columns * width, rows, block * COLUMNS + tl.arange(0, COLUMNS),
            n_views, n_columns, offset, width, scale, WITH_POSITIVE, WIDTH, PRECISION,
        )  # fmt: skip
        # Cosines never exceed 1, so 1 / tau is a safe maximum and no running one is needed.
        total += tl.sum(tl.exp(similarity), 1)
    row = (group * tl.num_programs(1) + tl.program_id(1)) * n_views + rows
    tl.store(partial_ptr + row, total, mask=rows < n_views)


@triton.jit
def _log_denominators_backward_kernel(
    unit_ptr, all_ptr, weight_ptr, all_weight_ptr, out_ptr, n_views, n_columns, offset,
    width, scale,
    WITH_POSITIVE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = (group * n_views + rows)[:, None] * width + tl.arange(0, WIDTH)[None, :]
    inside = (rows < n_views)[:, None] & (tl.arange(0, WIDTH) < width)[None, :]
    z = tl.load(unit_ptr + at, mask=inside, other=0)
    weight = tl.load(weight_ptr + group * n_views + rows, mask=rows < n_views, other=0)
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for block in range(tl.cdiv(n_columns, COLUMNS)):
        columns = block * COLUMNS + tl.arange(0, COLUMNS)
        others, similarity = _similarity_tile(
            z, all_ptr + group * n_columns * width, rows, columns,
            n_views, n_columns, offset, width, scale, WITH_POSITIVE, WIDTH, PRECISION,
        )  # fmt: skip
        other_weight = tl.load(
            all_weight_ptr + group * n_columns + columns, mask=columns < n_columns, other=0
        )
        share = tl.exp(similarity) * (weight[:, None] + other_weight[None, :])
        total = tl.dot(share.to(others.dtype), others, total, input_precision=PRECISION)
    tl.store(out_ptr + at, total * scale, mask=inside)


MIN_TEMPERATURE = 0.03
"""Below it exp((s - 1) / tau) may underflow for every negative of a view."""

MAX_PROJECTION = 256


def can_take_loss(unit: Tensor, temperature: float) -> bool:
    """Whether the two functions below are exact for such vectors and temperature."""
    return (
        unit.dtype == torch.float32
        and unit.shape[-1] <= MAX_PROJECTION
        and temperature >= MIN_TEMPERATURE
    )


def log_denominators(
    unit: Tensor, everyone: Tensor, temperature: float, with_positive: bool, offset: int
) -> Tensor:
    """`losses.log_denominators` without ever writing a similarity to memory.

    Args:
        unit: this process's unit vectors, shape (G, V, P).
        everyone: all processes' unit vectors, same dtype, shape (G, all V, P).
        temperature: tau, at least `MIN_TEMPERATURE`.
        with_positive: whether the other view of a sample is in its denominator.
        offset: number of this process's first sample.

    Returns:
        float32, shape (G, V).
    """
    groups, n_views, width = unit.shape
    n_columns = everyone.shape[1]
    rows, columns = (32, 32) if unit.dtype == torch.float32 else (128, 64)
    parts = min(8, triton.cdiv(n_columns, columns))
    partial = torch.empty(groups, parts, n_views, device=unit.device, dtype=torch.float32)
    _log_denominators_kernel[(triton.cdiv(n_views, rows), parts, groups)](
        unit, everyone, partial, n_views, n_columns, offset, width, 1 / temperature,
        WITH_POSITIVE=with_positive, WIDTH=max(16, triton.next_power_of_2(width)),
        ROWS=rows, COLUMNS=columns, PRECISION=_precision(unit), num_warps=4,
    )  # fmt: skip
    return partial.sum(1).log_().add_(1 / temperature)


def log_denominators_backward(
    unit: Tensor, everyone: Tensor, weight: Tensor, all_weights: Tensor,
    temperature: float, with_positive: bool, offset: int,
) -> Tensor:  # fmt: skip
    """Gradient of `unit`, given every view's upstream gradient / sum exp((s - 1) / tau).

    Args:
        unit: see `log_denominators`.
        everyone: see `log_denominators`.
        weight: of this process's views, float32, shape (G, V).
        all_weights: of all processes' views, float32, shape (G, all V).
        temperature: tau.
        with_positive: see `log_denominators`.
        offset: see `log_denominators`.

    Returns:
        float32, shape (G, V, P).
    """
    groups, n_views, width = unit.shape
    out = torch.empty(unit.shape, device=unit.device, dtype=torch.float32)
    rows, columns = (32, 32) if unit.dtype == torch.float32 else (64, 64)
    _log_denominators_backward_kernel[(triton.cdiv(n_views, rows), groups)](
        unit, everyone, weight, all_weights, out, n_views, everyone.shape[1], offset, width,
        1 / temperature,
        WITH_POSITIVE=with_positive, WIDTH=max(16, triton.next_power_of_2(width)),
        ROWS=rows, COLUMNS=columns, PRECISION=_precision(unit), num_warps=4,
    )  # fmt: skip
    return out
