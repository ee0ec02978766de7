"""A HEAR module, loaded: what its embeddings depend on, and how it embeds a batch of clips."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from myna_plugin.common.errors import InputError, one_line
from myna_plugin.common.files import digest_pairs, digest_path
from myna_plugin.common.registry import list_models, positive_int, resolve
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import parameter_count
from myna_plugin.model.identity import digest_code, digest_weights

POOLS = ("clip", "chunk")

SCENE = "scene"
"""The one part of an embedding that is not put together from several."""


class ExperimentError(InputError):
    """An experiment that cannot go on; the message names the file, field or option."""


@dataclass(frozen=True)
class LoadedModule:
    """A HEAR module with its model on a device.

    Attributes:
        name: as the user named it.
        path: import path.
        distribution: its distribution and version, "" if it belongs to none.
        model_file: weights as the user named them; "" for the module's own.
        options: keyword arguments of `load_model`.
        pool: "clip" (one vector a clip) or "chunk".
        chunk_s: length of the windows that are chunks, seconds; None where the module cuts chunks
            itself, or for one vector a clip.
        sample_rate: Hz.
        width: D of a scene embedding.
        parts: slice of the D features, by name, for each embedding to probe.
        code: digest of its source files.
        weights: digest of the model's tensors and of the weights file.
        parameters: numbers that were learned.
        device: where it runs, in words.
        embed_rows: from audio (B, S) to vectors (B, K, D), K = 1 for one vector a clip.
        warnings: what `load_model` warned of.
    """

    name: str
    path: str
    distribution: str
    model_file: str
    options: Mapping[str, Any]
    pool: str
    chunk_s: float | None
    sample_rate: int
    width: int
    parts: Mapping[str, slice]
    code: str
    weights: str
    parameters: int
    device: str
    embed_rows: Callable[[Tensor], Any] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """All that an embedding depends on, besides the audio."""
        return {
            "module": self.path,
            "code": self.code,
            "weights": self.weights,
            "options": dict(self.options),
            "pool": self.pool,
            "chunk_s": self.chunk_s,
            "sample_rate": self.sample_rate,
            "width": self.width,
        }

    def embed(self, audio: Tensor) -> tuple[np.ndarray, float]:
        """Embed clips of one length.

        Args:
            audio: samples in [-1, 1] at `sample_rate`, shape (B, S), on the CPU.

        Returns:
            Vectors, float32, shape (B, K, D), and the seconds that it took.

        Raises:
            ExperimentError: the module failed, or returned another shape, width or type.
        """
        start = time.perf_counter()
        with torch.no_grad():
            try:
                vectors = self.embed_rows(audio)
            except Exception as error:
                raise ExperimentError(
                    f"{self.name} failed on {tuple(audio.shape)} samples: {one_line(error)}"
                ) from error
        if not isinstance(vectors, Tensor) or not vectors.is_floating_point():
            raise ExperimentError(f"{self.name} returned {type(vectors).__name__}, not embeddings")
        rows = vectors.detach().float().cpu().numpy()
        seconds = time.perf_counter() - start
        if rows.ndim != 3 or len(rows) != len(audio):
            raise ExperimentError(
                f"{self.name} returned an array of shape {rows.shape} for {len(audio)} clips"
            )
        if rows.shape[2] != self.width:
            raise ExperimentError(
                f"{self.name} returned embeddings of width {rows.shape[2]}; its "
                f"scene_embedding_size is {self.width}"
            )
        return rows, seconds


def name_of(module: str, model_file: str) -> str:
    """What a module with these weights is called in tables, unless the user says.

    >>> name_of("clmr", "weights/clmr_10000.pt"), name_of("mfcc", "")
    ('clmr clmr_10000', 'mfcc')
    """
    return f"{module} {Path(model_file).stem}" if model_file else module


def load_module(
    name: str,
    model_file: str = "",
    options: Mapping[str, Any] | None = None,
    *,
    pool: str = "clip",
    chunk_s: float = 3.0,
    device: str = "cpu",
) -> LoadedModule:
    """Import a HEAR module and load its model.

    Args:
        name: registered name, or import path.
        model_file: first argument of `load_model`; "" leaves it out.
        options: keyword arguments of `load_model`.
        pool: one of `POOLS`.
        chunk_s: length of a window for `pool` "chunk", seconds, where the module is not ours.
        device: "cpu", "mps", "cuda" or "cuda:N".

    Raises:
        InputError: nothing has that name.
        ExperimentError: the module or the model cannot be used.
    """
    found = resolve(name, list_models())
    module = import_module(found.module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = _load_model(name, module, model_file, options or {}, device)
    sample_rate, width = (
        positive_int(name, model, field) for field in ("sample_rate", "scene_embedding_size")
    )
    own_chunks = isinstance(model, Embedder)
    return LoadedModule(
        name=name,
        path=found.module,
        distribution=f"{found.distribution} {found.version}" if found.distribution else "",
        model_file=model_file,
        options=options or {},
        pool=pool,
        chunk_s=chunk_s if pool == "chunk" and not own_chunks else None,
        sample_rate=sample_rate,
        width=width,
        parts=_find_parts(model, width),
        code=digest_code(module),
        weights=_digest_weights(model, model_file),
        parameters=parameter_count(model),
        device=_describe_device(device),
        embed_rows=_rows_function(module, model, pool, round(chunk_s * sample_rate), device),
        warnings=tuple(str(w.message) for w in caught if issubclass(w.category, UserWarning)),
    )


def _load_model(
    name: str, module: ModuleType, model_file: str, options: Mapping[str, Any], device: str
) -> nn.Module:
    arguments = [model_file] if model_file else []
    try:
        model = module.load_model(*arguments, **options)
    except InputError as error:  # one of ours says what is to be done
        told = str(error)
        raise ExperimentError(told if told.startswith(name) else f"{name}: {told}") from error
    except Exception as error:
        raise ExperimentError(f"{name}: load_model failed: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ExperimentError(
            f"{name}: load_model returned {type(model).__name__}; only torch modules are scored "
            "here (hear-eval also takes tensorflow's)"
        )
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ExperimentError(f"--device {device}: {one_line(error)}") from error


def import_module(path: str) -> ModuleType:
    """Import a HEAR module.

    Raises:
        ExperimentError: it cannot be imported, or is no HEAR module.
    """
    try:
        module = importlib.import_module(path)
    except Exception as error:
        raise ExperimentError(f"{path} cannot be imported: {one_line(error)}") from error
    for function in ("load_model", "get_scene_embeddings"):
        if not callable(getattr(module, function, None)):
            raise ExperimentError(f"{path} is no HEAR module: it has no function {function}")
    return module


def _find_parts(model: nn.Module, width: int) -> dict[str, slice]:
    """Myna's layers, patchings and their concatenations; any other embedding is one part.

    Source: paper §4.3 evaluates square, vertical and both from the hybrid model.
    """
    return model.scene_parts() if isinstance(model, Embedder) else {SCENE: slice(0, width)}


def _rows_function(
    module: ModuleType, model: nn.Module, pool: str, window: int, device: str
) -> Callable[[Tensor], Any]:
    def embed_scenes(audio: Tensor) -> Any:
        return module.get_scene_embeddings(audio.to(device), model)

    def embed_clips(audio: Tensor) -> Any:
        return _require_matrix(embed_scenes(audio))[:, None]

    def embed_windows(audio: Tensor) -> Any:
        vectors = [
            _require_matrix(embed_scenes(windows.flatten(0, 1))).unflatten(0, windows.shape[:2])
            for windows in cut_windows(audio, window)
        ]
        return torch.cat(vectors, dim=1)

    if pool == "clip":
        return embed_clips
    return _own_chunks(model, device) if isinstance(model, Embedder) else embed_windows


def _require_matrix(vectors: Any) -> Tensor:
    if not isinstance(vectors, Tensor) or vectors.ndim != 2:
        what = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ExperimentError(f"get_scene_embeddings returned {what}, not (n_sounds, width)")
    return vectors


def _own_chunks(model: Embedder, device: str) -> Callable[[Tensor], Tensor]:
    def embed_chunks(audio: Tensor) -> Tensor:
        vectors, frames = model.embed_chunks(audio.to(device))
        # The partial chunk at the end is one prediction among the others: it must be worth it.
        keep = 2 * frames >= model.encoder.config.chunk_frames
        keep[0] = True
        return vectors[:, keep]

    return embed_chunks


def cut_windows(audio: Tensor, window: int) -> list[Tensor]:
    """Cut sounds into windows; what is left counts if it is half a window, or all there is.

    Args:
        audio: shape (B, S).
        window: samples.

    Returns:
        Full windows (B, K, window), if any, then the rest (B, 1, rest), if it counts.

    >>> [tuple(cut.shape) for cut in cut_windows(torch.zeros(2, 25), 10)]
    [(2, 2, 10), (2, 1, 5)]
    >>> [tuple(cut.shape) for cut in cut_windows(torch.zeros(2, 3), 10)]
    [(2, 1, 3)]
    """
    full, rest = divmod(audio.shape[1], window)
    cuts = [audio[:, : full * window].unflatten(1, (full, window))] if full else []
    if not full or 2 * rest >= window:
        cuts.append(audio[:, None, full * window :])
    return cuts


def _digest_weights(model: nn.Module, model_file: str) -> str:
    """Of every tensor of the model, and of the file, for models that keep numbers elsewhere."""
    tensors = {name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)}
    file = digest_path(Path(model_file)) if model_file and Path(model_file).exists() else model_file
    return digest_pairs([("tensors", digest_weights(tensors)), ("file", file)])


def _describe_device(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device == "mps" else "CPU"
