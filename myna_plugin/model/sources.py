"""Where weights are: the packaged ones, files, published names and hf:// addresses."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from myna_plugin.model.hub import download, find_cached
from myna_plugin.model.layouts import INDEX, SHARD, SUFFIXES, choose_weights, list_files
from myna_plugin.model.tensors import CheckpointError, list_some

PACKAGED_WEIGHTS = Path(__file__).parent / "weights"

PACKAGED_FILES = {"": "default.safetensors", "tiny": "tiny.safetensors"}
"""The packaged models by name: a ViT-S, and a ViT-Ti of a quarter of its size."""

HUB = re.compile(r"(?:hf://(?P<asked>[^@]*)|(?P<plain>[\w.-]+/[\w.-]+))(?:@(?P<revision>.+))?")
"""A repository of the Hugging Face hub: hf://owner/name or owner/name, and @revision."""


@dataclass(frozen=True)
class Published:
    """A checkpoint of the paper's authors: its Hugging Face repository, patchings, token width."""

    repository: str
    patchings: tuple[str, ...]
    width: int = 384


PUBLISHED: dict[str, Published] = {
    "myna-base": Published("oriyonay/myna-base", ("square",)),
    "myna-vertical": Published("oriyonay/myna-vertical", ("vertical",)),
    "myna-hybrid": Published("oriyonay/myna-hybrid", ("square", "vertical")),
    "myna-85m": Published("oriyonay/myna-85m", ("square", "vertical"), 768),
}


def weights_folder() -> Path:
    """Where weights are looked for by name: $MYNA_PLUGIN_WEIGHTS, else ~/.cache/myna_plugin."""
    return Path(os.environ.get("MYNA_PLUGIN_WEIGHTS") or Path.home() / ".cache" / "myna_plugin")


def resolve(source: str | Path) -> tuple[Path, tuple[str, ...] | None]:
    """Find the file behind a name, path or address, downloading if that is what it asks.

    Returns:
        The local file, or the index of a model in shards, and its patchings where the name is a
        published one's (a local file called "myna-vertical.pth" counts), else None.

    Raises:
        CheckpointError: there is nothing, or several; says what is known, or was there.
    """
    if not isinstance(source, str | os.PathLike):
        told = 'must be a path or a name, "" or "tiny" for a packaged model'
        raise TypeError(f"the model {told}, got {source!r:.60}")
    text = str(os.fspath(source))
    path = Path(text).expanduser()
    if os.path.isfile(path):  # `Path.is_file` raises where a name is too long for the system
        return path, PUBLISHED[path.stem].patchings if path.stem in PUBLISHED else None
    if text in PACKAGED_FILES:
        packaged = PACKAGED_WEIGHTS / PACKAGED_FILES[text]
        if not packaged.is_file():
            raise CheckpointError(f"{packaged}: missing; install myna-plugin anew")
        return packaged, None
    if text in PUBLISHED:
        local = _kept(text)
        if local is not None:
            return local, PUBLISHED[text].patchings
        return _download(PUBLISHED[text].repository, None, text), PUBLISHED[text].patchings
    if os.path.isdir(path):
        return _find_in(path), PUBLISHED[path.name].patchings if path.name in PUBLISHED else None
    address = HUB.fullmatch(text)
    # A name in a folder that is there is a path with a slip, and asks no network.
    if address and (address["asked"] or not (text.endswith(SUFFIXES) or path.parent.exists())):
        repository = address["asked"] or address["plain"]
        known = next((p.patchings for p in PUBLISHED.values() if p.repository == repository), None)
        return _download(repository, address["revision"], Path(repository).name), known
    raise CheckpointError(
        f"{text}: no such file, and not a known name; known are "
        f"'' for the packaged model, {', '.join([*filter(None, PACKAGED_FILES), *PUBLISHED])}, "
        "owner/name of the Hugging Face hub, or the path of a .safetensors, .pth or .pt file or a "
        "folder with one"
    )


def is_here(name: str) -> bool:
    """Whether a published checkpoint can be had without the network."""
    try:
        return bool(_kept(name) or find_cached(PUBLISHED[name].repository, None, name))
    except CheckpointError:  # there are several, which loading it tells
        return True


def _kept(name: str) -> Path | None:
    """Weights that the user has put where their name finds them."""
    places = [weights_folder() / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((place for place in places if place.is_file()), None)


def _find_in(folder: Path) -> Path:
    """The weights of a folder such as a download of a whole repository."""
    files = list_files(folder)
    try:
        chosen = choose_weights(files, folder.name)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if chosen is None:
        there = f"only {list_some(sorted(files))}" if files else "it is empty"
        remedy = f"name a file in {', '.join(SUFFIXES)}, or its folder"
        if any(map(SHARD.fullmatch, files)):
            remedy = f"shards need their index: add the file in {INDEX} that lay beside them"
        raise CheckpointError(f"{folder}: no weights in it, {there}; {remedy}")
    return folder / chosen


def _download(repository: str, revision: str | None, name: str) -> Path:
    if name in PUBLISHED:
        otherwise = (
            f"bring a weights file of https://huggingface.co/{repository} by hand, then "
            f"`myna import FILE --as {name}`"
        )
    else:
        otherwise = "bring the file by hand, and give its path"
    return download(repository, revision, name, otherwise)
