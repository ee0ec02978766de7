"""What tells one model from another: a digest of its weights, and one of its code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from myna_plugin.common.files import digest_pairs, digest_path
from myna_plugin.common.registry import OUR_PACKAGE, locate_package


def digest_weights(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, their names, types and shapes, in whatever order they come.

    >>> digest_weights({"a": torch.ones(2)}) == digest_weights({"a": torch.ones(1, 2)})
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_code(module: ModuleType) -> str:
    """SHA-256 of the source files that decide the vectors of a HEAR module.

    Of a module of ours that is this folder, packaged weights included, and of one in `peers` that
    folder too; of any other its whole top-level package.
    """
    package, _, rest = module.__name__.partition(".")
    if package != OUR_PACKAGE:
        return digest_path(locate_package(module))
    own = digest_path(Path(__file__).parent)
    if not rest.startswith("peers."):
        return own
    return digest_pairs([("model", own), ("peers", digest_path(Path(str(module.__file__)).parent))])
