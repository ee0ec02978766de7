"""Checkpoints: an encoder from tensors, every key and shape verified, and back into a file."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from myna_plugin.common.files import read_json, replacing
from myna_plugin.model.encoder import (
    CHUNK_FRAMES,
    PATCH_AREA,
    PATCHINGS,
    TOKENIZER_NAMES,
    EncoderConfig,
    MynaEncoder,
)
from myna_plugin.model.identity import digest_weights
from myna_plugin.model.layouts import CONFIG, read_layout, read_weights, weights_bytes
from myna_plugin.model.sources import PUBLISHED, resolve
from myna_plugin.model.tensors import CheckpointError, list_some
from myna_plugin.model.vit import HEAD_DIM

FORMAT_VERSION = "1"

PACKAGED = (
    "the packaged one, trained on rendered scores and free recordings; it is not the published "
    f"Myna: name one of {', '.join(PUBLISHED)} for that"
)

VERTICAL_CHUNK_FRAMES = 98
"""The released pipeline cuts for the vertical-only model to a multiple of 2, not of 16."""


def load_encoder(
    source: str | Path = "", *, embedding: str = "auto", chunk_frames: int | None = None
) -> MynaEncoder:
    """Load an encoder, its architecture read from the tensors themselves.

    Args:
        source: a local .safetensors, .pth or .pt file; a folder such as `myna export --to
            transformers` writes, whatever transformers did to it since, or a download of a whole
            repository; a name from `PUBLISHED`; "owner/name" of the Hugging Face hub,
            "hf://owner/name" or "hf://owner/name@revision"; "" for the packaged model; or "tiny"
            for the small one.
        embedding: "auto", "square", "vertical" or "hybrid": what will be asked of the encoder. It
            also tells which patching a bare one-tokenizer state dict has, if nothing else does.
        chunk_frames: frames of a chunk, in whole patches; None for what the checkpoint names.

    Returns:
        The encoder in eval mode, on the CPU, without projector, no gradients kept.

    Raises:
        CheckpointError: the weights are not found, not readable with `weights_only`, not a Myna
            encoder, incomplete, or cannot give `embedding`.
        ValueError: another option outside its range.
    """
    if not isinstance(embedding, str) or embedding not in ("auto", "hybrid", *PATCHINGS):
        raise ValueError(
            f"embedding must be auto, hybrid, {' or '.join(PATCHINGS)}, got {embedding!r}"
        )
    path, known = resolve(source)
    encoder = read_encoder(path, patchings=known, embedding=embedding)
    if chunk_frames is not None:
        # Positions are computed for whatever length; there are no weights of a length.
        longer = _build(replace(encoder.config, chunk_frames=chunk_frames))
        longer.load_state_dict(encoder.state_dict())
        encoder = longer
    if not source:
        _say_which()
    return encoder.eval().requires_grad_(False)


@cache
def _say_which() -> None:
    """Once a process: who names no model must not take the packaged one for the published."""
    logging.getLogger(__package__).warning("no model was named: %s", PACKAGED)


def read_encoder(
    path: Path, *, patchings: tuple[str, ...] | None = None, embedding: str = "auto"
) -> MynaEncoder:
    """Build the encoder that a weights file describes and verify every key and shape.

    Args:
        path: a .safetensors file, ours or not, or a state dict from `torch.save`.
        patchings: the tokenizers' patchings in order, where the caller knows them.
        embedding: as for `load_encoder`.

    Raises:
        CheckpointError: as for `load_encoder`.
    """
    return _read_encoder_and_projector(path, patchings, embedding)[0]


def _read_encoder_and_projector(
    path: Path, patchings: tuple[str, ...] | None, embedding: str
) -> tuple[MynaEncoder, dict[str, Tensor]]:
    tensors, metadata = read_weights(path)
    config = _stored_config(path, metadata)
    if config is None:
        beside = path.with_name(CONFIG)
        content = read_json(beside) if beside.is_file() else None
        config = _folder_config(beside, content)
    if config is None:
        told, frames = read_layout(beside, content)
        config = detect_config(path, tensors, told or patchings, embedding, frames)
    _check_size(path, config)
    _check_embedding(embedding, config.patchings, str(path))
    _check_tokenizer_order(path, tensors, metadata)
    encoder = _build(config)
    projector = _projector_of(tensors)
    weights = {k: v for k, v in tensors.items() if k not in projector}
    _verify(path, weights, encoder.state_dict())
    encoder.load_state_dict(weights, strict=True)
    return encoder, projector


def _projector_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if k.startswith("linear_head.")}


def load_weights(encoder: MynaEncoder, source: str | Path) -> bool:
    """Give an encoder the weights of a checkpoint, to train it further.

    Args:
        encoder: of the checkpoint's shape; its chunks may be of another length.
        source: as for `load_encoder`.

    Returns:
        Whether all weights are the checkpoint's: False where the encoder has a projector and the
        checkpoint none of the same widths.

    Raises:
        CheckpointError: as for `load_encoder`, or the checkpoint is of another shape.
    """
    path, known = resolve(source)
    config = encoder.config
    alone = config.patchings[0] if len(config.patchings) == 1 else "auto"
    found, projector = _read_encoder_and_projector(path, known, alone)
    readings = {"timestamp_layer", "timestamp_hop_ms", "timestamp_reading"}
    free = {"projector", "chunk_frames", "scene_layers", "scene_pooling"} | readings
    wanted = asdict(config)
    different = [
        f"{name} {value} instead of {wanted[name]}"
        for name, value in asdict(found.config).items()
        if name not in free and value != wanted[name]
    ]
    if different:
        raise CheckpointError(f"{path}: cannot be trained further so: has {list_some(different)}")
    encoder.load_state_dict(found.state_dict(), strict=False)
    own = _projector_of(encoder.state_dict())
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in projector.items()}:
        return not own
    encoder.load_state_dict(projector, strict=False)
    return True


def detect_config(
    path: Path,
    tensors: dict[str, Tensor],
    patchings: tuple[str, ...] | None = None,
    embedding: str = "auto",
    chunk_frames: int | None = None,
) -> EncoderConfig:
    """Read an encoder's configuration off the shapes of a state dict in the published layout.

    Args:
        path: the file, for messages.
        tensors: the state dict.
        patchings: the tokenizers' patchings in order, where something tells.
        embedding: as for `load_encoder`.
        chunk_frames: None for what the released pipeline cuts.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in tensors:
            raise CheckpointError(
                f"{path}: not a Myna encoder: {key} is missing; found {list_some(sorted(tensors))}"
            )
        return tuple(tensors[key].shape)

    dim, area = (*shape("to_patch_embedding.2.weight"), 0)[:2]
    if area != PATCH_AREA:
        raise CheckpointError(
            f"{path}: its patches hold {area} values; Myna's hold {PATCH_AREA} (16×16 or 128×2)"
        )
    inner = shape("transformer.layers.0.0.to_qkv.weight")[0] // 3
    if inner % HEAD_DIM:
        raise CheckpointError(
            f"{path}: attention {inner} wide does not divide into heads of {HEAD_DIM}"
        )
    names = [n for n in TOKENIZER_NAMES if any(k.startswith(f"{n}.") for k in tensors)]
    if patchings is None or len(patchings) != len(names):
        patchings = _guess_patchings(path, len(names), patchings, embedding)
    # Blocks are counted while there are any: a name may hold any number.
    depth = next(n for n in count(1) if f"transformer.layers.{n}.0.to_qkv.weight" not in tensors)
    mlp_dim = shape("transformer.layers.0.1.net.1.weight")[0]
    released = VERTICAL_CHUNK_FRAMES if patchings == ("vertical",) else CHUNK_FRAMES
    try:
        return EncoderConfig(
            patchings=patchings,
            embed_dim=dim,
            depth=depth,
            num_heads=inner // HEAD_DIM,
            mlp_dim=mlp_dim,
            chunk_frames=chunk_frames or released,
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: not a Myna encoder: {error}") from error


def _guess_patchings(
    path: Path, n_tokenizers: int, expected: tuple[str, ...] | None, embedding: str
) -> tuple[str, ...]:
    """Patchings of a bare state dict: two tokenizers are square then vertical, one is a guess."""
    if expected is not None:
        raise CheckpointError(
            f"{path}: has {n_tokenizers} tokenizer(s) where its name or its {CONFIG} promises "
            f"{' and '.join(expected)}; rename the file if it is another model"
        )
    if n_tokenizers == 2:
        return ("square", "vertical")
    if embedding in PATCHINGS:
        return (embedding,)
    warnings.warn(
        f"{path}: nothing says whether its one tokenizer is square or vertical (both are "
        f'{PATCH_AREA} wide); taken as square. Say embedding="square" or "vertical" to be sure',
        UserWarning,
        stacklevel=7,
    )
    return ("square",)


def embedding_patchings(embedding: str, available: tuple[str, ...]) -> tuple[str, ...]:
    """The patchings that an embedding joins, of a model with those available.

    >>> embedding_patchings("auto", ("vertical",)), embedding_patchings("hybrid", ("vertical",))
    (('vertical',), ('square', 'vertical'))
    """
    if embedding == "auto":
        return available
    return ("square", "vertical") if embedding == "hybrid" else (embedding,)


def _check_embedding(embedding: str, patchings: tuple[str, ...], name: str) -> None:
    """Refuse an embedding that a model with these patchings cannot give."""
    if set(embedding_patchings(embedding, patchings)) - set(patchings):
        raise CheckpointError(
            f"{name}: cannot give {embedding} embeddings; its patching is {' and '.join(patchings)}"
        )


def _check_size(path: Path, config: EncoderConfig) -> None:
    """Refuse a configuration with more weights than the file has bytes, before they are made."""
    n_bytes = weights_bytes(path)
    if config.parameter_count > n_bytes:
        raise CheckpointError(
            f"{path}: claims to be an encoder of more weights than its {n_bytes:,} bytes can hold; "
            "it is damaged, or no checkpoint of Myna"
        )


def _verify(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare every key and shape, and refuse numbers that are not finite."""
    faults = []
    if missing := sorted(expected.keys() - tensors.keys()):
        faults.append(f"missing {list_some(missing)}")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        faults.append(f"unexpected {list_some(unexpected)}")
    shared = sorted(expected.keys() & tensors.keys())
    if wrong := [
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in shared
        if tensors[k].shape != expected[k].shape
    ]:
        faults.append(f"wrong shapes {list_some(wrong)}")
    if broken := [k for k in shared if not tensors[k].isfinite().all()]:
        faults.append(f"NaN or infinite numbers in {list_some(broken)}")
    if faults:
        raise CheckpointError(f"{path}: does not fit its own architecture: {'; '.join(faults)}")


def _check_tokenizer_order(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    """Find tokenizers that changed places since saving; both have the same shapes."""
    stored = _json_field(path, metadata, "tokenizers") or {}
    if len(stored) < 2:
        return
    actual = {name: _digest(tensors, name) for name in stored}
    if actual != stored and sorted(actual.values()) == sorted(map(str, stored.values())):
        raise CheckpointError(
            f"{path}: its two tokenizers are swapped: {TOKENIZER_NAMES[0]} holds what was saved as "
            f"{TOKENIZER_NAMES[1]}; exchange them or save the model again"
        )


def _digest(tensors: dict[str, Tensor], tokenizer: str) -> str:
    """Fingerprint of one tokenizer's numbers."""
    prefix = f"{tokenizer}."
    # Without the tokenizer's name: swapped ones have each other's numbers.
    return digest_weights(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )


def _stored_config(path: Path, metadata: dict[str, str]) -> EncoderConfig | None:
    """The configuration in a file of our own format, without projector; None in any other file."""
    if metadata.get("format") != "myna_plugin":
        return None
    if metadata.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {metadata.get('format_version')}, this package reads "
            f"{FORMAT_VERSION}; install the myna_plugin that wrote it, or a newer one"
        )
    fields = _json_field(path, metadata, "config") or {}
    try:
        return EncoderConfig.of_fields({"patchings": (), **fields, "projector": ()})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its stored configuration is damaged ({error})") from error


def _folder_config(file: Path, content: Any) -> EncoderConfig | None:
    """The configuration beside weights that `myna export --to transformers` wrote, or transformers
    since; None of what another file holds."""
    fields = content.get("encoder") if isinstance(content, dict) else None
    if not isinstance(fields, dict):  # published models, and others' files
        return None
    try:
        return EncoderConfig.of_fields({**fields, "projector": ()})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: its field 'encoder' is damaged ({error})") from error


def _json_field(path: Path, metadata: dict[str, str], name: str) -> dict[str, Any] | None:
    """A JSON object among a file's metadata."""
    if name not in metadata:
        return None
    try:
        value = json.loads(metadata[name])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata field {name!r} is damaged") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: its metadata field {name!r} is not an object")
    return value


def save_checkpoint(
    encoder: MynaEncoder, path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write an encoder as safetensors with its configuration in the metadata, atomically.

    Args:
        encoder: any encoder; its projector is kept if it has one.
        path: the file to write, ending in .safetensors.
        metadata: further facts to keep (licence, data, score …).

    Raises:
        CheckpointError: another file ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: our checkpoints end in .safetensors")
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    names = TOKENIZER_NAMES[: len(encoder.config.patchings)]
    facts = {
        **(metadata or {}),
        "format": "myna_plugin",
        "format_version": FORMAT_VERSION,
        "config": json.dumps(asdict(encoder.config)),
        "tokenizers": json.dumps({name: _digest(tensors, name) for name in names}),
    }
    with replacing(path) as partial:
        # Not `save_file`: its files may be read by their owner alone.
        partial.write_bytes(to_safetensors(tensors, facts))


def to_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file, the same to the byte for the same content.

    The library writes metadata in an order that differs from call to call, so they are sorted here.

    Args:
        tensors: on the CPU and contiguous.
        metadata: facts of the file.
    """
    content = save(tensors, metadata=metadata)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # As the format wants it: tensors begin at a multiple of 8 bytes, after spaces.
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _build(config: EncoderConfig) -> MynaEncoder:
    """An encoder whose initial weights will be replaced; leaves the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        return MynaEncoder(config)
