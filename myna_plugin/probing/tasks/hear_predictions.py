"""The test predictions that heareval leaves beside a task's embeddings.

Source: heareval 2021.1.3, `embeddings/task_embeddings.py` (order of clips) and
`predictions/task_predictions.py` (content of the file).
"""

from __future__ import annotations

import io
import pickle
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from myna_plugin.common.errors import reason
from myna_plugin.common.files import fault_of_place
from myna_plugin.probing.tasks.hear_folder import HearFolder, read_folder
from myna_plugin.probing.tasks.task import TaskError

PREDICTIONS = "test.predictions.pkl"

TENSOR_PARTS = {("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")}
"""What a pickled tensor is made of, besides its storage."""


@dataclass(frozen=True)
class TestPredictions:
    """What a head said about the test clips.

    Attributes:
        task_name: of the task's metadata.
        labels: the vocabulary, in the order of the outputs.
        clips: names of the N clips, without ".wav".
        outputs: logits, shape (N, C).
        targets: classes, int64, shape (N,).
    """

    __test__ = False  # Not a test case, whatever pytest makes of its name.

    task_name: str
    labels: tuple[str, ...]
    clips: list[str]
    outputs: np.ndarray
    targets: np.ndarray


class _TensorUnpickler(pickle.Unpickler):
    """Reads tensors and plain containers; refuses anything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: torch.load(io.BytesIO(data), weights_only=True)
        if (module, name) in TENSOR_PARTS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a tensor")


def read_test_predictions(folder: Path) -> TestPredictions:
    """Read the predictions of a multiclass task with given splits.

    heareval does not write which clip a row is. It shuffles the clips of each split in turn by
    one generator seeded with 0; the order is made again here and checked against the targets.

    Args:
        folder: `EMBEDDINGS/MODULE/TASK`, after heareval's predictions runner.

    Raises:
        TaskError: a file is missing or not what heareval writes, or the order does not fit.
    """
    read = read_folder(folder)
    path = folder / PREDICTIONS
    content = _read_tensors(path)
    labels, annotated = read.vocabulary, read.splits.get("test", {})
    try:
        outputs, one_hot = (content[key].numpy() for key in ("prediction_logit", "target"))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise TaskError(
            f"{path}: not the test predictions of such a task ({reason(error)})"
        ) from error
    shape = len(annotated), len(labels)
    if not outputs.shape == one_hot.shape == shape or not np.isfinite(outputs).all():
        raise TaskError(
            f"{path}: not the test predictions of this task: finite numbers of {shape[0]} clips "
            f"and {shape[1]} labels, got shapes {outputs.shape} and {one_hot.shape}"
        )
    targets, order = one_hot.argmax(axis=1), _shuffled_clips(read)["test"]
    if [[str(x) for x in annotated[name]] for name in order] != [[labels[t]] for t in targets]:
        raise TaskError(f"{path}: rows do not follow the order of heareval's embeddings")
    clips = [name.removesuffix(".wav") for name in order]
    return TestPredictions(read.task_name, labels, clips, outputs, targets)


def _read_tensors(path: Path) -> Any:
    if fault := fault_of_place(path):
        raise TaskError(f"{path}: {fault}; run the predictions first")
    try:
        with path.open("rb") as file:
            return _TensorUnpickler(file).load()
    # Damaged bytes are other instructions, which raise whatever they come to.
    except Exception as error:
        raise TaskError(f"{path}: not heareval's test predictions ({reason(error)})") from error


def _shuffled_clips(read: HearFolder) -> dict[str, list[str]]:
    generator = random.Random(0)
    orders = {}
    for split, labels in read.splits.items():
        orders[split] = list(labels)
        generator.shuffle(orders[split])
    return orders
