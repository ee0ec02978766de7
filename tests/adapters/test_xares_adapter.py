"""The contract of X-ARES encoders.

X-ARES is not installed for these tests; the contract is written out from its documentation and
`xares/audio_encoder_checker.py` and `xares/utils.py` (0.1.3). Both files here have been put before
those two by hand, see the README.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import published_state_dict

from myna_plugin import get_timestamp_embeddings, load_model
from myna_plugin.adapters import xares
from myna_plugin.cli.recipe_files import FILES

ROOT = Path(__file__).parents[2]


def encoder_class(path):
    """The one attribute of a file whose name ends in "Encoder", as X-ARES finds it."""
    spec = importlib.util.spec_from_file_location("an_encoder_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (name,) = (name for name in dir(module) if name.endswith("Encoder"))
    return getattr(module, name)


def check(encoder):
    """What X-ARES asks of every encoder before it runs a task."""
    assert isinstance(encoder, torch.nn.Module)
    assert type(encoder).__name__.endswith("Encoder")
    encoded = encoder(torch.randn(2, 50_000))
    assert encoded.ndim == 3
    assert len(encoded) == 2
    assert encoded.shape[2] == encoder.output_dim
    assert encoder.sampling_rate == 16_000
    duration_ms = 50_000 / encoder.sampling_rate * 1000
    assert abs(encoded.shape[1] - duration_ms / encoder.hop_size_in_ms) <= 1
    assert not encoded.requires_grad


def test_the_adapter_has_one_encoder_that_takes_no_arguments():
    check(encoder_class(ROOT / "myna_plugin" / "adapters" / "xares.py")())


def test_the_recipe_has_one_encoder_that_takes_no_arguments(tmp_path, monkeypatch):
    torch.save(published_state_dict(1), tmp_path / "myna-vertical.pth")
    monkeypatch.setenv("MYNA_PLUGIN_WEIGHTS", str(tmp_path))
    encoder = encoder_class(FILES / "xares" / "myna_vertical.py")()
    check(encoder)
    assert encoder.model.patchings == ("vertical",)


@pytest.mark.parametrize(("embedding", "hop_ms"), [("hybrid", 50), ("square", 40)])
def test_vectors_are_the_timestamp_embeddings(checkpoint, sound, embedding, hop_ms):
    encoder = xares.MynaEncoder(checkpoint, embedding, hop_ms)
    model = load_model(checkpoint, embedding=embedding, hop_ms=hop_ms)
    expected, _ = get_timestamp_embeddings(sound, model)
    torch.testing.assert_close(encoder(sound), expected, rtol=1e-5, atol=1e-5)
