# The arguments of Triton kernels have no types that Python knows:
# mypy: disable-error-code="no-untyped-def,attr-defined"
"""What the kernels share: sizes that they are compiled for, and how they are launched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

HEAD_DIM = tl.constexpr(64)
PATCH_AREA = tl.constexpr(256)
N_MELS = tl.constexpr(128)


def processors(tensor: Tensor) -> int:
    """Multiprocessors of the tensor's device; 2 for the interpreter on a CPU."""
    if not tensor.is_cuda:
        return 2
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


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


def precision(tensor: Tensor) -> str:
    # Three products of tf32 parts give float32 its precision; half precision ignores this.
    return "tf32x3" if tensor.dtype == torch.float32 else "tf32"
