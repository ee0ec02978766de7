"""What the recipes' own training runs share: what they go on from, and how they end."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from myna_plugin.common.errors import InputError, UnfinishedError
from myna_plugin.common.stopping import INTERRUPTED
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


def finite(loss: Tensor, place: str) -> float:
    """The loss, or UnfinishedError, which names the place, if that is no number to go on with."""
    value = float(loss)
    if not math.isfinite(value):
        raise UnfinishedError(f"the loss is {value} {place}")
    return value


def end(
    out: Path, step: int, seconds: float, loading: str, stopped_by: signal.Signals | None
) -> None:
    """Say what a run has come to and how it is loaded; exit with the status of what stopped it."""
    click.echo(f"{out}: {step:,} steps, {seconds / 60:.1f} minutes; load it with")
    click.echo(f"  {loading}")
    if stopped_by is not None:
        click.echo(f"stopped by {stopped_by.name}; the same command goes on")
        sys.exit(INTERRUPTED if stopped_by == signal.SIGINT else 0)
