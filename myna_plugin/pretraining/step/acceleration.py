"""Whether the Triton kernels can work on a tensor."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import torch
from torch import Tensor

MIN_CAPABILITY = (9, 0)
"""Hopper, which the kernels' settings were chosen on."""


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """`myna_plugin.pretraining.step.kernels` if it can work on this tensor, else None.

    It can on a CUDA device of compute capability 9.0 or more where Triton is installed, and on a
    CPU under Triton's interpreter (TRITON_INTERPRET=1, which tests use).
    """
    if importlib.util.find_spec("triton") is None:
        return None
    if tensor.is_cuda:
        usable = torch.cuda.get_device_capability(tensor.device) >= MIN_CAPABILITY
    else:
        usable = os.environ.get("TRITON_INTERPRET") == "1"
    return importlib.import_module("myna_plugin.pretraining.step.kernels") if usable else None
