"""Shared by the hear-eval tests: the tiny module as an importable package of its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def install_tiny_module(folder: Path, name: str = "tiny_hear") -> Path:
    """Put a copy of the tiny HEAR module into `folder` as the package `name`; its file."""
    package = folder / name
    package.mkdir(parents=True)
    return Path(shutil.copy(HERE / "tiny_hear.py", package / "__init__.py"))


@pytest.fixture
def import_folder(tmp_path, monkeypatch):
    """An empty folder on the import path, forgotten after the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(folder)):
            del sys.modules[name]
