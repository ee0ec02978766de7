"""The device that a user means."""

from __future__ import annotations

import re

import torch

from myna_plugin.common.errors import InputError


class DeviceError(InputError):
    """A device that is not there; the message says which are."""


def choose_device(device: str | torch.device) -> str:
    """The torch device that a user's word means; "auto" is CUDA where there is one, else the CPU.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N"; or a `torch.device`.

    Returns:
        "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: another word, or there is no such device here.

    >>> choose_device("cpu")
    'cpu'
    """
    device = str(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(0|[1-9][0-9]*))?", device)
    if match is None:
        raise DeviceError(f"device {device}: must be auto, cpu, cuda or cuda:N")
    if device == "cpu":
        return device
    # The count alone comes from the driver's library, which may see devices that cannot be used.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        raise DeviceError(
            f"device {device}: torch {torch.__version__} sees {count} CUDA devices here; choose "
            + (f"cuda:0 to cuda:{count - 1}" if count else "cpu, or install a torch with CUDA")
        )
    return device
