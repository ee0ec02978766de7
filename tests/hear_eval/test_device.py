"""heareval takes CUDA where it finds it: the environment decides what it finds."""

import os
import subprocess
import sys

import pytest
import torch

from myna_plugin.common.errors import InputError
from myna_plugin.hear_eval.device import device_environment


@pytest.fixture
def devices(monkeypatch):
    """A function that sets how many devices torch sees, and CUDA_VISIBLE_DEVICES."""

    def pretend(count, visible=None):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return pretend


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("auto", None, {}),
        ("cpu", "0,1", {"CUDA_VISIBLE_DEVICES": ""}),
        ("cuda", None, {}),
        ("cuda:1", None, {"CUDA_VISIBLE_DEVICES": "1"}),
        ("cuda:1", "4,6", {"CUDA_VISIBLE_DEVICES": "6"}),
        ("cuda:0", "GPU-5a, GPU-6b", {"CUDA_VISIBLE_DEVICES": "GPU-5a"}),
    ],
)
def test_environment_of_a_device(devices, device, visible, expected):
    devices(2, visible)
    assert device_environment(device) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cpu_hides_every_gpu_from_a_new_process():
    code = "import torch; print(torch.cuda.is_available())"
    environment = {**os.environ, **device_environment("cpu")}
    out = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert out.strip() == "False"


def test_apple_s_gpu_is_not_for_heareval(devices, monkeypatch):
    devices(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(InputError, match="--device mps: heareval knows CUDA and the CPU alone"):
        device_environment("mps")
