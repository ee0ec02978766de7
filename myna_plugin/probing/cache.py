"""Embeddings on disk: blocks of clips that are written whole, found again by content."""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from myna_plugin.common.files import write_json, write_whole


@dataclass(frozen=True)
class Cost:
    """What embedding took: median seconds of computing per hour of audio, and where.

    The median over batches leaves out the first ones, which also set up the device.
    """

    seconds_per_hour: float
    device: str


def folder_name(identity: Mapping[str, Any]) -> str:
    """Folder of the embeddings that have this identity.

    >>> folder_name({"module": "my.hear"}) == folder_name({"module": "my.hear", "pool": "clip"})
    False
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
    module = re.sub(r"[^\w.-]", "_", str(identity["module"]))
    return f"{module}-{digest.hexdigest()[:16]}"


class EmbeddingCache:
    """Vectors by clip, where a clip is named by its audio file's digest and its place there.

    A block is a file of its own, so an interrupted run keeps what it wrote, and several runs may
    write at a time.

    Attributes:
        vectors: by clip, float32, shape (K, D).
        damaged: block files that could not be read; they were removed.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Open a cache and read all that it holds.

        Args:
            folder: of these embeddings alone; made if absent.
            identity: what they depend on, kept beside them for the reader.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self.vectors: dict[str, np.ndarray] = {}
        self.damaged: list[Path] = []
        self._folder = folder
        self._pending: dict[str, np.ndarray] = {}
        self._batches: list[tuple[float, float]] = []
        self._costs: dict[str, list[tuple[float, float]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "about.json", dict(identity))
        for path in sorted(folder.glob("*.npz")):
            try:
                self._read(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink()
                self.damaged.append(path)

    def _read(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as block:
            clips, counts, vectors = block["clips"], block["counts"], block["vectors"]
            batches, device = block["batches"], str(block["device"])
        rows = np.split(vectors, np.cumsum(counts)[:-1])
        self.vectors.update(zip(clips.tolist(), rows, strict=True))
        self._costs.setdefault(device, []).extend(map(tuple, batches))

    def add(
        self, vectors: Mapping[str, np.ndarray], seconds: float, audio_s: float, device: str
    ) -> None:
        """Take in a batch; `flush` writes it.

        Args:
            vectors: by clip, float32, shape (K, D).
            seconds: that embedding it took.
            audio_s: seconds of audio in it.
            device: where it was computed.
        """
        self.vectors.update(vectors)
        self._pending.update(vectors)
        self._batches.append((seconds, audio_s))
        self._device = device
        self._costs.setdefault(device, []).append((seconds, audio_s))

    @property
    def n_pending(self) -> int:
        """Clips that `flush` would write."""
        return len(self._pending)

    def flush(self) -> None:
        """Write what was added since, as one block.

        Raises:
            OSError: it cannot be written.
        """
        if not self._pending:
            return
        rows = list(self._pending.values())
        file = io.BytesIO()
        np.savez(
            file,
            clips=np.array(list(self._pending)),
            counts=np.array([len(row) for row in rows]),
            vectors=np.concatenate(rows),
            batches=np.array(self._batches),
            device=np.array(self._device),
        )
        write_whole(self._folder / f"{uuid.uuid4().hex}.npz", file.getbuffer())
        self._pending, self._batches = {}, []

    def cost(self) -> Cost | None:
        """What embedding took on the device that embedded most; None for an empty cache."""
        if not self._costs:
            return None
        device = max(self._costs, key=lambda name: sum(audio for _, audio in self._costs[name]))
        rates = [3600.0 * seconds / audio for seconds, audio in self._costs[device]]
        return Cost(float(np.median(rates)), device)
