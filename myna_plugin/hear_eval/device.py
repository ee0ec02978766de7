"""Which device heareval gets: it takes CUDA wherever it finds it, so we choose what it finds."""

from __future__ import annotations

import os
import re

import torch

from myna_plugin.hear_eval.messages import BadInputError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def device_environment(device: str) -> dict[str, str]:
    """Environment variables under which heareval runs on `device`.

    Args:
        device: auto, cpu, cuda or cuda:N, N counting the devices that are visible now.

    Raises:
        BadInputError: no such device.

    >>> device_environment("auto"), device_environment("cpu")
    ({}, {'CUDA_VISIBLE_DEVICES': ''})
    """
    if device == "auto":
        return {}
    if device == "cpu":
        return {VISIBLE: ""}
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise BadInputError(f"--device {device}: must be auto, cpu, cuda or cuda:N")
    index, count = int(match[1] or 0), torch.cuda.device_count()
    if index >= count:
        raise BadInputError(
            f"--device {device}: torch {torch.__version__} sees {count} CUDA devices here; choose "
            + (f"cuda:0 to cuda:{count - 1}" if count else "cpu, or install a torch with CUDA")
        )
    if match[1] is None:
        return {}
    visible = os.environ.get(VISIBLE, "").strip()
    return {VISIBLE: visible.split(",")[index].strip() if visible else str(index)}


def uses_cuda(device: str) -> bool:
    """Whether heareval will see a CUDA device."""
    return device != "cpu" and torch.cuda.is_available()
