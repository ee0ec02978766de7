"""What times embeddings: a call on a GPU is over when the GPU says so."""

import pytest
import torch

from benchmarks.embed import measure


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_every_name_of_a_gpu_is_waited_for(monkeypatch, device):
    told = []
    monkeypatch.setattr(torch.cuda, "synchronize", told.append)
    measure(lambda: told.append("run"), device, repeats=1)
    assert told == 3 * [device, "run", device]
