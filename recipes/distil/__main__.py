"""Teach an encoder the scene embeddings of a larger one, or of several, on a store of mel frames.

Student and teacher hear the same crops of one chunk. The student's embedding, through a linear
layer that is thrown away, is to be the teacher's, each feature standardised; the loss is the mean
squared error, 1 for what the mean alone reaches. The student reads the same patchings, input and
pooling, off blocks at the same share of its depth. Of several teachers it learns all vectors, and
reads as the first does.

\b
Examples:
  python -m recipes.distil store out/small --size vit-ti --steps 4000
  python -m recipes.distil store out/small --minutes 5        # the same command goes on
  python -m recipes.distil store out/mine --teacher run/final.safetensors --batch-size 256
  python -m recipes.distil store out/both --teacher '' --teacher run/final.safetensors
  python -m recipes.distil store out/seen --initial-weights tiny --mask-ratio 0.5

OUT/final.safetensors is the student so far, for `load_model`; OUT/train.csv has the loss;
OUT/checkpoint.pt is what the same command goes on from after a run was stopped, even killed. The
learning rate falls over all --steps: a run that --minutes ended has not come to its end.
Exit status: 0 done, 1 failed (disk full, ...), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from myna_plugin.common.devices import choose_device, without_mps
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.options import (
    DEVICE,
    FOLDER,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    SEED,
    Number,
)
from myna_plugin.hear import load_model
from myna_plugin.model.encoder import SIZES
from myna_plugin.pretraining.run.run_files import RunFolder
from myna_plugin.pretraining.store.reading import Store
from recipes.distil.training import Settings, Training


@click.command("distil", cls=ToldCommand, help=__doc__)
@click.argument("store", metavar="STORE", type=FOLDER)
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option(
    "--teacher",
    "teachers",
    default=("",),
    multiple=True,
    metavar="CHECKPOINT",
    help="As load_model takes it, '' for the packaged model. May be repeated.  "
    "[default: the packaged model]",
)
@click.option("--size", type=click.Choice(tuple(SIZES)), default="vit-ti", show_default=True)
@click.option("--steps", type=POSITIVE_INT, default=4000, show_default=True)
@click.option(
    "--minutes", type=POSITIVE_FLOAT, default=1e6, help="Of training.  [default: no limit]"
)
@click.option("--initial-weights", metavar="CHECKPOINT", help="Of the student.  [default: random]")
@click.option(
    "--batch-size",
    type=Number(int, 2),
    default=1024,
    show_default=True,
    help="Clips; two crops are taken of each.",
)
@click.option("--learning-rate", type=POSITIVE_FLOAT, default=1e-3, show_default=True)
@click.option(
    "--mask-ratio",
    type=Number(float, 0, 0.9),
    default=0.0,
    show_default=True,
    help="Share of its tokens that the student does not see; the teacher sees all.",
)
@click.option("--save-every", type=POSITIVE_INT, default=500, show_default=True, help="Steps.")
@click.option("--compile", is_flag=True, help="Run student and teachers through torch.compile.")
@SEED
@DEVICE
def main(
    store: Path,
    out: Path,
    teachers: tuple[str, ...],
    minutes: float,
    save_every: int,
    compile: bool,
    device: str,
    **options: Any,
) -> None:
    settings = Settings(**options)
    chosen, opened = without_mps(choose_device(device)), Store.open(store)
    models = [load_model(teacher, compile=compile) for teacher in teachers]
    with RunFolder(out).writing():
        training = Training(opened, models, out, settings, chosen, compile)
        stopped_by = training.run(settings.steps, minutes, save_every)
    training.end(f"myna_plugin.load_model({str(training.folder.final)!r})", stopped_by)


if __name__ == "__main__":
    main()
