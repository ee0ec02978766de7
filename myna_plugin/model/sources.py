"""Where weights are: the packaged ones, files, published names and hf:// addresses."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from myna_plugin.model.tensors import CheckpointError, list_some

PACKAGED_WEIGHTS = Path(__file__).parent / "weights"

PACKAGED_FILES = {"": "default.safetensors", "tiny": "tiny.safetensors"}
"""The packaged models by name: a ViT-S, and a ViT-Ti of a quarter of its size."""

SUFFIXES = (".safetensors", ".pth", ".pt")

FOLDER_WEIGHTS = "model.safetensors"
FOLDER_CONFIG = "config.json"
"""Of a folder, or a repository, for transformers."""


@dataclass(frozen=True)
class Published:
    """A checkpoint of the paper's authors: its Hugging Face repository and its patchings."""

    repository: str
    patchings: tuple[str, ...]


PUBLISHED: dict[str, Published] = {
    "myna-base": Published("oriyonay/myna-base", ("square",)),
    "myna-vertical": Published("oriyonay/myna-vertical", ("vertical",)),
    "myna-hybrid": Published("oriyonay/myna-hybrid", ("square", "vertical")),
    "myna-85m": Published("oriyonay/myna-85m", ("square", "vertical")),
}


def weights_folder() -> Path:
    """Where weights are looked for by name: $MYNA_PLUGIN_WEIGHTS, else ~/.cache/myna_plugin."""
    return Path(os.environ.get("MYNA_PLUGIN_WEIGHTS") or Path.home() / ".cache" / "myna_plugin")


def resolve(source: str | Path) -> tuple[Path, tuple[str, ...] | None]:
    """Find the file behind a name, path or hf:// address, downloading if that is what it asks.

    Returns:
        The local file, and its patchings where the name is a published one's (a local file called
        "myna-vertical.pth" counts), else None.
    """
    if not isinstance(source, str | os.PathLike):
        told = 'must be a path or a name, "" or "tiny" for a packaged model'
        raise TypeError(f"the model {told}, got {source!r:.60}")
    text = str(os.fspath(source))
    if text.startswith("hf://"):
        address = text.removeprefix("hf://")
        repository, _, revision = address.partition("@")
        known = next((p.patchings for p in PUBLISHED.values() if p.repository == repository), None)
        return _download(repository, revision or None, Path(repository).name), known
    path = Path(text).expanduser()
    if os.path.isfile(path):  # `Path.is_file` raises where a name is too long for the system
        return path, PUBLISHED[path.stem].patchings if path.stem in PUBLISHED else None
    if text in PACKAGED_FILES:
        packaged = PACKAGED_WEIGHTS / PACKAGED_FILES[text]
        if not packaged.is_file():
            raise CheckpointError(f"{packaged}: missing; install myna-plugin anew")
        return packaged, None
    if text in PUBLISHED:
        for suffix in SUFFIXES:
            local = weights_folder() / f"{text}{suffix}"
            if local.is_file():
                return local, PUBLISHED[text].patchings
        return _download(PUBLISHED[text].repository, None, text), PUBLISHED[text].patchings
    if os.path.isdir(path):
        if not os.path.isfile(path / FOLDER_WEIGHTS):
            raise CheckpointError(
                f"{path}: a folder without {FOLDER_WEIGHTS}; give one that "
                "`myna export --to transformers` or transformers wrote, in one piece, or a file"
            )
        return path / FOLDER_WEIGHTS, None
    raise CheckpointError(
        f"{text}: no such file, and not a known name; known are "
        f"{', '.join([*filter(None, PACKAGED_FILES), *PUBLISHED])}, "
        "hf://owner/name, or the path of a .safetensors, .pth or .pt file or a transformers folder"
    )


def _download(repository: str, revision: str | None, name: str) -> Path:
    """The weights file of a Hugging Face repository, from its cache or the network."""
    # Imported on request only: it is slow to import, and most loads are local.
    from huggingface_hub import (
        errors,
        hf_hub_download,
        list_repo_files,
        try_to_load_from_cache,
    )

    wanted = [FOLDER_WEIGHTS, f"{name}.safetensors", f"{name}.pth", "pytorch_model.bin"]
    try:
        for candidate in wanted:
            cached = try_to_load_from_cache(repository, candidate, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
        for candidate in wanted:
            try:
                if candidate == FOLDER_WEIGHTS:
                    # Of our own folders it says what tensors do not; it lands beside them. First,
                    # for without network the weights then do not come either.
                    with suppress(errors.EntryNotFoundError):
                        hf_hub_download(repository, FOLDER_CONFIG, revision=revision)
                return Path(hf_hub_download(repository, candidate, revision=revision))
            except errors.LocalEntryNotFoundError:  # there is no network
                raise
            except errors.EntryNotFoundError:
                continue
        files = list_repo_files(repository, revision=revision)
        others = sorted(f for f in files if f.endswith(SUFFIXES))
        if others:
            return Path(hf_hub_download(repository, others[0], revision=revision))
        reason = f"it holds no weights, only {list_some(files)}"
    except (OSError, ValueError, RuntimeError, errors.HfHubHTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, errors.LocalEntryNotFoundError):  # its own words say less
            reason = "the Hugging Face hub cannot be reached"
        raise CheckpointError(
            f"hf://{repository}: cannot be downloaded ({reason}). Without network, put the file at "
            f"{weights_folder() / name}.safetensors (or .pth) and load it as {name!r} if that is "
            "one of the known names, else by its path"
        ) from error
    raise CheckpointError(f"hf://{repository}: {reason}")
