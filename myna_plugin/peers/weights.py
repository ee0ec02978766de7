"""Where a peer's weights are: a folder of the user's, the hub's cache, or, if asked, the hub."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from myna_plugin.common.errors import reason
from myna_plugin.model.tensors import list_some
from myna_plugin.peers.card import Card, PeerError

CONFIG = "config.json"


def find_folder(card: Card, given: str | Path, download: bool, code: bool = False) -> Path:
    """The folder of a peer's weights as transformers lays it out.

    Args:
        card: names the repository.
        given: a folder; "" for the repository.
        download: whether to fetch the repository where it is not cached.
        code: whether to fetch its Python files too.

    Raises:
        PeerError: there is none.
    """
    if str(given):
        folder = Path(given).expanduser()
        if not (folder / CONFIG).is_file():
            raise PeerError(f"{folder}: no {CONFIG}; give a folder as hf.co/{card.repository} has")
        return folder
    from huggingface_hub import errors, snapshot_download

    fetch = partial(snapshot_download, card.repository)
    try:
        if not download:
            return Path(fetch(local_files_only=True))
        wanted = ["*.json", *(["*.py"] if code else [])]
        folder = Path(fetch(allow_patterns=[*wanted, "*.safetensors"]))
        # Pickled weights only where there are no others: they are as large again.
        if not any(folder.glob("*.safetensors")):
            folder = Path(fetch(allow_patterns=["*.bin"]))
        return folder
    except errors.LocalEntryNotFoundError as error:
        if download:
            told = "cannot be reached; fetch it elsewhere and give it with --model FOLDER"
            raise PeerError(f"hf.co/{card.repository} {told}") from error
        raise PeerError(
            f"{card.name} needs hf.co/{card.repository} ({card.terms}): hf download "
            f"{card.repository}, or --model-options '{{\"download\": true}}', or --model FOLDER"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise PeerError(f"hf.co/{card.repository}: {reason(error)[:150]}") from error


def require_all(folder: Path, missing: Iterable[str]) -> None:
    """Refuse a model of which some tensors were not in the file: they are random.

    Raises:
        PeerError: naming them.
    """
    if names := sorted(missing):
        raise PeerError(f"{folder}: its weights lack {list_some(names)}; is it another model?")
