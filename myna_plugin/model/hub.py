"""Weights of the Hugging Face hub: from its cache, or the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from myna_plugin.model.layouts import CONFIG, INDEX, choose_weights, list_files, shards_of
from myna_plugin.model.tensors import CheckpointError, list_some


def download(repository: str, revision: str | None, name: str, otherwise: str) -> Path:
    """The weights of a repository, whatever its layout, with its `config.json` beside them.

    What the cache holds of the revision is taken without asking the network.

    Args:
        repository: owner/name.
        revision: branch, tag or commit; None for its main branch.
        name: what the model is called.
        otherwise: what to do without network, for the message.

    Returns:
        The file, or the index of a model in shards, which are beside it.

    Raises:
        CheckpointError: it cannot be had, or there are no weights, or several; says what there is.
    """
    # Imported on request only: it is slow to import, and most loads are local.
    from huggingface_hub import errors, hf_hub_download, model_info
    from huggingface_hub.utils import httpx

    def get(file: str) -> Path:
        return Path(hf_hub_download(repository, file, revision=revision))

    try:
        cached = find_cached(repository, revision, name)
        if cached is not None:
            return cached
        # Not `list_repo_files`, which tries for half a minute where there is no network.
        siblings = model_info(repository, revision=revision).siblings or []
        files = [sibling.rfilename for sibling in siblings]
        chosen = choose_weights(files, name)
        if chosen is not None:
            return _get_whole(chosen, files, get)
        reason = f"it holds no weights, only {list_some(sorted(files))}"
    except CheckpointError as error:
        reason = str(error)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        unreached = (
            errors.LocalEntryNotFoundError,
            errors.OfflineModeIsEnabled,
            httpx.TransportError,
        )
        if isinstance(error, unreached):
            reason = "the Hugging Face hub cannot be reached"  # their own words say less
        raise CheckpointError(
            f"hf://{repository}: cannot be downloaded ({reason}). Without network, {otherwise}"
        ) from error
    raise CheckpointError(f"hf://{repository}: {reason}")


def _get_whole(chosen: str, files: list[str], get: Callable[[str], Path]) -> Path:
    """Download weights, their shards, and the configuration first: without it they mean less."""
    beside = PurePosixPath(chosen).parent
    if str(beside / CONFIG) in files:
        get(str(beside / CONFIG))
    path = get(chosen)
    if chosen.endswith(INDEX):
        for shard in shards_of(path):
            get(str(beside / shard))
    return path


def find_cached(repository: str, revision: str | None, name: str) -> Path | None:
    """The weights in the cache, if all of them are there.

    Raises:
        CheckpointError: there are several.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    chosen = choose_weights(list_files(folder), name)
    if chosen is None:
        return None
    path = folder / chosen
    if chosen.endswith(INDEX) and not all(path.with_name(s).is_file() for s in shards_of(path)):
        return None
    return path
