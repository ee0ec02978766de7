"""What a weights file holds: named tensors and metadata, read without unpickling anything else."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from myna_plugin.common.errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

TORCH_BYTES = (b"PK\x03\x04", b"\x80")
"""What files of `torch.save` begin with: a ZIP archive, or before torch 1.6 a pickle."""

READING_ERRORS = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
)
"""What readers raise on damaged files; unpickling does so wherever the damage lies."""


class CheckpointError(InputError):
    """Weights that cannot be found or used; the message names the file and what to do."""


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file has by name, and its metadata (empty for torch files), without unpickling.

    What kind of file it is its bytes tell, whatever its name.

    Raises:
        CheckpointError: the file is damaged, or holds no state dict.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
            stream.seek(0)
            if start[8:] == b"{":  # a safetensors header, after its length
                with safe_open(path, framework="pt") as file:
                    content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                    metadata = file.metadata() or {}
            elif start.startswith(TORCH_BYTES):
                _check_unpacked_size(stream)
                # Not the path: torch takes files named .safetensors for such.
                content, metadata = torch.load(stream, map_location="cpu", weights_only=True), {}
            else:
                raise ValueError("neither safetensors nor a file of torch.save")
    except READING_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as tensors alone ({reason}). Is the download complete? A file "
            "with other pickled objects must be saved again as torch.save(model.state_dict(), …)"
        ) from error
    return _state_dict(path, content), metadata


def _check_unpacked_size(stream: IO[bytes]) -> None:
    """Refuse an archive that would fill the memory; torch packs nothing into less bytes."""
    if zipfile.is_zipfile(stream):
        unpacked = sum(entry.file_size for entry in zipfile.ZipFile(stream).infolist())
        if unpacked > os.fstat(stream.fileno()).st_size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes, more than it has")
    stream.seek(0)


def _state_dict(path: Path, content: Any) -> dict[str, Any]:
    """The state dict itself, out of what training scripts put around it."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    _refuse(path, [(name, "not a name") for name in content if not isinstance(name, str)])
    return dict(content)


def check_tensors(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """What can be weights alone: dense floating-point tensors of at least one dimension.

    Raises:
        CheckpointError: something else is among them.
    """
    _refuse(path, _faults(content))
    return dict(content)


def _refuse(path: Path, faults: Iterable[tuple[Any, str]]) -> None:
    told = [f"{name} ({fault})" for name, fault in faults]
    if told:
        raise CheckpointError(f"{path}: not a state dict; no weights under {list_some(told)}")


def _faults(content: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Names of what cannot be weights, and why."""
    for name, value in content.items():
        if not isinstance(value, Tensor):
            yield name, type(value).__name__
        elif value.is_meta:
            yield name, "meta tensor, without numbers"
        elif value.layout != torch.strided:
            yield name, str(value.layout).removeprefix("torch.")
        elif value.dtype not in FLOATS:
            yield name, str(value.dtype).removeprefix("torch.")
        elif value.ndim == 0:
            yield name, "scalar"


def list_some(names: Iterable[str], limit: int = 6) -> str:
    """A readable list of at most `limit` names."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
