"""`python -m myna_plugin.recipes.pretrain`: a store becomes a trained encoder."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from myna_plugin.common.devices import DeviceError, choose_device
from myna_plugin.common.files import write_text
from myna_plugin.pretraining.run.distributed import launched_rank
from myna_plugin.pretraining.run.run_files import RunError, WriteError
from myna_plugin.pretraining.run.settings import Settings, SettingsError
from myna_plugin.pretraining.run.trainer import DivergedError, check_store, plan_run, train
from myna_plugin.pretraining.store.reading import Store, StoreError
from myna_plugin.recipes.configuration import (
    apply_file,
    read_changes,
    read_yaml,
    to_yaml,
)

if TYPE_CHECKING:
    from myna_plugin.probing.encoders import EncoderProbe

COMMAND = "python -m myna_plugin.recipes.pretrain"

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

DESCRIPTION = """\
Train an encoder on STORE (made by myna_plugin.recipes.prepare) and write RUN/final.safetensors.

Without further settings it trains the paper's hybrid model as the paper does. Settings come from
--config, then from the key=value arguments. Progress goes to RUN/train.csv and, for TensorBoard,
RUN/events; RUN/checkpoints has what --resume needs. SIGTERM saves a checkpoint and ends the run
with status 0."""

EXAMPLES = f"""\
examples:
  {COMMAND} --store store --out run
  {COMMAND} --store store --out run --resume
  {COMMAND} --store store --out run --config recipes/pretrain/vertical.yaml seed=1
  {COMMAND} --config recipes/pretrain/base.yaml mask_ratio=0.8 --print-config

  with probes of the encoder on a task in HEAR's format and on GTZAN, every 2,000 steps:
  {COMMAND} --store store --out run 'probe_tasks=[tasks/esc50, gtzan=data/gtzan]' probe_every=2000

  on the 4 GPUs of a machine, with batch_size divided among them:
  torchrun --nproc-per-node 4 -m myna_plugin.recipes.pretrain --store store --out run

  on a CPU, about a minute:
  {COMMAND} --store store --out run --config recipes/pretrain/smoke.yaml

exit status: 0 done or stopped by SIGTERM, 1 failed (loss not finite, disk full, ...), 2 bad input,
130 interrupted; after 0 by SIGTERM and after 130 --resume goes on"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    try:
        settings = read_settings(_config_file(options), options.changes)
        if options.print_config:
            print(to_yaml(settings), end="")
            return 0
        if options.store is None or options.out is None:
            parser.error("--store and --out are needed")
        return _train(settings, options)
    except (DeviceError, SettingsError, StoreError, RunError) as error:
        return _fail(str(error), BAD_INPUT)
    except (DivergedError, WriteError, OSError) as error:
        return _fail(str(error), FAILED)


def _train(settings: Settings, options: argparse.Namespace) -> int:
    store = Store.open(options.store)
    check_store(settings, store)
    probe = None if launched_rank() else open_probe(settings)
    plan = plan_run(settings, store, options.out, options.resume)
    if launched_rank() == 0:
        config = options.out / "config.yaml"
        head = f"# {COMMAND} --store {options.store} --out {options.out} --config {config}\n"
        write_text(config, head + to_yaml(settings))
    outcome = train(plan, probe=probe)
    if outcome.stopped_by is None:
        return 0
    if launched_rank() == 0:
        print(f"{options.out}: stopped after step {outcome.step:,}; --resume goes on from there")
    return INTERRUPTED if outcome.stopped_by == signal.SIGINT else 0


def open_probe(settings: Settings) -> EncoderProbe | None:
    """The probe of the tasks that the settings name, their files found; None if they name none.

    Raises:
        SettingsError: a task's data cannot be used; the message names the file.
    """
    if not settings.probe_tasks:
        return None
    # Imported on use: all that scores tasks, which most runs do without.
    from myna_plugin.common.cores import available_cores
    from myna_plugin.probing.encoders import EncoderProbe, read_tasks
    from myna_plugin.probing.tasks import TaskError

    workers = available_cores()
    try:
        tasks = read_tasks(settings.probe_tasks, workers)
    except TaskError as error:
        raise SettingsError(f"probe_tasks: {error}") from error
    return EncoderProbe(tasks, settings.probe_grid, choose_device(settings.device), workers)


def _config_file(options: argparse.Namespace) -> Path | None:
    """The file to start from: the one given, or that of the run to go on with."""
    if options.config is None and options.resume and options.out is not None:
        begun: Path = options.out / "config.yaml"
        return begun if begun.exists() else None
    return options.config


def read_settings(config: Path | None, changes: Sequence[str]) -> Settings:
    """The defaults, changed by a YAML file and then by key=value arguments.

    Raises:
        SettingsError: the file is not readable, or a setting is unknown or out of range.
    """
    settings = Settings()
    if config is not None:
        settings = apply_file(settings, config, read_yaml(config))
    return settings.with_changes(read_changes(changes))


def _fail(message: str, status: int) -> int:
    if launched_rank() == 0:
        print(f"pretrain: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        usage="%(prog)s --store STORE --out RUN [options] [key=value ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", type=Path, help="made by myna_plugin.recipes.prepare")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder that receives everything")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings to start from")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint of RUN with its settings; begin RUN if it has none",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print all settings as YAML and stop"
    )
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="settings, such as mask_ratio=0.8"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
