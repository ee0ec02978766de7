"""What heareval 2021.1.3 needs to run, unmodified, on current libraries.

Everything that bends another library for heareval is here, and happens only in the processes that
`hear-eval` starts for heareval (`heareval_process`): importing `myna_plugin` changes nothing.

What heareval asks for, where (in its package), and what answers it:

- an importable `tensorflow` (embeddings/runner.py:13, embeddings/task_embeddings.py:35), whose
  `test.is_gpu_available` is true beside CUDA (embeddings/runner.py:21) and whose `Module` is no
  torch model's class (embeddings/task_embeddings.py:83): `tensorflow_stand_in`;
- `torch.load` of its own checkpoints, which hold classes (predictions/task_predictions.py:1050,
  and Lightning's, at predictions/task_predictions.py:1105): `allow_own_checkpoints`;
- an assignment to `trainer.fit_loop.current_epoch` that takes effect
  (predictions/task_predictions.py:1102): `let_current_epoch_be_set`;
- a name in `bytes` from `nvmlDeviceGetName` (gpu_max_mem.py:50): `name_gpu_in_bytes`.

What it is given besides: a score for beats, under a name of its own (`add_beat_score`).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import click


@cache
def embeddings_command() -> click.Command:
    """heareval's embeddings runner, ready to run in this process."""
    with tensorflow_stand_in():
        from heareval.embeddings import runner
    name_gpu_in_bytes()
    return runner.runner


@cache
def predictions_command() -> click.Command:
    """heareval's predictions runner, ready to run in this process."""
    allow_own_checkpoints()
    let_current_epoch_be_set()
    from heareval.predictions import runner

    add_beat_score()
    name_gpu_in_bytes()
    return runner.runner


def add_beat_score() -> None:
    """Put the F-measure of beats among the scores that a task may name (score.py:365)."""
    from heareval.score import available_scores

    from myna_plugin.hear_eval.beats import BeatFMeasure

    available_scores[BeatFMeasure.name] = BeatFMeasure


@contextmanager
def tensorflow_stand_in() -> Iterator[None]:
    """Let `import tensorflow` succeed inside the block, where tensorflow is not installed.

    heareval binds the name at import and asks it two things: whether it sees a GPU (wherever
    torch does; the stand-in says yes, so that heareval goes on) and what class its models have
    (a class without instances, so that a model is never taken for tensorflow's). After the block
    tensorflow is absent again: a HEAR module that needs it gets an honest ImportError, and
    libraries that look for it find nothing. An installed tensorflow is left alone.
    """
    if "tensorflow" in sys.modules or importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    sys.modules["tensorflow"] = _stand_in()
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


def _stand_in() -> types.ModuleType:
    stand_in = types.ModuleType("tensorflow", "Stands in for tensorflow while heareval is imported")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("tensorflow", loader=None)
    namespace: Any = stand_in
    namespace.Module = type("Module", (), {})
    namespace.test = types.SimpleNamespace(is_gpu_available=lambda *_, **__: True)
    return stand_in


def allow_own_checkpoints() -> None:
    """Let `torch.load` read what heareval's own Trainer wrote.

    Its checkpoints hold classes and functions (`torch.nn.BatchNorm1d`, the initialisation), which
    `weights_only` loading, the default since torch 2.6, refuses. Only for a process that runs
    predictions: it loads no model weights, only checkpoints that it has written itself.
    """
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"


def let_current_epoch_be_set() -> None:
    """Let `fit_loop.current_epoch = epoch` set what `LightningModule.current_epoch` reads.

    heareval rewinds to the best epoch this way before it tests; in Lightning 1.6 and later the
    assignment makes an attribute that nobody reads, and every event task ends in a KeyError when
    it looks up that epoch's post-processing (predictions/task_predictions.py:431).
    """
    from pytorch_lightning.loops import FitLoop

    def get_epoch(loop: Any) -> int:
        return loop.epoch_progress.current.completed

    def set_epoch(loop: Any, epoch: int) -> None:
        loop.epoch_progress.current.completed = epoch

    fit_loop: Any = FitLoop
    fit_loop.current_epoch = property(get_epoch, set_epoch)


def name_gpu_in_bytes() -> None:
    """Let heareval decode the GPU's name: nvidia-ml-py returns `str` since 11.5."""
    from heareval import gpu_max_mem

    get_name = getattr(gpu_max_mem, "nvmlDeviceGetName", None)
    if get_name is None:  # no CUDA device: heareval does not import pynvml
        return

    def get_bytes(handle: Any) -> bytes:
        name = get_name(handle)
        return name.encode() if isinstance(name, str) else name

    gpu_max_mem.nvmlDeviceGetName = get_bytes
