# The arguments of Triton kernels have no types that Python knows:
# mypy: disable-error-code="no-untyped-def,attr-defined"
"""LayerNorm with the residual sum before it, and its gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from myna_plugin.pretraining.step.kernels.launching import (
    RowSettings,
    processors,
)


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


NORM_BACKWARD = RowSettings(rows=1, warps=1, per_processor=12, stages=3)


def norm_programs(x: Tensor) -> int:
    """Rows P of the partial sums that `norm_backward` writes for an x of this size."""
    steps = triton.cdiv(len(x), NORM_BACKWARD.rows)
    return min(steps, NORM_BACKWARD.per_processor * processors(x))


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
