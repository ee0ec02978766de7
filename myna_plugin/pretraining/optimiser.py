"""The optimiser of the recipes: Adam with the paper's constants (§3.6), and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
}
"""Factor of the learning rate by the share of the steps after warm-up that are done, in [0, 1)."""


def build_adam(
    parameters: Iterable[nn.Parameter],
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-5,
    scheduled: bool = False,
) -> torch.optim.Adam:
    """Adam with L2 decay added to the gradient; one fused kernel and graph-safe on a GPU.

    Args:
        parameters: to update.
        learning_rate: of the first step.
        weight_decay: times a weight is added to its gradient.
        scheduled: whether `set_learning_rate` will be called: the rate is then a tensor on a GPU,
            which a CUDA graph reads at every replay (a number it would keep as recorded).
    """
    listed = list(parameters)
    on_gpu = listed[0].is_cuda
    rate: float | Tensor = learning_rate
    if scheduled and on_gpu:
        rate = torch.tensor(learning_rate, device=listed[0].device)
    return torch.optim.Adam(
        listed, lr=rate, weight_decay=weight_decay, fused=on_gpu, capturable=on_gpu
    )


def rate_at(
    step: int,
    total_steps: int,
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: int = 0,
) -> float:
    """Learning rate of a step: it rises evenly to `learning_rate`, then follows the schedule.

    Args:
        step: its number from 0.
        total_steps: of the whole run.
        learning_rate: the highest.
        schedule: a name from `SCHEDULES`.
        warmup_steps: steps of the rise, the last of them at `learning_rate`; 0 for none.

    >>> [rate_at(step, 6, 1.0, "cosine", 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.853..., 0.5]
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return learning_rate * SCHEDULES[schedule](share)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next step; where it is a tensor, in place and without waiting."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
