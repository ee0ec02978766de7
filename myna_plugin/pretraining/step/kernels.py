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

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from myna_plugin.model.encoder import PATCH_NORM_EPS, InputScaling

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
    HAS_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, WIDTH)
    in_width = columns < width
    weight = tl.load(weight_ptr + columns, mask=in_width, other=0).to(tl.float32)
    dweight = tl.zeros((WIDTH,), dtype=tl.float32)
    dbias = tl.zeros((WIDTH,), dtype=tl.float32)
    dx_sum = tl.zeros((WIDTH,), dtype=tl.float32)
    for block in tl.range(
        tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0), num_stages=STAGES
    ):
        rows = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < n_rows)[:, None] & in_width[None, :]
        at = rows[:, None] * width + columns[None, :]
        # All loads before the first use, so that they are under way together.
        dout = tl.load(dout_ptr + at, mask=inside, other=0)
        x = tl.load(x_ptr + at, mask=inside, other=0)
        if HAS_RESIDUAL:
            residual = tl.load(residual_ptr + at, mask=inside, other=0)
        mean = tl.load(mean_ptr + rows, mask=rows < n_rows, other=0)
        rstd = tl.load(rstd_ptr + rows, mask=rows < n_rows, other=0)
        dout = dout.to(tl.float32)
        normed = tl.where(inside, (x.to(tl.float32) - mean[:, None]) * rstd[:, None], 0.0)
        weighted = dout * weight[None, :]
        shift = tl.sum(weighted, 1) / width
        slope = tl.sum(weighted * normed, 1) / width
        dx = (weighted - shift[:, None] - normed * slope[:, None]) * rstd[:, None]
        if HAS_RESIDUAL:
            dx += residual.to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        dweight += tl.sum(dout * normed, 0)
        dbias += tl.sum(dout, 0)
        dx_sum += tl.sum(tl.where(inside, dx, 0.0), 0)
    at = partial_ptr + tl.program_id(0) * width + columns
    size = tl.num_programs(0) * width
    tl.store(at, dweight, mask=in_width)
    tl.store(at + size, dbias, mask=in_width)
    tl.store(at + 2 * size, dx_sum, mask=in_width)


@dataclass(frozen=True)
class RowSettings:
    """How `norm_backward` goes through rows.

    One warp a program holds whole rows, so that its sums along them need no barrier and those over
    them no shuffle; many programs a multiprocessor keep enough loads under way.

    Attributes:
        rows: of a step of the loop.
        warps: of a program.
        per_processor: programs a multiprocessor.
        stages: steps whose loads are under way at once.
    """

    rows: int = 2
    warps: int = 1
    per_processor: int = 12
    stages: int = 1


NORM_BACKWARD = RowSettings(rows=1, warps=1, per_processor=12, stages=3)


def norm_programs(x: Tensor) -> int:
    """Rows P of the partial sums that `norm_backward` writes for an x of this size."""
    steps = triton.cdiv(len(x), NORM_BACKWARD.rows)
    return min(steps, NORM_BACKWARD.per_processor * _processors(x))


def norm_backward(
    dout: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, residual: Tensor | None,
    partial: Tensor,
) -> Tensor:  # fmt: skip
    """Gradient of LayerNorm's input, plus the gradient that passes by it.

    Args:
        dout: gradient of the norm's output, shape (T, D).
        x: the norm's input, shape (T, D).
        mean: of each row, shape (T,).
        rstd: 1 / deviation of each row, shape (T,).
        weight: LayerNorm's scale, shape (D,).
        residual: a gradient to add to the result, shape (T, D), or None.
        partial: where to put parts of the sums over rows, float32 (3, P, D), which the caller adds
            up over P, for many norms at once: gradients of scale and shift, and sum of the result.

    Returns:
        The gradient of `x`, (T, D).
    """
    n_rows, width = x.shape
    dx = torch.empty_like(x)
    _norm_backward_kernel[(partial.shape[1],)](
        dout, x, mean, rstd, weight, residual, dx, partial, n_rows, width,
        HAS_RESIDUAL=residual is not None, ROWS=NORM_BACKWARD.rows,
        WIDTH=triton.next_power_of_2(width), STAGES=NORM_BACKWARD.stages,
        num_warps=NORM_BACKWARD.warps,
    )  # fmt: skip
    return dx


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
def _tanh(x, ASSEMBLY: tl.constexpr):
    if ASSEMBLY:
        return tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def _gelu_and_slope(x, TANH: tl.constexpr, ASSEMBLY: tl.constexpr):
    """GELU and its derivative, exact or in the tanh form, which needs one special function."""
    if TANH:
        square = x * x
        tanh = _tanh(x * (0.7978845608028654 + 0.035677408136300125 * square), ASSEMBLY)
        cdf = 0.5 + 0.5 * tanh
        inner = 0.3989422804014327 + 0.05351611220445019 * square
        return x * cdf, cdf + x * inner * (1.0 - tanh * tanh)
    else:
        cdf, density = _normal_distribution(x)
        return x * cdf, cdf + x * density


@triton.jit
def _gelu_kernel(
    h_ptr, out_ptr, n, BLOCK: tl.constexpr, TANH: tl.constexpr, ASSEMBLY: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    h = tl.load(h_ptr + at, mask=at < n, other=0).to(tl.float32)
    out, _ = _gelu_and_slope(h, TANH, ASSEMBLY)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=at < n)


def _gelu_form(h: Tensor) -> dict[str, bool]:
    """The tanh form in half precision, by one instruction on a GPU."""
    return {"TANH": h.dtype != torch.float32, "ASSEMBLY": h.is_cuda}


def gelu(h: Tensor) -> Tensor:
    """GELU(h), any shape: exact in float32, the tanh form in half precision."""
    out = torch.empty_like(h)
    _gelu_kernel[(triton.cdiv(h.numel(), 2048),)](
        h, out, h.numel(), BLOCK=2048, num_warps=4, **_gelu_form(h)
    )
    return out


@triton.jit
def _gelu_backward_kernel(
    dout_ptr, h_ptr, dh_ptr, partial_ptr, n_rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TANH: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    in_width = columns < width
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(n_rows, ROWS), tl.num_programs(1)):
        rows = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < n_rows)[:, None] & in_width[None, :]
        at = rows[:, None] * width + columns[None, :]
        h = tl.load(h_ptr + at, mask=inside, other=0)
        dout = tl.load(dout_ptr + at, mask=inside, other=0)
        _, slope = _gelu_and_slope(h.to(tl.float32), TANH, ASSEMBLY)
        dh = dout.to(tl.float32) * slope
        tl.store(dh_ptr + at, dh.to(dh_ptr.dtype.element_ty), mask=inside)
        total += dh
    tl.store(partial_ptr + tl.program_id(1) * width + columns, tl.sum(total, 0), mask=in_width)


GELU_BACKWARD = RowSettings(rows=4, warps=4, per_processor=8)
"""For tiles of 512 columns; `stages` is not used."""


def gelu_backward(dout: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of `gelu`'s argument, (T, M), and its sum over rows, float32 (M,)."""
    n_rows, width = h.shape
    dh = torch.empty_like(h)
    blocks = triton.cdiv(width, 512)
    most = max(1, GELU_BACKWARD.per_processor * _processors(h) // blocks)
    programs = min(triton.cdiv(n_rows, GELU_BACKWARD.rows), most)
    partial = torch.empty(programs, width, device=h.device, dtype=torch.float32)
    _gelu_backward_kernel[(blocks, programs)](
        dout, h, dh, partial, n_rows, width, ROWS=GELU_BACKWARD.rows, COLUMNS=512,
        num_warps=GELU_BACKWARD.warps, **_gelu_form(h),
    )  # fmt: skip
    return dh, partial.sum(0)


# --------------------------------------------------------------------------------------
# Crop, patchify, mask and norm in one gather
# --------------------------------------------------------------------------------------


@triton.jit
def _gather_kernel(
    frames_ptr, starts_ptr, tokens_ptr, out_ptr, n_rows, visible, columns,
    eps, gain, mean, deviation,
    BANDS: tl.constexpr, FRAMES: tl.constexpr, LOG: tl.constexpr, NORM: tl.constexpr,
    FIXED: tl.constexpr, ROWS: tl.constexpr,
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
        value = tl.log(1.0 + gain * value)
    if FIXED:
        value = (value - mean) / deviation
    elif NORM:
        # Before the change of order: sums after it were wrong on an H200 (Triton 3.6).
        value -= (tl.sum(tl.sum(value, 2), 1) / PATCH_AREA)[:, None, None]
        variance = tl.sum(tl.sum(value * value, 2), 1) / PATCH_AREA
        value *= tl.rsqrt(variance + eps)[:, None, None]
    patch = tl.reshape(tl.permute(value, (0, 2, 1)), (ROWS, PATCH_AREA))
    out_at = rows.to(tl.int64)[:, None] * PATCH_AREA + tl.arange(0, PATCH_AREA)[None, :]
    tl.store(out_ptr + out_at, patch.to(out_ptr.dtype.element_ty), mask=inside[:, None])


def gather_patches(
    frames: Tensor, starts: Tensor, tokens: Tensor, patch_size: tuple[int, int], columns: int,
    dtype: torch.dtype, scaling: InputScaling | None = None,
) -> Tensor:  # fmt: skip
    """Visible patches of crops straight from stored frames, scaled if asked.

    Args:
        frames: mel power, time-major, shape (all frames, 128), contiguous.
        starts: first frame of every crop, int64, shape (V,).
        tokens: visible token numbers, int64, shape (V, visible).
        patch_size: (mel bands, frames); 256 numbers together.
        columns: columns of the crop's grid of patches.
        dtype: of the result.
        scaling: None leaves mel power as it is.

    Returns:
        Patches in `vit.patchify`'s order of values, shape (V, visible, 256).
    """
    bands, n_frames = patch_size
    fixed = None if scaling is None else scaling.fixed
    gain, mean, deviation = fixed or (1.0, 0.0, 1.0)
    out = torch.empty(*tokens.shape, PATCH_AREA.value, device=frames.device, dtype=dtype)
    _gather_kernel[(triton.cdiv(tokens.numel(), 8),)](
        frames, starts, tokens, out, tokens.numel(), tokens.shape[1], columns,
        PATCH_NORM_EPS, gain, mean, deviation,
        BANDS=bands, FRAMES=n_frames, LOG=scaling is not None and scaling.log_mel,
        NORM=scaling is not None, FIXED=fixed is not None, ROWS=8, num_warps=4,
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
