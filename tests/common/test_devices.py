"""A user's word for a device: what it means, and what is said where there is none."""

import pytest
import torch

from myna_plugin import Myna
from myna_plugin.common.devices import DeviceError, choose_device


@pytest.fixture
def devices(monkeypatch):
    """A function that sets how many devices torch sees, and whether they can be used."""

    def pretend(count, usable=True, apple=False):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: usable and count > 0)

    return pretend


@pytest.mark.parametrize(
    ("device", "count", "chosen"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_what_is_there_is_chosen(devices, device, count, chosen):
    devices(count)
    assert choose_device(device) == chosen
    assert str(torch.device(chosen)) == chosen


@pytest.mark.parametrize(
    ("device", "count", "message"),
    [
        ("cuda", 0, "device cuda: .* sees 0 CUDA devices here; choose cpu, or install"),
        ("cuda:2", 2, "device cuda:2: .* sees 2 CUDA devices here; choose cuda:0 to cuda:1"),
        ("tpu", 1, "device tpu: must be auto, cpu, mps, cuda or cuda:N"),
        ("cuda:01", 2, "device cuda:01: must be"),
        ("mps", 0, "device mps: torch .* sees no Apple GPU here; choose cpu"),
        ("mps:1", 0, "device mps:1: must be"),
    ],
)
def test_what_is_not_there_is_named(devices, device, count, message):
    devices(count)
    with pytest.raises(DeviceError, match=message):
        choose_device(device)


@pytest.mark.parametrize(
    ("device", "count", "chosen"),
    [
        ("auto", 0, "mps"),
        ("auto", 1, "cuda"),
        ("mps", 0, "mps"),
        ("mps:0", 1, "mps"),
        ("cpu", 0, "cpu"),
    ],
)
def test_apple_s_gpu_comes_after_cuda(devices, device, count, chosen):
    devices(count, apple=True)
    assert choose_device(device) == chosen


def test_apple_s_gpu_computes_in_float32_alone(devices):
    devices(0, apple=True)
    with pytest.raises(DeviceError, match="device mps: computes in float32 alone"):
        Myna.from_pretrained("", device="mps", precision="bfloat16")


def test_devices_whose_driver_fails_are_not_chosen(devices):
    """The driver's library counts them even where CUDA cannot be started."""
    devices(1, usable=False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="sees 0 CUDA devices"):
        choose_device("cuda")
