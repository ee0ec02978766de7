"""How others lay out a Myna: which file of a folder has the weights, and under which keys.

The released checkpoints are bare state dicts; wrapped for transformers the same tensors have a
prefix, buffers of the front-end beside them, a `config.json`, and may be spread over shards.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from myna_plugin.common.files import is_plain_name
from myna_plugin.model.audio import HOP_LENGTH
from myna_plugin.model.encoder import PATCHINGS, TOKENIZER_NAMES
from myna_plugin.model.tensors import CheckpointError, check_tensors, list_some, read_file

CONFIG = "config.json"

INDEX = ".index.json"
"""What the list of a model's shards ends in."""

SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Of weights, the ones that we rather take first."""

USUAL = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin")
USUAL_SHARDED = f"pytorch_model.bin{INDEX}"

LEFT_BY_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.\w+")

MARK = f"{TOKENIZER_NAMES[0]}.2.weight"
"""The key that every Myna has; what stands before it stands before all of its keys."""

NO_WEIGHTS = ("preprocessor", "mel_spec", "spectrogram", "pos_embedding", "pos_embedding_b")
"""What wrappers keep beside the encoder's weights: the front-end's buffers and the positions, which
are fixed."""


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The encoder's tensors, by our keys, and the file's metadata (empty but for safetensors).

    A projector that the encoder was trained with is among them. A warning tells what else there
    was and is left out.

    Args:
        path: a file, or the index of a model in shards, which lie beside it.

    Raises:
        CheckpointError: a file is missing or damaged, holds no state dict, or several encoders.
    """
    if not path.name.endswith(INDEX):
        content, metadata = read_file(path)
    else:
        content, metadata = {}, {}
        for shard in shards_of(path):
            if not path.with_name(shard).is_file():
                raise CheckpointError(f"{path.with_name(shard)}: missing, and {path} lists it")
            content |= read_file(path.with_name(shard))[0]
    return check_tensors(path, encoder_part(path, content)), metadata


def list_files(folder: Path) -> list[str]:
    """All files below a folder, as POSIX paths within it."""
    return [
        Path(base, file).relative_to(folder).as_posix()
        for base, _, names in os.walk(folder)
        for file in names
    ]


def choose_weights(files: Iterable[str], name: str) -> str | None:
    """The file of a folder or repository that has the weights, or lists the shards that have them.

    Args:
        files: their names, as POSIX paths within it.
        name: what the model is called.

    Returns:
        One of `files`; None if there are no weights.

    Raises:
        CheckpointError: there are several, and nothing says which; names them.

    >>> choose_weights(["config.json", "pytorch_model.bin", "model.safetensors"], "myna-base")
    'model.safetensors'
    """
    known = set(files)
    own = [f"{name}{suffix}" for suffix in SUFFIXES]
    for usual in (USUAL[0], own[0], *USUAL[1:], *own[1:], USUAL_SHARDED):
        if usual in known:
            return usual
    for suffix in SUFFIXES:
        fitting = [
            file
            for file in sorted(known)
            if file.endswith(suffix)
            and not SHARD.fullmatch(file)
            and not LEFT_BY_TRAINING.fullmatch(PurePosixPath(file).name)
        ]
        if len(fitting) > 1:
            raise CheckpointError(
                f"holds several weights, {', '.join(fitting)}: give the path of the one you mean"
            )
        if fitting:
            return fitting[0]
    return None


def shards_of(index: Path) -> list[str]:
    """The names of the files beside an index that the weights are spread over.

    Raises:
        CheckpointError: it is damaged, or names a file elsewhere.
    """
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        shards = sorted(set(listed))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not a list of shards; download it anew") from error
    # A colon leads to another disk of Windows.
    if odd := [shard for shard in shards if not is_plain_name(shard) or ":" in shard]:
        raise CheckpointError(f"{index}: names {odd[0]!r}, which is no file beside it")
    return shards


def weights_bytes(path: Path) -> int:
    """Size of a weights file, or of all shards that an index lists."""
    files = [path.with_name(s) for s in shards_of(path)] if path.name.endswith(INDEX) else [path]
    return sum(file.stat().st_size for file in files)


def encoder_part(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a file is the encoder, by our keys; a warning tells what is left out.

    Raises:
        CheckpointError: there are several encoders in it.

    >>> encoder_part(Path("a.pth"), {"vit.to_patch_embedding.2.weight": 1, "vit.more": 2})
    {'to_patch_embedding.2.weight': 1, 'more': 2}
    """
    marks = [key for key in content if key == MARK or key.endswith(f".{MARK}")]
    if len(marks) > 1:
        raise CheckpointError(
            f"{path}: holds several encoders, {', '.join(sorted(marks))}; save one of them alone"
        )
    prefix = marks[0].removesuffix(MARK) if marks else ""
    part = {
        key.removeprefix(prefix): value
        for key, value in content.items()
        if key.startswith(prefix) and key.removeprefix(prefix).split(".")[0] not in NO_WEIGHTS
    }
    if left_out := [key for key in content if key.removeprefix(prefix) not in part]:
        warnings.warn(
            f"{path}: {list_some(left_out)} left out: no weights of Myna's encoder",
            UserWarning,
            stacklevel=2,
        )
    return part


def read_layout(config: Path, content: Any) -> tuple[tuple[str, ...] | None, int | None]:
    """Patchings and frames of a chunk that the `config.json` of a published model tells.

    Its fields are `patch_size` and `additional_patch_size`, `n_frames` or `n_samples`.

    Args:
        config: the file, for messages.
        content: what it holds; None where there is none.

    Returns:
        The patchings in the tokenizers' order, and frames, in whole patches; None where the file
        does not say.

    Raises:
        CheckpointError: patches or frames that Myna does not have.
    """
    if not isinstance(content, dict) or not content.get("patch_size"):
        return None, None
    sizes = (content["patch_size"], content.get("additional_patch_size"))
    patchings = tuple(_patching(config, size) for size in sizes if size)
    frames = content.get("n_frames")
    if frames is None and isinstance(content.get("n_samples"), int):
        frames = content["n_samples"] // HOP_LENGTH + 1
    if frames is None:
        return patchings, None
    whole = math.lcm(*(PATCHINGS[name][1] for name in patchings))
    if not isinstance(frames, int) or frames < whole:
        raise CheckpointError(f"{config}: a chunk of {frames!r} frames holds no patch")
    return patchings, frames - frames % whole


def _patching(config: Path, size: Any) -> str:
    """The patching of a size, such as 16 or [128, 2]."""
    shape = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list) else ()
    for name, own in PATCHINGS.items():
        if shape == tuple(own):
            return name
    raise CheckpointError(
        f"{config}: its patches are {size!r}; Myna's are "
        + " or ".join(f"{rows}×{columns}" for rows, columns in PATCHINGS.values())
    )
