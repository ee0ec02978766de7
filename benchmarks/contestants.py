"""What stands in the table: models with their weights, and baselines that learn nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from myna_plugin.probing.modules import ExperimentError, LoadedModule, load_module

BASELINES = ("mel-statistics", "mfcc", "chroma", "krumhansl", "random-vit")
"""Of the modules in `myna_plugin.peers` those without weights."""

WEIGHTS = click.option("--weights", multiple=True, help="FILE or NAME=FILE; may be repeated.")

MODULE = click.option(
    "--module", default="myna_plugin", show_default=True, help="HEAR module of weights."
)

TEMPLATES = "krumhansl"
"""The baseline whose embedding is the key's scores: the key task needs no probe."""


def baselines_option(default: str) -> Callable[[Any], Any]:
    """`--baselines`, as `parse_baselines` takes it."""
    return click.option(
        "--baselines",
        default=default,
        show_default=True,
        help=f"all, none, or some of {','.join(BASELINES)}.",
    )


@dataclass(frozen=True)
class Contestant:
    """A model or baseline of the table.

    Attributes:
        name: of its rows.
        module: HEAR module.
        model_file: weights; "" for none or the module's own.
        options: keyword arguments of `load_model`.
    """

    name: str
    module: str
    model_file: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def baseline(name: str) -> Contestant:
    """A baseline by its name.

    Raises:
        ExperimentError: there is none of that name.
    """
    if name not in BASELINES:
        raise ExperimentError(f"--baselines {name}: there are {', '.join(BASELINES)}")
    return Contestant(name.replace("-", " "), f"myna_plugin.peers.{name.replace('-', '_')}")


def parse_baselines(text: str) -> list[Contestant]:
    """Baselines of "all", "none" or names joined by commas.

    >>> [contestant.name for contestant in parse_baselines("chroma,random-vit")]
    ['chroma', 'random vit']
    """
    names = {"all": list(BASELINES), "none": []}.get(text, [n for n in text.split(",") if n])
    return [baseline(name) for name in names]


def parse_weights(text: str, module: str, options: Mapping[str, Any]) -> Contestant:
    """A model of "FILE" or "NAME=FILE", where FILE is anything that `load_model` takes.

    Raises:
        ExperimentError: something that looks like a file and is not there.

    >>> parse_weights("ours=hf://owner/myna", "myna_plugin", {}).name
    'ours'
    """
    name, named, file = text.rpartition("=")
    if ("/" in file or "." in file) and "://" not in file and not Path(file).is_file():
        raise ExperimentError(f"--weights {file}: no such file")
    return Contestant(name if named else Path(file).stem or module, module, file, options)


def load_contestant(contestant: Contestant, device: str) -> LoadedModule:
    """The module of a contestant."""
    return load_module(contestant.module, contestant.model_file, contestant.options, device=device)


def choose_folders(contestants: Sequence[Contestant], out: Path) -> list[Path]:
    """Folder of each contestant.

    Raises:
        ExperimentError: two have one name.
    """
    folders = [out / re.sub(r"[^\w.-]", "_", contestant.name) for contestant in contestants]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            raise ExperimentError(
                f"two models are called {contestants[place].name!r}: use --weights NAME=FILE"
            )
    return folders
