"""The optimiser of the recipes: Adam with the paper's constants (§3.6)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def build_adam(
    parameters: Iterable[nn.Parameter], learning_rate: float = 3e-4, weight_decay: float = 1e-5
) -> torch.optim.Adam:
    """Adam with L2 decay added to the gradient; one fused kernel and graph-safe on a GPU."""
    listed = list(parameters)
    on_gpu = listed[0].is_cuda
    return torch.optim.Adam(
        listed, lr=learning_rate, weight_decay=weight_decay, fused=on_gpu, capturable=on_gpu
    )
