# The arguments of Triton kernels have no types that Python knows:
# mypy: disable-error-code="no-untyped-def,attr-defined"
"""GELU, exact or by tanh, and its gradient."""

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
    most = max(1, GELU_BACKWARD.per_processor * processors(h) // blocks)
    programs = min(triton.cdiv(n_rows, GELU_BACKWARD.rows), most)
    partial = torch.empty(programs, width, device=h.device, dtype=torch.float32)
    _gelu_backward_kernel[(blocks, programs)](
        dout, h, dh, partial, n_rows, width, ROWS=GELU_BACKWARD.rows, COLUMNS=512,
        num_warps=GELU_BACKWARD.warps, **_gelu_form(h),
    )  # fmt: skip
    return dh, partial.sum(0)
