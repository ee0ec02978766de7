"""Weights: find them by name or path, read them safely, verify every key, save in our format."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import replacing
from myna_plugin.model.encoder import (
    CHUNK_FRAMES,
    PATCH_AREA,
    PATCHINGS,
    TOKENIZER_NAMES,
    EncoderConfig,
    MynaEncoder,
)
from myna_plugin.model.identity import digest_weights
from myna_plugin.model.vit import HEAD_DIM

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "default.safetensors"
"""The packaged default model."""

SUFFIXES = (".safetensors", ".pth", ".pt")

FORMAT_VERSION = "1"

WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, training scripts and torch.compile put before every key."""

VERTICAL_CHUNK_FRAMES = 98
"""The released pipeline cuts for the vertical-only model to a multiple of 2, not of 16."""


class CheckpointError(InputError):
    """Weights that cannot be found or used; the message names the file and what to do."""


@dataclass(frozen=True)
class Published:
    """A checkpoint of the paper's authors: its Hugging Face repository and its patchings."""

    repository: str
    patchings: tuple[str, ...]


PUBLISHED: dict[str, Published] = {
    "myna-base": Published("oriyonay/myna-base", ("square",)),
    "myna-vertical": Published("oriyonay/myna-vertical", ("vertical",)),
    "myna-hybrid": Published("oriyonay/myna-hybrid", ("square", "vertical")),
    "myna-85m": Published("oriyonay/myna-85m", ("square", "vertical")),
}


def weights_folder() -> Path:
    """Where weights are looked for by name: $MYNA_PLUGIN_WEIGHTS, else ~/.cache/myna_plugin."""
    return Path(os.environ.get("MYNA_PLUGIN_WEIGHTS") or Path.home() / ".cache" / "myna_plugin")


def load_encoder(source: str | Path = "", *, embedding: str = "auto") -> MynaEncoder:
    """Load an encoder, its architecture read from the tensors themselves.

    Args:
        source: a local .safetensors, .pth or .pt file; a name from `PUBLISHED`;
            "hf://owner/name" or "hf://owner/name@revision"; or "" for the packaged default.
        embedding: "auto", "square", "vertical" or "hybrid": what will be asked of the encoder. It
            also tells which patching a bare one-tokenizer state dict has, if nothing else does.

    Returns:
        The encoder in eval mode, on the CPU, without projector, no gradients kept.

    Raises:
        CheckpointError: the weights are not found, not readable with `weights_only`, not a Myna
            encoder, incomplete, or cannot give `embedding`.
    """
    if embedding not in ("auto", "hybrid", *PATCHINGS):
        raise ValueError(
            f"embedding must be auto, hybrid, {' or '.join(PATCHINGS)}, got {embedding!r}"
        )
    path, known = resolve(source)
    encoder = read_encoder(path, patchings=known, embedding=embedding)
    return encoder.eval().requires_grad_(False)


def resolve(source: str | Path) -> tuple[Path, tuple[str, ...] | None]:
    """Find the file behind a name, path or hf:// address, downloading if that is what it asks.

    Returns:
        The local file, and its patchings where the name is a published one's (a local file called
        "myna-vertical.pth" counts), else None.
    """
    text = str(source)
    if text == "":
        if not DEFAULT_WEIGHTS.is_file():
            raise CheckpointError(f"{DEFAULT_WEIGHTS}: missing; install myna-plugin anew")
        return DEFAULT_WEIGHTS, None
    if text.startswith("hf://"):
        address = text.removeprefix("hf://")
        repository, _, revision = address.partition("@")
        known = next((p.patchings for p in PUBLISHED.values() if p.repository == repository), None)
        return _download(repository, revision or None, Path(repository).name), known
    path = Path(text).expanduser()
    if path.is_file():
        return path, PUBLISHED[path.stem].patchings if path.stem in PUBLISHED else None
    if text in PUBLISHED:
        for suffix in SUFFIXES:
            local = weights_folder() / f"{text}{suffix}"
            if local.is_file():
                return local, PUBLISHED[text].patchings
        return _download(PUBLISHED[text].repository, None, text), PUBLISHED[text].patchings
    raise CheckpointError(
        f"{text}: no such file, and not a known name; known are {', '.join(PUBLISHED)}, "
        "hf://owner/name, or the path of a .safetensors, .pth or .pt file"
    )


def _download(repository: str, revision: str | None, name: str) -> Path:
    """The weights file of a Hugging Face repository, from its cache or the network."""
    # Imported on request only: it is slow to import, and most loads are local.
    from huggingface_hub import (
        errors,
        hf_hub_download,
        list_repo_files,
        try_to_load_from_cache,
    )

    wanted = ["model.safetensors", f"{name}.safetensors", f"{name}.pth", "pytorch_model.bin"]
    try:
        for candidate in wanted:
            cached = try_to_load_from_cache(repository, candidate, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
        for candidate in wanted:
            try:
                return Path(hf_hub_download(repository, candidate, revision=revision))
            except errors.LocalEntryNotFoundError:  # there is no network
                raise
            except errors.EntryNotFoundError:
                continue
        files = list_repo_files(repository, revision=revision)
        others = sorted(f for f in files if f.endswith(SUFFIXES))
        if others:
            return Path(hf_hub_download(repository, others[0], revision=revision))
        reason = f"it holds no weights, only {_some(files)}"
    except (OSError, ValueError, RuntimeError, errors.HfHubHTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"hf://{repository}: cannot be downloaded ({reason}). Without network, put the file at "
            f"{weights_folder() / name}.safetensors (or .pth) and load it as {name!r} if that is "
            "one of the known names, else by its path"
        ) from error
    raise CheckpointError(f"hf://{repository}: {reason}")


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
    tensors, metadata = read_tensors(path)
    tensors = strip_wrappers(tensors)
    config = _stored_config(path, metadata) or detect_config(path, tensors, patchings, embedding)
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
    free = {"projector", "chunk_frames", "timestamp_layer"}
    wanted = asdict(config)
    different = [
        f"{name} {value} instead of {wanted[name]}"
        for name, value in asdict(found.config).items()
        if name not in free and value != wanted[name]
    ]
    if different:
        raise CheckpointError(f"{path}: cannot be trained further so: has {_some(different)}")
    encoder.load_state_dict(found.state_dict(), strict=False)
    own = _projector_of(encoder.state_dict())
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in projector.items()}:
        return not own
    encoder.load_state_dict(projector, strict=False)
    return True


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The named tensors of a file and its metadata (empty for torch files), without unpickling.

    Raises:
        CheckpointError: the file is damaged, holds other objects than tensors, or no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as tensors alone ({reason}). Is the download complete? A file "
            "with other pickled objects must be saved again as torch.save(model.state_dict(), …)"
        ) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    strays = [str(k) for k, v in content.items() if not isinstance(v, Tensor)]
    if strays:
        raise CheckpointError(f"{path}: not a state dict; no tensors under {_some(strays)}")
    return dict(content), {}


def strip_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove a known prefix that every key carries, repeatedly.

    >>> list(strip_wrappers({"module.model.a": torch.zeros(1), "module.model.b": torch.zeros(1)}))
    ['a', 'b']
    """
    for prefix in WRAPPER_PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            return strip_wrappers({k.removeprefix(prefix): v for k, v in tensors.items()})
    return tensors


def detect_config(
    path: Path,
    tensors: dict[str, Tensor],
    patchings: tuple[str, ...] | None = None,
    embedding: str = "auto",
) -> EncoderConfig:
    """Read an encoder's configuration off the shapes of a state dict in the published layout."""

    def shape(key: str) -> tuple[int, ...]:
        if key not in tensors:
            raise CheckpointError(
                f"{path}: not a Myna encoder: {key} is missing; found {_some(sorted(tensors))}"
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
    blocks = {int(k.split(".")[2]) for k in tensors if k.startswith("transformer.layers.")}
    return EncoderConfig(
        patchings=patchings,
        embed_dim=dim,
        depth=max(blocks) + 1,
        num_heads=inner // HEAD_DIM,
        mlp_dim=shape("transformer.layers.0.1.net.1.weight")[0],
        chunk_frames=VERTICAL_CHUNK_FRAMES if patchings == ("vertical",) else CHUNK_FRAMES,
    )


def _guess_patchings(
    path: Path, n_tokenizers: int, expected: tuple[str, ...] | None, embedding: str
) -> tuple[str, ...]:
    """Patchings of a bare state dict: two tokenizers are square then vertical, one is a guess."""
    if expected is not None:
        raise CheckpointError(
            f"{path}: has {n_tokenizers} tokenizer(s) where its name promises "
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


def _verify(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare every key and shape, and refuse numbers that are not finite."""
    faults = []
    if missing := sorted(expected.keys() - tensors.keys()):
        faults.append(f"missing {_some(missing)}")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        faults.append(f"unexpected {_some(unexpected)}")
    shared = sorted(expected.keys() & tensors.keys())
    if wrong := [
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in shared
        if tensors[k].shape != expected[k].shape
    ]:
        faults.append(f"wrong shapes {_some(wrong)}")
    if broken := [k for k in shared if not tensors[k].isfinite().all()]:
        faults.append(f"NaN or infinite numbers in {_some(broken)}")
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
    if actual != stored and sorted(actual.values()) == sorted(stored.values()):
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
        return EncoderConfig(
            **{**fields, "patchings": tuple(fields.get("patchings", ())), "projector": ()}
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its stored configuration is damaged ({error})") from error


def _json_field(path: Path, metadata: dict[str, str], name: str) -> dict[str, Any] | None:
    """A JSON object among a file's metadata."""
    if name not in metadata:
        return None
    try:
        value = json.loads(metadata[name])
    except json.JSONDecodeError as error:
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
        partial.write_bytes(save(tensors, metadata=facts))


def _build(config: EncoderConfig) -> MynaEncoder:
    """An encoder whose initial weights will be replaced; leaves the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        return MynaEncoder(config)


def _some(names: Iterable[str], limit: int = 6) -> str:
    """A readable list of at most `limit` names."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
