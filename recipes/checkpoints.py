"""Checkpoints that the recipes' own training runs go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from myna_plugin.common.errors import InputError
from myna_plugin.model.tensors import READING_ERRORS


def read_state(path: Path, begun: Mapping[str, Any], device: str = "cpu") -> dict[str, Any] | None:
    """What a checkpoint holds; None if there is none.

    Args:
        path: the file.
        begun: what decides the weights; it has to be the checkpoint's own "begun".
        device: where its tensors go.

    Raises:
        InputError: it is damaged, none of these recipes', or of a run that was begun otherwise.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except READING_ERRORS as error:
        raise InputError(f"{path}: damaged ({error}); begin another run") from error
    if not isinstance(state, dict) or not isinstance(state.get("begun"), dict):
        raise InputError(f"{path}: no checkpoint of this recipe; give another OUT")
    if state["begun"] != begun:
        told = ", ".join(f"{k}={v}" for k, v in state["begun"].items() if begun.get(k) != v)
        raise InputError(f"{path}: begun with {told}; go on with that, or give another OUT")
    return state
