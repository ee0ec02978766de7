"""Both published versions of HEAR's own validator accept the module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

VERSIONS = ("2021.0.2", "2021.0.6")

RUNNER = """
import importlib.machinery, runpy, sys, types

# The validators ask tensorflow only whether the model is one of its modules.
tensorflow = types.ModuleType("tensorflow")
tensorflow.__spec__ = importlib.machinery.ModuleSpec("tensorflow", loader=None)
tensorflow.Module = type("Module", (), {})
sys.modules["tensorflow"] = tensorflow
sys.argv = ["hear-validator", *sys.argv[1:]]
runpy.run_module("hearvalidator.validate", run_name="__main__")
"""

BROKEN_MODULE = """
import myna_plugin
from myna_plugin import get_timestamp_embeddings, load_model

def get_scene_embeddings(audio, model):
    return myna_plugin.get_scene_embeddings(audio, model)[:, 1:]
"""


def validator_folder(version: str) -> Path:
    """Where the Makefile puts a validator; skips, or fails on CI, where it did not."""
    folder = Path(sys.prefix) / f"hearvalidator-{version}"
    if not folder.is_dir():
        reason = f"hearvalidator {version} is not in {folder}; `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def validate(version: str, module: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """Run a validator as its command does, in a fresh interpreter."""
    path = os.pathsep.join(map(str, (validator_folder(version), *folders, ROOT)))
    return subprocess.run(
        [sys.executable, "-c", RUNNER, module, "--device", "cpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_validator_accepts_the_module(version: str) -> None:
    result = validate(version, "myna_plugin")

    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("Looks good!")
    # Said once, however often it is loaded.
    assert result.stderr.count("it is not the published Myna") == 1


def test_validator_rejects_a_wrong_width(tmp_path: Path) -> None:
    (tmp_path / "narrow_module.py").write_text(BROKEN_MODULE)

    result = validate("2021.0.6", "narrow_module", tmp_path)

    assert result.returncode != 0
    assert "embedding size" in result.stderr
