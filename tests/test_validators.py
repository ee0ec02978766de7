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


def validator_folder(version: str) -> Path:
    """Where the Makefile puts a validator; skips, or fails on CI, where it did not."""
    folder = Path(sys.prefix) / f"hearvalidator-{version}"
    if not folder.is_dir():
        reason = f"hearvalidator {version} is not in {folder}; `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_validator_accepts_the_module(version: str) -> None:
    """As its command does, in a fresh interpreter."""
    path = os.pathsep.join(map(str, (validator_folder(version), ROOT)))
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, "myna_plugin", "--device", "cpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("Looks good!")
    # Said once, however often it is loaded.
    assert result.stderr.count("it is not the published Myna") == 1
