"""Triton kernels of the fast training step, and the functions that launch them.

Importing this module needs Triton; `acceleration.kernels_for` is how the rest asks for it. Every
kernel computes what a few lines of plain torch compute (`fused.PlainOperations`, `losses`,
`crops`), accumulates in float32, and takes float32, float16 or bfloat16.

What decides their shape: at 90 % masking a sequence has 5 tokens and a batch 82,000 of them, so all
but the matrix products is limited by memory traffic, and each array should be read and written as
few times as possible.
"""

from myna_plugin.pretraining.step.kernels.attention import (
    MAX_LENGTH,
    attention,
    attention_backward,
    attention_tile,
)
from myna_plugin.pretraining.step.kernels.denominators import (
    MIN_TEMPERATURE,
    can_take_loss,
    log_denominators,
    log_denominators_backward,
)
from myna_plugin.pretraining.step.kernels.gather import gather_patches
from myna_plugin.pretraining.step.kernels.gelu import gelu, gelu_backward
from myna_plugin.pretraining.step.kernels.norms import add_norm, norm_backward, norm_programs

__all__ = [
    "MAX_LENGTH",
    "MIN_TEMPERATURE",
    "add_norm",
    "attention",
    "attention_backward",
    "attention_tile",
    "can_take_loss",
    "gather_patches",
    "gelu",
    "gelu_backward",
    "log_denominators",
    "log_denominators_backward",
    "norm_backward",
    "norm_programs",
]
