"""What an unfinished grid came to, on disk: a restart trains only what is not finished."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from myna_plugin._version import __version__
from myna_plugin.common.files import write_whole
from myna_plugin.probing.heads import HeadConfig, HeadScore, ProbeTask, Split
from myna_plugin.probing.heads.stack import TrainedHead


def digest_grid(
    train: Split,
    valid: Split,
    task: ProbeTask,
    grid: Sequence[HeadConfig],
    seed: int,
    device: str,
) -> str:
    """Digest of all that a grid's result depends on: the same again gives the same result.

    Args:
        train: training split.
        valid: validation split.
        task: loss, metric and rules.
        grid: configurations.
        seed: of the experiment.
        device: where it is trained; its kind counts.
    """
    pair_scores = task.metric.tolist() if isinstance(task.metric, np.ndarray) else task.metric
    settings = [
        *(task.loss, task.n_outputs, pair_scores, task.rules, [c.to_dict() for c in grid], seed),
        *(torch.device(device).type, torch.__version__, __version__),
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for split in (train, valid):
        for values in (split.features, split.targets, split.items):
            if values is None:
                digest.update(b"none")
                continue
            digest.update(f"{values.dtype} {values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


class GridRecord:
    """Heads of a grid whose stacks have finished, in one file that is replaced as they come.

    Attributes:
        path: of the file.
        heads: for `select` to start from; only the best of them has its weights.
    """

    def __init__(self, path: Path) -> None:
        """Read what there is; a file that is damaged counts as none.

        Args:
            path: of the file; it and its folder need not exist.
        """
        self.path = path
        self.heads: list[TrainedHead] = []
        try:
            with np.load(path, allow_pickle=False) as content:
                self.heads = _parse(content)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            self.heads = []

    def add(self, heads: Sequence[TrainedHead]) -> None:
        """Take in the heads of a stack and write the file.

        Raises:
            OSError: it cannot be written.
        """
        found = [*self.heads, *heads]
        # Of equals the first in the grid, as `select` has it.
        best = max(found, key=lambda head: (head[1].valid_score, -head[0]))[0]
        self.heads = [(place, score, w if place == best else {}) for place, score, w in found]
        weights = next(w for place, _, w in self.heads if place == best)
        file = io.BytesIO()
        described = [[place, asdict(score)] for place, score, _ in self.heads]
        np.savez(
            file,
            allow_pickle=False,
            heads=np.array(json.dumps(described)),
            best=np.array(best),
            **{f"weights.{name}": value.numpy() for name, value in weights.items()},
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, file.getbuffer())


def _parse(content: np.lib.npyio.NpzFile) -> list[TrainedHead]:
    best = int(content["best"])
    weights = {
        name.removeprefix("weights."): torch.from_numpy(content[name])
        for name in content.files
        if name.startswith("weights.")
    }
    heads = []
    for place, fields in json.loads(str(content["heads"])):
        score = HeadScore(**{**fields, "config": HeadConfig(**fields["config"])})
        heads.append((place, score, weights if place == best else {}))
    return heads
