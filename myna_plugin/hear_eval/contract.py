"""Whether a module keeps the HEAR API, tried on a second of noise before any task runs.

Runs in heareval's own process and through heareval's own `Embedding`, so that what passes here is
what heareval will use: the same import, the same device, torch and tensorflow models alike.

Source: hearbenchmark.com/hear-api.html.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from importlib import import_module
from types import ModuleType
from typing import Any, TypedDict

import numpy as np
import torch

from myna_plugin.common.errors import InputError, one_line
from myna_plugin.common.registry import locate_package, positive_int
from myna_plugin.model.identity import digest_code

NOISE_S = 1
N_SOUNDS = 3
"""Three, so that a batch of embeddings alone cannot pass for (embeddings, timestamps)."""

FUNCTIONS = {"scene": "get_scene_embeddings", "event": "get_timestamp_embeddings"}
SIZES = {"scene": "scene_embedding_size", "event": "timestamp_embedding_size"}
TIME_TOLERANCE_MS = 0.01


class ModuleFacts(TypedDict):
    """What the rest of a run needs to know of a module.

    Attributes:
        name: the name that heareval files its embeddings under.
        sample_rate: Hz.
        device: where the model runs.
        code: digest of the module's package, weights shipped in it included.
        location: its file or folder.
        slug: what heareval adds to the name for the options.
        warnings: what `load_model` warned of.
    """

    name: str
    sample_rate: int
    device: str
    code: str
    location: str
    slug: str
    warnings: list[str]


def examine_module(
    module: str, model: str | None, model_options: dict[str, Any], embedding_types: Collection[str]
) -> ModuleFacts:
    """Import a module, load its model and try the functions that the tasks will call.

    Args:
        module: import path.
        model: weights file, or None for the module's own.
        model_options: keyword arguments for `load_model`.
        embedding_types: "scene", "event" or both.

    Raises:
        InputError: with one line for what is wrong.
    """
    imported = _import(module)
    for function in ("load_model", *(FUNCTIONS[kind] for kind in embedding_types)):
        if not callable(getattr(imported, function, None)):
            raise InputError(f"{module} is no HEAR module: it has no function {function}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        embedding = _load(module, model, model_options)
    sample_rate = positive_int(module, embedding.model, "sample_rate")
    noise = (
        torch.rand(N_SOUNDS, NOISE_S * sample_rate, generator=torch.Generator().manual_seed(0)) * 2
        - 1
    )
    for kind in embedding_types:
        size = positive_int(module, embedding.model, SIZES[kind])
        _try_function(module, embedding, kind, noise, size)
    location = locate_package(imported)
    return ModuleFacts(
        name=embedding.name,
        sample_rate=sample_rate,
        device=str(getattr(embedding, "device", "chosen by tensorflow")),
        code=digest_code(imported),
        location=str(location),
        slug=options_slug(model_options),
        warnings=[
            str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)
        ],
    )


def options_slug(model_options: dict[str, Any]) -> str:
    """What heareval appends to the name of the embeddings folder (embeddings/runner.py:66)."""
    from slugify import slugify

    return "".join(f"-{slugify(k)}={slugify(str(v))}" for k, v in model_options.items())


def _import(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{module} cannot be imported: {error.name or error} is not installed; install it"
        ) from error
    except Exception as error:
        raise InputError(f"{module} cannot be imported: {one_line(error)}") from error


def _load(module: str, model: str | None, model_options: dict[str, Any]) -> Any:
    from heareval.embeddings.task_embeddings import Embedding

    try:
        return Embedding(module, model, model_options)
    except Exception as error:
        call = ", ".join(
            [repr(model)] * (model is not None)
            + [f"{key}={value!r}" for key, value in model_options.items()]
        )
        raise InputError(f"{module}.load_model({call}) failed: {one_line(error)}") from error


def _try_function(module: str, embedding: Any, kind: str, noise: torch.Tensor, size: int) -> None:
    function = f"{module}.{FUNCTIONS[kind]}"
    what = f"{function}, given {N_SOUNDS} sounds of {NOISE_S} s of noise,"
    try:
        if kind == "scene":
            embeddings = embedding.get_scene_embedding_as_numpy(noise)
        else:
            embeddings, timestamps = embedding.get_timestamp_embedding_as_numpy(noise)
    except Exception as error:
        raise InputError(f"{what} failed: {one_line(error)}") from error
    if kind == "scene":
        wanted: tuple[int, ...] = (N_SOUNDS, size)
    else:
        _check_timestamps(what, timestamps)
        wanted = (*timestamps.shape, size)
    if embeddings.shape != wanted:
        raise InputError(
            f"{what} returned embeddings of shape {embeddings.shape}; "
            f"with the model's {SIZES[kind]} of {size} it must be {wanted}"
        )
    if embeddings.dtype != np.float32:
        raise InputError(f"{what} returned {embeddings.dtype}; the HEAR API asks for float32")
    if not np.isfinite(embeddings).all():
        raise InputError(f"{what} returned NaN or infinite values")


def _check_timestamps(what: str, timestamps: np.ndarray) -> None:
    if timestamps.ndim != 2 or timestamps.shape[0] != N_SOUNDS or timestamps.shape[1] < 2:
        raise InputError(
            f"{what} returned timestamps of shape {timestamps.shape}; "
            f"it must be ({N_SOUNDS}, at least 2)"
        )
    end_ms = 1000.0 * NOISE_S
    first, last = timestamps.min(), timestamps.max()
    if not (first >= -TIME_TOLERANCE_MS and last <= end_ms + TIME_TOLERANCE_MS):
        raise InputError(
            f"{what} returned timestamps from {first:g} to {last:g}; "
            f"they must lie within the sound: 0 to {end_ms:g} ms"
        )
    if not (np.diff(timestamps, axis=1) > 0).all():
        raise InputError(f"{what} returned timestamps that do not rise")
    if last <= NOISE_S:
        raise InputError(
            f"{what} returned timestamps up to {last:g}: seconds, it seems; they must be in ms"
        )
