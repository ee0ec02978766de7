"""Which device heareval gets: it takes CUDA wherever it finds it, so we choose what it finds."""

from __future__ import annotations

import os

import torch

from myna_plugin.common.devices import DeviceError, choose_device
from myna_plugin.common.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def device_environment(device: str) -> dict[str, str]:
    """Environment variables under which heareval runs on `device`.

    Args:
        device: auto, cpu, cuda or cuda:N, N counting the devices that are visible now.

    Raises:
        InputError: no such device.

    >>> device_environment("auto"), device_environment("cpu")
    ({}, {'CUDA_VISIBLE_DEVICES': ''})
    """
    if device == "auto":
        return {}
    try:
        chosen = torch.device(choose_device(device))
    except DeviceError as error:
        raise InputError(f"--{error}") from error
    if chosen.type == "mps":
        raise InputError("--device mps: heareval knows CUDA and the CPU alone: choose cpu")
    if chosen.type == "cpu":
        return {VISIBLE: ""}
    if chosen.index is None:
        return {}
    visible = os.environ.get(VISIBLE, "").strip()
    return {VISIBLE: visible.split(",")[chosen.index].strip() if visible else str(chosen.index)}


def uses_cuda(device: str) -> bool:
    """Whether heareval will see a CUDA device."""
    return device != "cpu" and torch.cuda.is_available()
