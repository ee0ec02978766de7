"""The device that a user means."""

from __future__ import annotations

import re

import torch

from myna_plugin.common.errors import InputError


class DeviceError(InputError):
    """A device that is not there; the message says which are."""


def choose_device(device: str | torch.device, precision: str = "float32") -> str:
    """The torch device that a user's word means; "auto": CUDA, else Apple's GPU, else the CPU.

    Args:
        device: "auto", "cpu", "mps" (Apple's GPU), "cuda" or "cuda:N"; or a `torch.device`.
        precision: what is to be computed in.

    Returns:
        "cpu", "mps", "cuda" or "cuda:N".

    Raises:
        DeviceError: another word, there is no such device here, or not with that precision.

    >>> choose_device("cpu")
    'cpu'
    """
    device = str(device)
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        device = "mps" if torch.backends.mps.is_available() else "cpu"
    match = re.fullmatch(r"cpu|mps(?::0)?|cuda(?::(0|[1-9][0-9]*))?", device)
    if match is None:
        raise DeviceError(f"device {device}: must be auto, cpu, mps, cuda or cuda:N")
    if device == "cpu":
        return device
    if device.startswith("mps"):
        if not torch.backends.mps.is_available():
            raise DeviceError(
                f"device {device}: torch {torch.__version__} sees no Apple GPU here; choose cpu"
            )
        if precision != "float32":
            raise DeviceError(f"device {device}: computes in float32 alone; choose that, or cpu")
        return "mps"
    # The count alone comes from the driver's library, which may see devices that cannot be used.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        raise DeviceError(
            f"device {device}: torch {torch.__version__} sees {count} CUDA devices here; choose "
            + (f"cuda:0 to cuda:{count - 1}" if count else "cpu, or install a torch with CUDA")
        )
    return device


def without_mps(device: str) -> str:
    """The same device, or the CPU in place of Apple's GPU: for what needs float64 or CUDA's ways.

    >>> without_mps("mps"), without_mps("cuda:1")
    ('cpu', 'cuda:1')
    """
    return "cpu" if device == "mps" else device
