"""`myna export`: a model in another toolkit's format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from myna_plugin.adapters import onnx
from myna_plugin.cli.options import EMBEDDING, MODEL, SCENE_LAYERS, SCENE_POOLING, hop_ms_option
from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.common.files import check_disk
from myna_plugin.common.options import PATH
from myna_plugin.hear import load_model
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.layouts import read_weights
from myna_plugin.model.sources import PUBLISHED, resolve


def export_to_onnx(model: Embedder, out: Path, source: str, precision: str) -> str:
    """Write and check an ONNX file; what to tell."""
    differences = onnx.export_onnx(model, out, precision, name_and_licence(source))
    seconds = ", ".join(f"{s:g} s {d:.1e}" for s, d in differences.items())
    return f"opset {onnx.OPSET}; distance from torch, in parts of the norm: {seconds}"


def name_and_licence(source: str) -> dict[str, str]:
    """What is known of a checkpoint: "name", and "licence" if its file or its place says."""
    path, _ = resolve(source)
    told = read_weights(path)[1]
    known = {"name": source, "licence": "MIT"} if source in PUBLISHED else {"name": path.stem}
    return known | {key: told[key] for key in ("name", "licence") if key in told}


def export_to_transformers(model: Embedder, out: Path) -> str:
    """Write a folder for transformers; what to tell."""
    # It derives from classes of transformers, so importing it needs them.
    from myna_plugin.adapters.transformers.export import export_transformers

    export_transformers(model, out)
    return f"transformers.AutoModel.from_pretrained({str(out)!r}, trust_remote_code=True)"


def export_to_safetensors(model: Embedder, out: Path) -> str:
    """Write the whole encoder in our own format, naming layers and pooling; what to tell."""
    config = replace(model.encoder.config, scene_pooling=model.scene_pooling)
    if config.choose_scene_layers() != model.scene_layers:
        config = replace(config, scene_layers=model.scene_layers)
    model.encoder.config = config
    save_checkpoint(model.encoder, out)
    return f"myna_plugin.load_model({str(out)!r})"


FORMATS: dict[str, Callable[[Embedder, Path], str]] = {
    "transformers": export_to_transformers,
    "safetensors": export_to_safetensors,
}


@click.command("export", cls=ToldCommand)
@click.option(
    "--to", "target", required=True, type=click.Choice(["onnx", *FORMATS]), help="Format."
)
@click.option(
    "--out",
    required=True,
    type=PATH,
    help="The file to write, or for transformers the folder. Must not be there yet.",
)
@MODEL
@EMBEDDING
@SCENE_LAYERS
@SCENE_POOLING
@click.option(
    "--precision",
    type=click.Choice(list(onnx.TOLERANCES)),
    default="float32",
    show_default=True,
    help="onnx: of the products with weights.",
)
@hop_ms_option("transformers: milliseconds between the vectors of last_hidden_state.")
def export(
    target: str,
    out: Path,
    model: str,
    embedding: str,
    scene_layers: tuple[int, ...] | None,
    scene_pooling: str | None,
    precision: str,
    hop_ms: float,
) -> None:
    """Write a model in another toolkit's format.

    \b
    onnx          one file: `waveform` (batch, samples) at 16 kHz, both of any size, to
                  `scene_embeddings`, `chunk_embeddings` and `chunk_frames`; checked against torch.
                  --precision int8 makes it a third as large, and faster, for vectors that are
                  nearly the same and depend a little on what else is in the batch
    transformers  a folder for AutoModel.from_pretrained
    safetensors   one file in this package's own format, with all patchings the model has;
                  --scene-layers and --scene-pooling become its defaults

    \b
    Examples:
      myna export --to onnx --model myna-hybrid --out myna-hybrid.onnx
      myna export --to onnx --model myna-hybrid --out small.onnx --precision int8
      myna export --to transformers --model run/final.safetensors --out my-myna
      myna export --to safetensors --model myna-vertical.pth --out myna-vertical.safetensors
    """
    if out.exists():
        raise InputError(f"{out}: already there; name another, or remove it")
    write = FORMATS.get(target)
    if write is None:
        write = partial(export_to_onnx, source=model, precision=precision)
    elif precision != "float32":
        raise InputError(f"--precision {precision} is for --to onnx; leave it out")
    out.parent.mkdir(parents=True, exist_ok=True)
    loaded = load_model(
        model,
        embedding=embedding,
        scene_layers=scene_layers,
        scene_pooling=scene_pooling,
        hop_ms=hop_ms,
    )
    check_disk(out.parent, sum(tensor.nbytes for tensor in loaded.state_dict().values()))
    click.echo(f"{out}: {write(loaded, out)}")
