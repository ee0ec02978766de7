"""Shared by the hear-eval tests: the tiny module as an importable package of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).parent


def install_tiny_module(folder: Path, name: str = "tiny_hear") -> Path:
    """Put a copy of the tiny HEAR module into `folder` as the package `name`; its file."""
    package = folder / name
    package.mkdir(parents=True)
    return Path(shutil.copy(HERE / "tiny_hear.py", package / "__init__.py"))
