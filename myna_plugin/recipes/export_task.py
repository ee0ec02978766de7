"""Write a probe task for hear-eval or for MARBLE, from the same files and splits as ours.

\b
    python -m myna_plugin.recipes.export_task --task gtzan --root data/gtzan --to hear tasks
    hear-eval --module myna_plugin --tasks-dir tasks --task gtzan

\b
    python -m myna_plugin.recipes.export_task --task giantsteps --root data --to marble data/GS
    python cli.py fit --config data/GS/probe.Myna.GS.yaml     # in a checkout of MARBLE

HEAR: the task folder OUT/TASK, with audio at one sample rate; run again with another
--sample-rate to add one. MARBLE: OUT/*.jsonl, and a configuration to run. Audio that already is
what the runner needs is linked; the rest is decoded and written as 16-bit WAV (about 1 MB for 30
seconds at 16 kHz). An interrupted export goes on where it stopped. The time is that of decoding
the data set once; it was not measured on the full sets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from myna_plugin.common.files import write_text
from myna_plugin.model.audio import SAMPLE_RATE, AudioError
from myna_plugin.probing.tasks import (
    HEAR,
    LAYOUTS,
    TASKS,
    Item,
    Layout,
    Task,
    TaskError,
    check,
    giantsteps,
    hear_format,
    load_task,
    marble,
    usable_items,
)
from myna_plugin.probing.tasks.loading import describe_sizes

KEY_NOTE = """HEAR knows no weighted key score: its `top1_acc` counts only the very key.
After hear-eval, this command adds the weighted score from the test predictions:

    python -m myna_plugin.recipes.score_keys EMBEDDINGS/MODULE/{name}
"""


def export_hear(task: Task, items: Sequence[Item], out: Path, sample_rate: int, jobs: int) -> Path:
    """Write `OUT/TASK` in HEAR's format; a key task gets a note on its weighted score.

    Raises:
        TaskError, AudioError: see `hear_format.write_task`.
    """
    folder = out / task.name
    hear_format.write_task(task, items, folder, sample_rate, jobs, progress=True)
    if task.labels == giantsteps.KEYS:
        note = KEY_NOTE.format(name=task.name)
        write_text(folder / "README.md", note)
        click.echo(note)
    return folder


def export_marble(
    task: Task,
    items: Sequence[Item],
    out: Path,
    sample_rate: int | None,
    jobs: int,
    encoder: dict[str, Any],
) -> Path:
    """Write MARBLE's jsonl files and a configuration.

    Args:
        task: one with a `marble` layout.
        items: its clips.
        out: receives the files.
        sample_rate: of all audio, Hz; None leaves whole files as they are.
        jobs: files to decode at a time.
        encoder: "class_path", "init_args" and "embed_dim" of the encoder.

    Returns:
        The configuration.

    Raises:
        TaskError, AudioError: see `marble.write_items`.
    """
    path = out / f"probe.Myna.{marble.layout_of(task).stem}.yaml"
    out.mkdir(parents=True, exist_ok=True)
    marble.write_items(task, items, out, sample_rate, jobs, progress=True)
    commands = "".join(f"# python cli.py {verb} --config {path}\n" for verb in ("fit", "test"))
    settings = yaml.safe_dump(marble_settings(task, out, encoder), sort_keys=False)
    write_text(path, f"# Run in a checkout of MARBLE:\n{commands}{settings}")
    return path


def marble_settings(task: Task, out: Path, encoder: dict[str, Any]) -> dict[str, Any]:
    """MARBLE's configuration of a frozen encoder with one hidden layer on its last hidden state.

    The checkpoint is the one with the best validation metric; MARBLE's own configurations name no
    metric there and so keep the last epoch.

    Source: `configs/probe.*.yaml` of github.com/a43992899/MARBLE, version 2.
    """
    layout = marble.layout_of(task)
    module = f"marble.tasks.{layout.stem}"
    losses = {"cross_entropy": "CrossEntropyLoss", "bce": "BCEWithLogitsLoss", "mse": "MSELoss"}
    output = out.resolve() / "output"
    best = {"monitor": layout.monitor, "mode": "max"}
    model = {
        "sample_rate": SAMPLE_RATE,
        "use_ema": False,
        "encoder": _part(encoder["class_path"], **encoder["init_args"]),
        "emb_transforms": [
            _part("marble.modules.transforms.LayerSelector", layers=[11]),
            _part("marble.modules.transforms.TimeAvgPool"),
        ],
        "decoders": [
            _part(
                "marble.modules.decoders.MLPDecoder",
                in_dim=encoder["embed_dim"],
                out_dim=len(task.labels),
                hidden_layers=[512],
                activation_fn=_part("torch.nn.ReLU"),
                dropout=0.2,
            )
        ],
        "losses": [_part(f"torch.nn.{losses[task.loss]}")],
        "metrics": {
            split: {name: dict(metric) for name, metric in layout.metrics.items()}
            for split in ("train", "val", "test")
        },
    }
    data = {
        "batch_size": 16,
        "num_workers": 2,
        **{
            split: _part(
                f"{module}.datamodule.{layout.stem}Audio{split.capitalize()}",
                sample_rate=SAMPLE_RATE,
                channels=1,
                clip_seconds=layout.clip_seconds,
                min_clip_ratio=0.8,
                channel_mode="mix",
                jsonl=str(out.resolve() / f"{layout.stem}.{split}.jsonl"),
            )
            for split in marble.SPLIT_NAMES.values()
        },
    }
    return {
        "seed_everything": 1234,
        "trainer": {
            "accelerator": "auto",
            "devices": 1,
            "max_epochs": 100,
            "callbacks": [
                _part(
                    "lightning.pytorch.callbacks.ModelCheckpoint",
                    dirpath=str(output / "checkpoints"),
                    filename="best",
                    save_top_k=1,
                    **best,
                ),
                _part("marble.modules.callbacks.LoadLatestCheckpointCallback"),
                _part("lightning.pytorch.callbacks.EarlyStopping", patience=20, **best),
            ],
            "logger": _part("lightning.pytorch.loggers.CSVLogger", save_dir=str(output)),
        },
        "model": {"class_path": f"{module}.probe.ProbeAudioTask", "init_args": model},
        "data": {
            "class_path": f"{module}.datamodule.{layout.stem}DataModule",
            "init_args": data,
        },
        "optimizer": _part("torch.optim.Adam", lr=1e-3),
        "lr_scheduler": _part(
            "lightning.pytorch.cli.ReduceLROnPlateau",
            mode="max",
            factor=0.5,
            patience=5,
            monitor=layout.monitor,
        ),
    }


def _part(class_path: str, **init_args: object) -> dict[str, Any]:
    return {"class_path": class_path, **({"init_args": init_args} if init_args else {})}


def _parse_options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(f"--encoder-options: not JSON ({error})") from error
    if not isinstance(options, dict):
        raise TaskError(f"--encoder-options: expected an object, got {text}")
    return options


REFUSE = {"hear": hear_format.prediction_type, "marble": marble.layout_of}
"""What raises for a task that a runner cannot express, before any file is looked at."""


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--task", "name", required=True, help=f"{', '.join((*TASKS, HEAR))}.")
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Data folder.")
@click.option("--to", "runner", required=True, type=click.Choice(["hear", "marble"]))
@click.option("--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True)
@click.option("--metadata", type=click.Path(path_type=Path), help="JukeMIR's metadata file.")
@click.option("--split-file", type=click.Path(path_type=Path), help="Splits to use, as JSON.")
@click.option(
    "--sample-rate",
    type=click.IntRange(min=1),
    help=f"Hz. Default: {SAMPLE_RATE} for hear, the files' own for marble.",
)
@click.option("--allow-missing", is_flag=True, help="Export what there is of the data set.")
@click.option("--jobs", type=click.IntRange(min=1), default=4, show_default=True)
@click.option(
    "--encoder",
    default="myna_plugin.adapters.marble.MynaEncoder",
    show_default=True,
    help="MARBLE: class of the encoder.",
)
@click.option(
    "--encoder-options", default="{}", show_default=True, help="MARBLE: its arguments, as JSON."
)
@click.option(
    "--embed-dim", type=int, default=768, show_default=True, help="MARBLE: its embedding width."
)
def main(
    out: Path,
    name: str,
    root: Path,
    runner: str,
    layout: Layout,
    metadata: Path | None,
    split_file: Path | None,
    sample_rate: int | None,
    allow_missing: bool,
    jobs: int,
    encoder: str,
    encoder_options: str,
    embed_dim: int,
) -> None:
    try:
        settings = {
            "class_path": encoder,
            "init_args": _parse_options(encoder_options),
            "embed_dim": embed_dim,
        }
        task, items = load_task(name, root, layout, metadata, split_file)
        REFUSE[runner](task)
        report = check(task, items, jobs, progress=True)
        click.echo(report.text())
        items = usable_items(task, items, report, allow_missing)
        if runner == "hear":
            made = export_hear(task, items, out, sample_rate or SAMPLE_RATE, jobs)
        else:
            made = export_marble(task, items, out, sample_rate, jobs, settings)
    except (TaskError, AudioError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error
    click.echo(f"{made}: {describe_sizes(items)}")


if __name__ == "__main__":
    main()
