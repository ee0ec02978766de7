"""`myna info`: what a checkpoint is."""

from __future__ import annotations

import json
from typing import Any

import click

from myna_plugin.cli.options import EMBEDDING
from myna_plugin.common.errors import ToldCommand
from myna_plugin.model.audio import HOP_LENGTH, SAMPLE_RATE
from myna_plugin.model.checkpoint import PACKAGED, load_encoder
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import token_grid
from myna_plugin.model.identity import digest_weights
from myna_plugin.model.layouts import read_weights
from myna_plugin.model.sources import resolve

SHOWN_ELSEWHERE = ("format", "format_version", "config", "tokenizers")

EPILOG = """
Examples:

\b
  myna info myna-hybrid.safetensors
  myna info myna-base --json
"""


@click.command("info", cls=ToldCommand, epilog=EPILOG)
@click.argument("checkpoint", default="")
@EMBEDDING
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(checkpoint: str, embedding: str, as_json: bool) -> None:
    """Describe CHECKPOINT; every key is verified.

    A file, a folder for transformers, a published name, or owner/name of the Hugging Face hub.
    Without one, the packaged model; "tiny" is the small one.
    """
    facts = describe_checkpoint(checkpoint, embedding)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{name:<{width}}  {f'{text:,}' if isinstance(text, int) else text}")


def describe_checkpoint(checkpoint: str, embedding: str = "auto") -> dict[str, Any]:
    """What is to be known of a checkpoint, by readable names."""
    path, _ = resolve(checkpoint)
    encoder = load_encoder(checkpoint or path, embedding=embedding)
    config = encoder.config
    model = Embedder(encoder, config.patchings)
    facts: dict[str, Any] = {
        "file": str(path),
        **({} if checkpoint else {"model": PACKAGED}),
        "patchings": list(config.patchings),
        "embedding size": model.scene_embedding_size,
        "scene layers": list(model.scene_layers),
        "scene pooling": model.scene_pooling,
        "timestamp layer": model.timestamp_layer,
        "timestamps": f"{model.timestamp_reading}, {model.timestamp_embedding_size:,} numbers "
        f"every {model.hop_ms:g} ms",
        "width": config.embed_dim,
        "depth": config.depth,
        "heads": config.num_heads,
        "perceptron": config.mlp_dim,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "input": str(config.input_scaling),
        "chunk": f"{config.chunk_frames} frames, "
        f"{config.chunk_frames * HOP_LENGTH / SAMPLE_RATE:.3f} s at {SAMPLE_RATE} Hz",
        "tokens a chunk": [
            rows * columns
            for rows, columns in (token_grid(p, config.chunk_frames) for p in config.patchings)
        ],
        "weights": digest_weights(encoder.state_dict()),
    }
    metadata = read_weights(path)[1]
    facts["format"] = (
        f"{metadata['format']} {metadata.get('format_version', '')}".strip()
        if "format" in metadata
        else "state dict"
    )
    return facts | {k: v for k, v in metadata.items() if k not in SHOWN_ELSEWHERE}
