"""Several processes, one GPU each, that train one model together, as `torchrun` starts them.

Every process draws its own part of each batch (`crops.ViewSampler`), the losses take negatives from
all processes with gradients (`losses`), and gradients are averaged here before every update.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from myna_plugin.common.launch import launched_world_size
from myna_plugin.pretraining.step.losses import rank, world_size


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes of `torchrun`, if it started this one, and leave them at the end.

    Over NCCL on GPUs, over gloo on CPUs.
    """
    if launched_world_size() == 1 or dist.is_initialized():
        yield
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    try:
        yield
    finally:
        dist.destroy_process_group()


def launched_device(kind: str) -> torch.device:
    """The device of this process: its own GPU ("cuda"), or "cpu"."""
    if kind == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all processes, in one all-reduce.

    With the losses of `losses.ContrastiveLoss` this gives the gradient of the whole batch's loss.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    averaged = [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
    torch._foreach_copy_(gradients, averaged)


def average_before_update(optimiser: torch.optim.Optimizer) -> None:
    """Have an optimiser average the gradients over all processes before each of its steps."""

    def hook(chosen: torch.optim.Optimizer, *_: Any) -> None:
        average_gradients(p for group in chosen.param_groups for p in group["params"])

    optimiser.register_step_pre_hook(hook)


def average(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process; all must ask at the same step."""
    if world_size() == 1:
        return flag
    told = torch.tensor(float(flag), device=device)
    dist.all_reduce(told)
    return bool(told.item())


def agree(number: int, device: torch.device) -> bool:
    """Whether all processes have the same number; waits for all of them."""
    told = torch.tensor([number, -number], device=device)
    if world_size() > 1:
        dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told.sum() == 0)


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def is_first() -> bool:
    """Whether this process writes files and talks."""
    return rank() == 0
