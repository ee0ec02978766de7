"""The optimisers, Adam with the paper's constants (§3.6) and Muon, and learning rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

OPTIMISERS = ("adam", "muon")

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
}
"""Factor of the learning rate by the share of the steps after warm-up that are done, in [0, 1)."""


def build_optimiser(
    name: str,
    objective: nn.Module,
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-5,
    scheduled: bool = False,
) -> torch.optim.Optimizer:
    """An optimiser of all parameters that take gradients; safe in a CUDA graph on a GPU.

    Args:
        name: one of `OPTIMISERS`.
        objective: the module to train.
        learning_rate: of the first step.
        weight_decay: of Adam: times a weight is added to its gradient.
        scheduled: whether `set_learning_rate` will be called: the rate is then a tensor on a GPU,
            which a CUDA graph reads at every replay (a number it would keep as recorded).
    """
    named = {key: p for key, p in objective.named_parameters() if p.requires_grad}
    first = next(iter(named.values()))
    on_gpu = first.is_cuda
    rate: float | Tensor = learning_rate
    if scheduled and on_gpu:
        rate = torch.tensor(learning_rate, device=first.device)
    if name == "adam":
        return torch.optim.Adam(
            named.values(), lr=rate, weight_decay=weight_decay, fused=on_gpu, capturable=on_gpu
        )
    matrices = [p for key, p in named.items() if ".layers." in key and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in named.values() if id(p) not in chosen]
    return Muon(matrices, others, rate, weight_decay)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of transformer blocks, Adam for all other parameters.

    The update of a matrix is the nearest orthogonal one to its averaged gradient, found by five
    Newton-Schulz steps, times the root of its longer side and 0.2, which makes it about as
    large as an update of Adam: one learning rate serves both. Matrices of one shape are taken
    together. `torch.optim.Muon` does the same matrix by matrix, and cannot be captured in a CUDA
    graph with a changing learning rate.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale
    from Liu et al. 2025, "Muon is Scalable for LLM Training", eq. 4.

    Args:
        matrices: parameters of two dimensions.
        others: the other parameters.
        lr: learning rate.
        weight_decay: of Adam; matrices have none.
    """

    MOMENTUM = 0.95
    BETAS = (0.9, 0.999)
    EPS = 1e-8
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    ITERATIONS = 5
    SCALE = 0.2

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        lr: float | Tensor,
        weight_decay: float = 0.0,
    ) -> None:
        # As Adam names them: where a checkpoint's counts of steps go is decided by these two.
        on_gpu = others[0].is_cuda
        adam_options = {"fused": on_gpu, "capturable": on_gpu}
        groups = [
            {"params": matrices, "matrices": True},
            {"params": others, "matrices": False, **adam_options},
        ]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have gradients; there is no closure to call."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            if group["matrices"]:
                self._step_matrices(with_gradient, group["lr"])
            elif with_gradient:
                self._step_others(with_gradient, group)

    def _step_matrices(self, parameters: list[Tensor], rate: float | Tensor) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            by_shape[p.shape].append(p)
        for shape, same in by_shape.items():
            averages = [self.state[p]["momentum"] for p in same]
            gradients = [p.grad for p in same if p.grad is not None]
            torch._foreach_lerp_(averages, gradients, 1 - self.MOMENTUM)
            ahead = torch._foreach_lerp(gradients, averages, self.MOMENTUM)
            updates = orthogonalise(torch.stack(ahead), self.COEFFICIENTS, self.ITERATIONS)
            updates = updates.float() * (rate * (self.SCALE * math.sqrt(max(shape))))
            torch._foreach_sub_(same, list(updates.unbind()))

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p in parameters]
        adam(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            capturable=group["capturable"],
            amsgrad=False,
            beta1=self.BETAS[0],
            beta2=self.BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self.EPS,
            maximize=False,
        )


def orthogonalise(
    matrices: Tensor, coefficients: tuple[float, float, float], iterations: int
) -> Tensor:
    """Matrices with all singular values brought near 1, by Newton-Schulz steps in bfloat16.

    Args:
        matrices: shape (n, rows, columns).
        coefficients: of x, x³ and x⁵.
        iterations: how many steps.

    Returns:
        bfloat16, shape (n, rows, columns).
    """
    a, b, c = coefficients
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
