"""torch.hub on this checkout."""

import importlib.util
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from conftest import published_state_dict

import myna_plugin
from myna_plugin.model.sources import PUBLISHED

ROOT = Path(__file__).parents[2]


def import_hubconf():
    """hubconf.py as a module."""
    spec = importlib.util.spec_from_file_location("hubconf_under_test", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    return hubconf


def test_the_entries_are_the_published_models_each_with_its_help():
    """What `torch.hub.list` shows, callables without an underscore, and `torch.hub.help`."""
    entries = {n: v for n, v in vars(import_hubconf()).items() if callable(v) and n[0] != "_"}
    assert set(entries) == {"myna", *(name.replace("-", "_") for name in PUBLISHED)}
    helps = {name: entry.__doc__ for name, entry in entries.items()}
    assert len(set(helps.values())) == len(entries)
    assert all("16 kHz" in text for text in helps.values())
    assert "85 million" in helps["myna_85m"]


def test_what_is_imported_is_among_the_dependencies():
    code = "import sys, hubconf; print(*{n.split('.')[0] for n in sys.modules}, sep=',')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = set(done.stdout.strip().split(","))
    hubconf = import_hubconf()
    ours = {name for name, by in metadata.packages_distributions().items() if set(by) & required()}
    parts = {"torchgen", "_soundfile", "_soundfile_data"}
    assert (loaded & ours) - parts <= set(hubconf.dependencies)
    assert all(importlib.util.find_spec(name) for name in hubconf.dependencies)


def required():
    """Distributions that the package asks for, without extras."""
    texts = [text for text in metadata.requires("myna-plugin") if "extra ==" not in text]
    return {re.match(r"[\w.-]+", text)[0] for text in texts}


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

    square = torch.hub.load(
        str(ROOT), entry, *arguments, source="local", pretrained=True, embedding="square"
    )
    assert square(sound).shape == (1, 64)
    with pytest.raises(ValueError, match="pretrained must be True"):
        torch.hub.load(str(ROOT), entry, *arguments, source="local", pretrained=False)
