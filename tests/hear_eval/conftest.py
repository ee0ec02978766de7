"""Shared by the hear-eval tests: the tiny module as an importable package of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def install_tiny_module(folder: Path, name: str = "tiny_hear") -> Path:
    """Put a copy of the tiny HEAR module into `folder` as the package `name`; its file."""
    package = folder / name
    package.mkdir(parents=True)
    return Path(shutil.copy(HERE / "tiny_hear.py", package / "__init__.py"))


def score_tiny_module(folder: Path, tasks_dir: Path, *options: str) -> str:
    """What `hear-eval` prints of the tiny module, which it runs in `folder`, by one quick head."""
    install_tiny_module(folder)
    command = ["myna_plugin.hear_eval", "--module", "tiny_hear", "--tasks-dir", str(tasks_dir)]
    done = subprocess.run(
        [sys.executable, "-m", *command, *options, "--grid", "faster", "--grid-points", "1"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
