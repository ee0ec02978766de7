"""`myna recipes`: what the package carries to train and evaluate by, listed and copied."""

from __future__ import annotations

from pathlib import Path

import click

from myna_plugin.cli.recipe_files import list_recipes
from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.common.files import check_disk, replacing
from myna_plugin.common.options import FOLDER

EPILOG = """
Examples:

\b
  myna recipes
  myna recipes base vertical --out mine     # mine/base.yaml, mine/vertical.yaml: to be changed
  myna recipes marble --out mine            # mine/marble: configurations of MARBLE
  myna recipes --out mine                   # all of them

No copy is needed to run one as it is: `myna pretrain --config base` knows its name.
"""


@click.command("recipes", cls=ToldCommand, epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--out", type=FOLDER, help="Folder that receives copies; made if need be.")
def recipes(names: tuple[str, ...], out: Path | None) -> None:
    """List the recipes, or with --out copy those called NAME, else all.

    Each file of settings says on top by which command, on what hardware, in what time and with
    which score it was run.
    """
    known = list_recipes()
    if unknown := [name for name in names if name not in known]:
        raise InputError(*(f"{name}: no recipe; known are {', '.join(known)}" for name in unknown))
    chosen = [known[name] for name in dict.fromkeys(names or known)]
    if out is None:
        widths = [max(len(getattr(r, column)) for r in chosen) for column in ("name", "use")]
        for r in chosen:
            line = f"{r.name:<{widths[0]}}  {r.use:<{widths[1]}}  {r.duration()}"
            click.echo(line.rstrip())
        return
    targets = {recipe: out / recipe.path.name for recipe in chosen}
    if there := [target for target in targets.values() if target.exists()]:
        raise InputError(*(f"{target}: already there; take another --out" for target in there))
    out.mkdir(parents=True, exist_ok=True)
    check_disk(out, 0)
    for recipe, target in targets.items():
        with replacing(target) as made:
            if recipe.path.is_dir():
                made.mkdir()
            for file in recipe.files():
                copy = made / file.name if made.is_dir() else made
                copy.write_bytes(file.read_bytes())
        click.echo(target)
