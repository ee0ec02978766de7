"""A HEAR module for tests, and a grid of seconds, for `pytest_plugins` in a test module."""

import sys

import pytest

from myna_plugin.probing.heads import FAST_GRID, GRID, GRIDS

MODULE = '''
"""A HEAR module for tests: band energies of 16 kHz audio. CALLS counts the clips embedded."""
import torch

CALLS = []

class Bands(torch.nn.Module):
    sample_rate = 16000
    scene_embedding_size = timestamp_embedding_size = 24

    def __init__(self, gain, fault, after):
        super().__init__()
        self.register_buffer("gain", torch.tensor(float(gain)))
        self.fault, self.after = fault, after

def load_model(model_file_path="", gain=1.0, fault="", after=0):
    if fault == "load":
        raise RuntimeError("no such weights")
    return Bands(gain, fault, after).eval()

def get_scene_embeddings(audio, model):
    CALLS.extend(audio.shape[1:].numel() for _ in audio)
    bins = torch.fft.rfft(audio[:, -16000:], n=16000).abs()[:, 200:1400]
    vectors = model.gain * torch.log1p(bins.unflatten(1, (24, -1)).mean(2))
    if model.fault and len(CALLS) > model.after:
        if model.fault == "raise":
            raise RuntimeError("out of order")
        return {"nan": vectors * float("nan"), "width": vectors[:, 1:], "list": [1.0],
                "rank": vectors[:, :, None]}[model.fault]
    return vectors
'''


@pytest.fixture
def bands(tmp_path, monkeypatch):
    """The module above, importable as `bands`, with nothing embedded yet."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "bands.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("MYNA_PLUGIN_CACHE", str(tmp_path / "cache"))
    sys.modules.pop("bands", None)
    import bands

    yield bands
    sys.modules.pop("bands", None)


@pytest.fixture
def quick(monkeypatch):
    """Four heads and no figures, for tests of what comes before them."""
    monkeypatch.setitem(GRIDS, "fast", FAST_GRID[-4:])
    monkeypatch.setitem(GRIDS, "full", GRID[-4:])
    monkeypatch.setattr("myna_plugin.probing.scoring.draw_figures", lambda *arguments: None)
