"""A task written for hear-eval or for MARBLE, from the same files and splits as ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from myna_plugin.common.files import write_text
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.probing.tasks import giantsteps, hear_format, marble
from myna_plugin.probing.tasks.layouts import MarbleLayout
from myna_plugin.probing.tasks.task import Item, Task

KEY_NOTE = """HEAR knows no weighted key score: its `top1_acc` counts only the very key.
After hear-eval, this command adds the weighted score from the test predictions:

    myna score-keys EMBEDDINGS/MODULE/{name}
"""


BEAT_NOTE = f"""{hear_format.BEAT_SCORE} is mir_eval's F-measure with a window of 70 ms, mean over
files. heareval does not have it: hear-eval gives it to heareval, whose own commands stop at the
name.
"""


def note_on(task: Task) -> str:
    """What a user of a task in HEAR's format has to know; nothing of most."""
    if task.loss == "beats":
        return BEAT_NOTE
    return KEY_NOTE.format(name=task.name) if task.labels == giantsteps.KEYS else ""


def export_hear(task: Task, items: Sequence[Item], out: Path, sample_rate: int, jobs: int) -> Path:
    """Write `OUT/TASK` in HEAR's format; what is to be known of it goes into its README.md.

    Raises:
        TaskError, AudioError: see `hear_format.write_task`.
    """
    folder = out / task.name
    hear_format.write_task(task, items, folder, sample_rate, jobs, progress=True)
    if note := note_on(task):
        write_text(folder / "README.md", note)
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
    output = out.resolve() / "output"
    best = {"monitor": layout.monitor, "mode": "max"}
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
        "model": {
            "class_path": f"{module}.probe.ProbeAudioTask",
            "init_args": _model_settings(task, layout, encoder),
        },
        "data": {
            "class_path": f"{module}.datamodule.{layout.stem}DataModule",
            "init_args": _data_settings(layout, out),
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


def _model_settings(task: Task, layout: MarbleLayout, encoder: dict[str, Any]) -> dict[str, Any]:
    losses = {"cross_entropy": "CrossEntropyLoss", "bce": "BCEWithLogitsLoss", "mse": "MSELoss"}
    return {
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


def _data_settings(layout: MarbleLayout, out: Path) -> dict[str, Any]:
    return {
        "batch_size": 16,
        "num_workers": 2,
        **{
            split: _part(
                f"marble.tasks.{layout.stem}.datamodule.{layout.stem}Audio{split.capitalize()}",
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


def _part(class_path: str, **init_args: object) -> dict[str, Any]:
    return {"class_path": class_path, **({"init_args": init_args} if init_args else {})}
