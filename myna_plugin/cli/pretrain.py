"""`myna pretrain`: a store becomes a trained encoder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from myna_plugin.cli.recipe_files import RecipeFile
from myna_plugin.common.devices import choose_device, without_mps
from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.common.files import write_text
from myna_plugin.common.launch import launched_rank
from myna_plugin.common.options import FOLDER, PATH
from myna_plugin.common.stopping import INTERRUPTED
from myna_plugin.pretraining.run.configuration import (
    apply_file,
    read_changes,
    read_yaml,
    to_yaml,
)
from myna_plugin.pretraining.run.plan import check_store, plan_run
from myna_plugin.pretraining.run.run_files import RunFolder
from myna_plugin.pretraining.run.settings import PretrainSettings, SettingsError
from myna_plugin.pretraining.run.trainer import train
from myna_plugin.pretraining.store.reading import Store

if TYPE_CHECKING:
    from myna_plugin.probing.encoders import EncoderProbe

EPILOG = """
Examples:

\b
  myna pretrain --store store --out run
  myna pretrain --store store --out run --resume
  myna pretrain --store store --out run --config vertical seed=1
  myna pretrain --config base mask_ratio=0.8 --print-config

\b
  with probes of the encoder on a task in HEAR's format and on GTZAN, every 2,000 steps:
  myna pretrain --store store --out run 'probe_tasks=[tasks/esc50, gtzan=data/gtzan]' \\
      probe_every=2000

\b
  on the 4 GPUs of a machine, with batch_size divided among them:
  torchrun --nproc-per-node 4 -m myna_plugin.recipes.pretrain --store store --out run

\b
  on a CPU, about a minute:
  myna pretrain --store store --out run --config smoke

Exit status: 0 done or stopped by SIGTERM, 1 failed (loss not finite, disk full, ...), 2 bad input,
130 stopped by Ctrl-C; after 0 by SIGTERM and after 130 --resume goes on.
"""


@click.command("pretrain", cls=ToldCommand, epilog=EPILOG)
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--store", type=PATH, help="Made by `myna prepare`.")
@click.option("--out", type=FOLDER, metavar="RUN", help="Folder that receives everything.")
@click.option(
    "--config",
    type=RecipeFile("pretrain"),
    metavar="FILE.yaml",
    help="PretrainSettings to start from: a file, or a name that `myna recipes` lists.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the newest checkpoint of RUN with its settings; begin RUN if it has none.",
)
@click.option("--print-config", is_flag=True, help="Print all settings as YAML and stop.")
def pretrain(
    changes: tuple[str, ...],
    store: Path | None,
    out: Path | None,
    config: Path | None,
    resume: bool,
    print_config: bool,
) -> None:
    """Train an encoder on STORE and write RUN/final.safetensors.

    Without further settings it trains the paper's hybrid model as the paper does. Settings come
    from --config, then from the KEY=VALUE arguments, such as mask_ratio=0.8. Progress goes to
    RUN/train.csv and, for TensorBoard, RUN/events; RUN/checkpoints has what --resume needs. SIGTERM
    saves a checkpoint and ends the run with status 0.
    """
    if config is None and resume and out is not None and (out / "config.yaml").exists():
        config = out / "config.yaml"
    settings = read_settings(config, changes)
    if print_config:
        click.echo(to_yaml(settings), nl=False)
        return
    if store is None or out is None:
        raise click.UsageError("--store and --out are needed")
    opened = Store.open(store)
    check_store(settings, opened)
    probe = None if launched_rank() else open_probe(settings)
    with RunFolder(out).writing():
        plan = plan_run(settings, opened, out, resume)
        if launched_rank() == 0:
            path = out / "config.yaml"
            head = f"# myna pretrain --store {store} --out {out} --config {path}\n"
            write_text(path, head + to_yaml(settings))
        outcome = train(plan, probe=probe)
    if outcome.stopped_by is None:
        return
    if launched_rank() == 0:
        click.echo(f"{out}: stopped after step {outcome.step:,}; --resume goes on from there")
    sys.exit(INTERRUPTED if outcome.stopped_by == signal.SIGINT else 0)


def read_settings(config: Path | None, changes: Sequence[str]) -> PretrainSettings:
    """The defaults, changed by a YAML file and then by key=value arguments.

    Raises:
        SettingsError: the file is not readable, or a setting is unknown or out of range.
    """
    settings = PretrainSettings()
    if config is not None:
        settings = apply_file(settings, config, read_yaml(config))
    return settings.with_changes(read_changes(changes))


def open_probe(settings: PretrainSettings) -> EncoderProbe | None:
    """The probe of the tasks that the settings name, their files found; None if they name none.

    Raises:
        SettingsError: a task's data cannot be used; the message names the file.
    """
    if not settings.probe_tasks:
        return None
    # Imported on use: all that scores tasks, which most runs do without.
    from myna_plugin.common.cores import available_cores
    from myna_plugin.probing.encoders import EncoderProbe, read_tasks

    workers = available_cores()
    try:
        tasks = read_tasks(settings.probe_tasks, workers)
    except InputError as error:
        raise SettingsError(f"probe_tasks: {error}") from error
    return EncoderProbe(
        tasks, settings.probe_grid, without_mps(choose_device(settings.device)), workers
    )
