"""`myna import`: weights that were downloaded by hand, under the name of a published model."""

from __future__ import annotations

import click

from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.common.files import check_disk, digest_path
from myna_plugin.model.checkpoint import read_encoder, save_checkpoint
from myna_plugin.model.sources import PUBLISHED, resolve, weights_folder

EPILOG = """
Examples:

\b
  myna import ~/Downloads/myna-hybrid.pth --as myna-hybrid
  myna import myna-vertical --as myna-vertical     # a folder: a copy of the whole repository

Then `--model myna-hybrid` and `load_model("myna-hybrid")` find it, without network.
"""


@click.command("import", cls=ToldCommand, epilog=EPILOG)
@click.argument("source", metavar="FILE")
@click.option(
    "--as",
    "name",
    required=True,
    type=click.Choice(list(PUBLISHED)),
    help="The published model that it is.",
)
@click.option("--replace", is_flag=True, help="Take it in place of one that is there.")
def import_weights(source: str, name: str, replace: bool) -> None:
    """Keep FILE, weights or a folder with some, as the published model called --as.

    Every key and shape is verified. What is kept is a file of our own format in
    $MYNA_PLUGIN_WEIGHTS, else ~/.cache/myna_plugin, with the SHA-256 of FILE among its facts:
    `myna info NAME` shows it. The projector that it was trained with is not kept.
    """
    path, _ = resolve(source)
    encoder = read_encoder(path, patchings=PUBLISHED[name].patchings)
    if encoder.config.patchings != PUBLISHED[name].patchings:
        raise InputError(
            f"{path}: its patching is {' and '.join(encoder.config.patchings)}; "
            f"{name} has {' and '.join(PUBLISHED[name].patchings)}"
        )
    target = weights_folder() / f"{name}.safetensors"
    if target.exists() and not replace:
        raise InputError(f"{target}: there already; take it with --replace in place of that")
    target.parent.mkdir(parents=True, exist_ok=True)
    check_disk(target.parent, path.stat().st_size)
    facts = {"name": name, "imported from": path.name, "SHA-256 of that file": digest_path(path)}
    save_checkpoint(encoder, target, facts)
    click.echo(f"{target}: load it as {name}")
