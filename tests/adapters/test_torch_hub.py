"""torch.hub on this checkout."""

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import published_state_dict

import myna_plugin
from myna_plugin.model.sources import PUBLISHED

ROOT = Path(__file__).parents[2]


def test_the_entries_are_the_published_models():
    """What `torch.hub.list` shows: callables of hubconf.py without an underscore."""
    spec = importlib.util.spec_from_file_location("hubconf_under_test", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    entries = {n for n, value in vars(hubconf).items() if callable(value) and n[0] != "_"}
    assert entries == {"myna", *(name.replace("-", "_") for name in PUBLISHED)}
    assert all(importlib.util.find_spec(name) for name in hubconf.dependencies)


@pytest.mark.parametrize(
    ("entry", "arguments", "width"),
    [("myna", ("{}/myna-hybrid.pth",), 128), ("myna_hybrid", (), 128)],
)
def test_hub_loads_the_model(tmp_path, monkeypatch, sound, entry, arguments, width):
    torch.save(published_state_dict(2), tmp_path / "myna-hybrid.pth")
    monkeypatch.setenv("MYNA_PLUGIN_WEIGHTS", str(tmp_path))
    arguments = [argument.format(tmp_path) for argument in arguments]
    model = torch.hub.load(str(ROOT), entry, *arguments, source="local")
    expected = myna_plugin.load_model(tmp_path / "myna-hybrid.pth")
    assert model(sound).shape == (1, width)
    assert torch.equal(model(sound), expected(sound))

    square = torch.hub.load(str(ROOT), entry, *arguments, source="local", embedding="square")
    assert square(sound).shape == (1, 64)
