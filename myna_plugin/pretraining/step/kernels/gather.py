# The arguments of Triton kernels have no types that Python knows:
# mypy: disable-error-code="no-untyped-def,attr-defined"
"""Crop, patchify, mask and scale in one gather."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from myna_plugin.model.encoder import PATCH_NORM_EPS, InputScaling
from myna_plugin.pretraining.step.kernels.launching import (
    N_MELS,
    PATCH_AREA,
)


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
