# The arguments of Triton kernels have no types that Python knows:
# mypy: disable-error-code="no-untyped-def,attr-defined"
"""Triton kernels that write an fp8 (e4m3) copy beside their bfloat16 result, for `block_products`.

A narrow tensor stands for its numbers times a scale that was known before (delayed scaling). Every
kernel also keeps the largest magnitude it met, from which the next step's scale would come. They
answer `block_contestants.PlainProducers`, which says in plain torch what each one means.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from myna_plugin.pretraining.step.kernels.gelu import _gelu_and_slope
from myna_plugin.pretraining.step.kernels.launching import processors

SLOTS = tl.constexpr(1024)
"""Places for maxima, so that programs seldom wait for each other's."""


@triton.jit
def _narrow(value, scale):
    return tl.minimum(tl.maximum(value * (1.0 / scale), -448.0), 448.0)


@triton.jit
def _keep_most(most_ptr, most):
    tl.atomic_max(most_ptr + tl.program_id(0) % SLOTS, most, sem="relaxed")


@triton.jit
def _gelu_kernel(
    h_ptr, h_scale_ptr, scale_ptr, out_ptr, narrow_ptr, most_ptr, n,
    BLOCK: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    h = tl.load(h_ptr + at, mask=at < n, other=0.0).to(tl.float32) * tl.load(h_scale_ptr)
    out, _ = _gelu_and_slope(h, True, ASSEMBLY)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=at < n)
    narrow = _narrow(out, tl.load(scale_ptr))
    tl.store(narrow_ptr + at, narrow.to(narrow_ptr.dtype.element_ty), mask=at < n)
    _keep_most(most_ptr, tl.max(tl.abs(out), 0))


def gelu(h: Tensor, h_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """GELU(h * h_scale), any shape: in bfloat16, and in fp8 over `scale`."""
    out = torch.empty_like(h, dtype=torch.bfloat16)
    narrow = torch.empty_like(h, dtype=torch.float8_e4m3fn)
    _gelu_kernel[(triton.cdiv(h.numel(), 2048),)](
        h, h_scale, scale, out, narrow, _maxima(h), h.numel(),
        BLOCK=2048, ASSEMBLY=h.is_cuda, num_warps=4,
    )  # fmt: skip
    return out, narrow


@triton.jit
def _gelu_backward_kernel(
    dout_ptr, dout_scale_ptr, h_ptr, h_scale_ptr, scale_ptr, dh_ptr, narrow_ptr, partial_ptr,
    most_ptr, n_rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    in_width = columns < width
    dout_scale, h_scale = tl.load(dout_scale_ptr), tl.load(h_scale_ptr)
    scale = tl.load(scale_ptr)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    most = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(n_rows, ROWS), tl.num_programs(1)):
        rows = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < n_rows)[:, None] & in_width[None, :]
        at = rows[:, None] * width + columns[None, :]
        h = tl.load(h_ptr + at, mask=inside, other=0.0)
        dout = tl.load(dout_ptr + at, mask=inside, other=0.0)
        _, slope = _gelu_and_slope(h.to(tl.float32) * h_scale, True, ASSEMBLY)
        dh = dout.to(tl.float32) * dout_scale * slope
        tl.store(dh_ptr + at, dh.to(dh_ptr.dtype.element_ty), mask=inside)
        narrow = _narrow(dh, scale).to(narrow_ptr.dtype.element_ty)
        tl.store(narrow_ptr + at, narrow, mask=inside)
        total += dh
        most = tl.maximum(most, tl.abs(dh))
    tl.store(partial_ptr + tl.program_id(1) * width + columns, tl.sum(total, 0), mask=in_width)
    tl.atomic_max(most_ptr + tl.program_id(1) % SLOTS, tl.max(tl.max(most, 1), 0), sem="relaxed")


def gelu_backward(
    dout: Tensor, dout_scale: Tensor, h: Tensor, h_scale: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of GELU's argument (T, M), bfloat16 and fp8 over `scale`, and its sum over rows."""
    n_rows, width = h.shape
    dh = torch.empty_like(h, dtype=torch.bfloat16)
    narrow = torch.empty_like(h, dtype=torch.float8_e4m3fn)
    blocks = triton.cdiv(width, 512)
    programs = min(triton.cdiv(n_rows, 4), max(1, 8 * processors(h) // blocks))
    partial = torch.empty(programs, width, device=h.device, dtype=torch.float32)
    _gelu_backward_kernel[(blocks, programs)](
        dout, dout_scale, h, h_scale, scale, dh, narrow, partial, _maxima(h), n_rows, width,
        ROWS=4, COLUMNS=512, ASSEMBLY=h.is_cuda, num_warps=4,
    )  # fmt: skip
    return dh, narrow, partial.sum(0)


@triton.jit
def _add_norm_kernel(
    x_ptr, y_ptr, y_scale_ptr, y_bias_ptr, weight_ptr, bias_ptr, scale_ptr,
    total_ptr, out_ptr, narrow_ptr, mean_ptr, rstd_ptr, most_ptr, n_rows, width, eps,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    in_width = columns < width
    inside = (rows < n_rows)[:, None] & in_width[None, :]
    at = rows[:, None] * width + columns[None, :]
    value = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32) * tl.load(y_scale_ptr)
    value += y + tl.load(y_bias_ptr + columns, mask=in_width, other=0.0).to(tl.float32)[None, :]
    stored = value.to(total_ptr.dtype.element_ty)
    tl.store(total_ptr + at, stored, mask=inside)
    value = stored.to(tl.float32)
    mean = tl.sum(value, 1) / width
    centred = tl.where(inside, value - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    weight = tl.load(weight_ptr + columns, mask=in_width, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=in_width, other=0.0).to(tl.float32)
    out = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)
    narrow = _narrow(out, tl.load(scale_ptr)).to(narrow_ptr.dtype.element_ty)
    tl.store(narrow_ptr + at, narrow, mask=inside)
    tl.store(mean_ptr + rows, mean, mask=rows < n_rows)
    tl.store(rstd_ptr + rows, rstd, mask=rows < n_rows)
    _keep_most(most_ptr, tl.max(tl.max(tl.where(inside, tl.abs(out), 0.0), 1), 0))


def add_norm(
    x: Tensor, y: Tensor, y_scale: Tensor, y_bias: Tensor, weight: Tensor, bias: Tensor,
    eps: float, scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x + y * y_scale + y_bias (T, D), its LayerNorm in bfloat16 and in fp8 over `scale`."""
    n_rows, width = x.shape
    total, out = torch.empty_like(x), torch.empty_like(x)
    narrow = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    mean, rstd = torch.empty(2, n_rows, device=x.device, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    rows = max(1, 4096 // block)
    _add_norm_kernel[(triton.cdiv(n_rows, rows),)](
        x, y, y_scale, y_bias, weight, bias, scale, total, out, narrow, mean, rstd, _maxima(x),
        n_rows, width, eps, ROWS=rows, WIDTH=block, num_warps=4,
    )  # fmt: skip
    return total, out, narrow


_MAXIMA: dict[torch.device, Tensor] = {}


def _maxima(like: Tensor) -> Tensor:
    """Where maxima are kept on a tensor's device; a training step would read and clear them."""
    if like.device not in _MAXIMA:
        _MAXIMA[like.device] = torch.zeros(SLOTS.value, device=like.device)
    return _MAXIMA[like.device]
