"""The recipes that the package carries: settings of experiments, and files for toolkits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import myna_plugin
from myna_plugin.common.options import NamedPath

FILES = Path(myna_plugin.__file__).parent / "recipes" / "files"

SETTINGS = {"pretrain": "myna pretrain --config {}", "sweeps": "myna sweep {}"}
"""Folder of `FILES` whose every file is a recipe -> the command that takes it by name."""

TOOLKITS = {"marble": "MARBLE: its README.md says how", "xares": "X-ARES: python -m xares.run"}
"""Folder of `FILES` that is one recipe -> what it is for."""


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: by which commands take it.
        path: its file, or its folder.
        use: who takes it.
    """

    name: str
    path: Path
    use: str

    def files(self) -> list[Path]:
        """Its file, or those of its folder."""
        found = self.path.iterdir() if self.path.is_dir() else [self.path]
        return sorted(path for path in found if path.is_file())

    def duration(self) -> str:
        """How long its training took, as its head says first; "" of a folder."""
        if self.path.is_dir():
            return ""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        heads = (line.partition("# Duration:")[2].strip() for line in lines)
        return re.split("[,;] ", next(filter(None, heads), ""))[0]


def list_recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    files = {
        path.stem: Recipe(path.stem, path, use.format(path.stem))
        for folder, use in SETTINGS.items()
        for path in sorted((FILES / folder).glob("*.yaml"))
    }
    return files | {name: Recipe(name, FILES / name, use) for name, use in TOOLKITS.items()}


class RecipeFile(NamedPath):
    """A file, or the name of one of our recipes; a file of that name comes first."""

    def __init__(self, folder: str) -> None:
        super().__init__(path_type=Path, dir_okay=False)
        self.folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Find it."""
        path = super().convert(value, param, ctx)
        if path.exists() or path.is_symlink() or path.name != str(value) or path.suffix:
            return path
        known = {
            name: recipe.path
            for name, recipe in list_recipes().items()
            if recipe.path.parent.name == self.folder
        }
        if path.name not in known:
            self.fail(f"{value}: no such file, and none of {', '.join(known)}", param, ctx)
        return known[path.name]
