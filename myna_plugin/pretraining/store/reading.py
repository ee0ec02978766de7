"""The store: mel spectrograms of a music collection as sharded, memory-mapped arrays.

A store is a folder:

    store.json          format, version, and the settings it was cut with
    shards/000000.npy   mel power, float16, (frames, 128), time-major, whole files end to end
    index.npz           what lies where; its appearance completes the store
    report.csv          path and reason of every file that could not be used
    made_of.json        what clips of blocks were made of, and under which licences
    store.unfinished/   only while it is being written

Values are mel *power*, unscaled. Float16 holds up to 65,504 where a full-scale square wave reaches
24,100, and the patch norm's epsilon of 1e-5 hides what is lost below 6e-8: rounding moves an
embedding by less than 0.1 % of its length from full scale down to -76 dB, as much as bfloat16
does, and no power of two would move it less without cutting loud music off.

Checksums are SHA-256: about as fast as a disk on processors with SHA instructions, good enough to
name a data set by, and checked with `sha256sum` where this package is not installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import read_json_object
from myna_plugin.common.progress import ProgressBar
from myna_plugin.model.audio import HOP_LENGTH, N_FFT, SAMPLE_RATE
from myna_plugin.model.spectrogram import N_MELS
from myna_plugin.pretraining.store.texts import Texts

FORMAT: dict[str, Any] = {
    "format": "myna-store",
    "version": 1,
    "values": "mel power, float16",
    "sample_rate": SAMPLE_RATE,
    "n_fft": N_FFT,
    "hop_length": HOP_LENGTH,
    "n_mels": N_MELS,
}
"""What store.json must say for this program to read the store."""

MADE_OF = "made_of.json"
"""What clips of blocks were made of, and under which licences; whoever made them writes it."""

FRAME_BYTES = 2 * N_MELS

CLIP = np.dtype([("file", "<i4"), ("start", "<i4"), ("frames", "<i4")])
"""Row of its file, first frame within the file, number of frames."""

SHARD = np.dtype([("number", "<i4"), ("frames", "<i8"), ("bytes", "<i8"), ("checksum", "u1", 32)])
"""Number in the file's name, frames, size and SHA-256 of the file."""

FILE = np.dtype(
    [
        ("size", "<i8"),
        ("mtime_ns", "<i8"),
        ("clips", "<i4"),
        ("silent_clips", "<i4"),
        ("clamped", "<i8"),
    ]
)
"""Bytes and modification time when read, clips stored, silent clips left out, clamped values."""


class StoreError(InputError):
    """A store that cannot be read or written; the message names the file and the remedy."""


@dataclass(frozen=True)
class StoreSettings:
    """How a store is cut.

    Attributes:
        clip_frames: frames of a full clip.
        min_frames: the last piece of a file is a clip if it has at least this many frames.
        shard_frames: frames after which a shard ends; a file is never split.
        part: (i, n): this store holds the i-th of n parts of a collection, i from 1.
        clips_per_block: neighbouring clips that were made together, as versions of a few sounds; 1
            for clips of files.

    Raises:
        StoreError: a setting is out of range.
    """

    clip_frames: int
    min_frames: int
    shard_frames: int
    part: tuple[int, int] = (1, 1)
    clips_per_block: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_frames <= self.clip_frames:
            raise StoreError(
                f"the shortest clip ({self.min_frames} frames) must have at least one frame and "
                f"not exceed a full one ({self.clip_frames} frames)"
            )
        if self.shard_frames < 1:
            raise StoreError(f"a shard needs at least one frame, got {self.shard_frames}")
        if not 1 <= self.part[0] <= self.part[1]:
            raise StoreError(f"part {self.part[0]}/{self.part[1]} is not one of 1/n to n/n")
        if self.clips_per_block < 1:
            raise StoreError(f"a block needs at least one clip, got {self.clips_per_block}")

    @classmethod
    def read(cls, store: Path) -> StoreSettings:
        """Settings of a store, its format and version checked; StoreError if they differ."""
        path = store / "store.json"
        if not os.path.lexists(path):
            raise StoreError(
                f"{store}: not a store (it has no store.json); "
                f"make one with `myna prepare AUDIO_DIR {store}`"
            )
        try:
            told = read_json_object(path)
        except InputError as error:
            raise StoreError(f"{error}; restore it from a copy") from error
        for key, value in FORMAT.items():
            if told.get(key) != value:
                raise StoreError(
                    f"{path}: {key} is {told.get(key)!r}, and this program reads {value!r}; "
                    "update myna_plugin, or prepare the store anew"
                )
        try:
            told.setdefault("clips_per_block", 1)  # which earlier versions did not tell
            settings = {field.name: told[field.name] for field in fields(cls)}
            return cls(**{**settings, "part": tuple(settings["part"])})
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: damaged ({error!r}); restore it from a copy") from error

    def to_json(self) -> str:
        """The text of store.json."""
        return json.dumps({**FORMAT, **asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True, eq=False)
class Index:
    """What a store, or one shard of it, holds: arrays of rows, and no object per row.

    Attributes:
        clips: dtype `CLIP`, in the order of the frames.
        shards: dtype `SHARD`.
        files: dtype `FILE`; every file found, stored or not.
        paths: path of each file.
        reasons: why a file is not stored, or what is odd about one that is; mostly empty.
        generation: how often the store was extended.
    """

    clips: np.ndarray
    shards: np.ndarray
    files: np.ndarray
    paths: Texts
    reasons: Texts
    generation: int = 0

    @classmethod
    def load(cls, path: Path) -> Index:
        """Read an index; StoreError if it is damaged, FileNotFoundError if there is none."""
        columns = read_arrays(path)
        return cls(
            columns["clips"],
            columns["shards"],
            columns["files"],
            Texts(columns["path_data"], columns["path_ends"]),
            Texts(columns["reason_data"], columns["reason_ends"]),
            int(columns["generation"]),
        )

    @classmethod
    def empty(cls) -> Index:
        """The index of nothing."""
        no_text = Texts.of([])
        return cls(np.zeros(0, CLIP), np.zeros(0, SHARD), np.zeros(0, FILE), no_text, no_text)

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays under the names that `load` reads."""
        return {
            "clips": self.clips,
            "shards": self.shards,
            "files": self.files,
            "path_data": self.paths.data,
            "path_ends": self.paths.ends,
            "reason_data": self.reasons.data,
            "reason_ends": self.reasons.ends,
            "generation": np.array(self.generation),
        }

    @classmethod
    def concatenate(cls, parts: Sequence[Index]) -> Index:
        """One index over the shards of all parts, in order; shard numbers stay as they are."""
        shifts = np.cumsum([0] + [len(part.files) for part in parts])
        clips = np.concatenate([part.clips for part in parts])
        clips["file"] += np.repeat(shifts[:-1], [len(part.clips) for part in parts]).astype("<i4")
        return cls(
            clips,
            np.concatenate([part.shards for part in parts]),
            np.concatenate([part.files for part in parts]),
            Texts.concatenate([part.paths for part in parts]),
            Texts.concatenate([part.reasons for part in parts]),
        )

    def without(self, rows: np.ndarray) -> Index:
        """The index less some files of which no clip is stored."""
        if self.files["clips"][rows].any():
            raise ValueError("files with stored clips cannot be dropped")
        keep = np.ones(len(self.files), bool)
        keep[rows] = False
        kept = np.flatnonzero(keep)
        clips = self.clips.copy()
        clips["file"] = (np.cumsum(keep) - 1)[clips["file"]]
        return replace(
            self,
            clips=clips,
            files=self.files[kept],
            paths=Texts.of(self.paths[row] for row in kept.tolist()),
            reasons=Texts.of(self.reasons[row] for row in kept.tolist()),
        )

    @cached_property
    def reported(self) -> np.ndarray:
        """Rows of the files that are not stored, int64."""
        return np.flatnonzero(self.files["clips"] == 0)

    @property
    def warned(self) -> np.ndarray:
        """Rows of the files that are stored, with something odd about them, int64."""
        return np.flatnonzero((self.reasons.lengths > 0) & (self.files["clips"] > 0))

    @property
    def next_shard(self) -> int:
        """A shard number above all in use."""
        return int(self.shards["number"].max(initial=-1)) + 1


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz file (all, or those named); StoreError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names or archive.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path}: damaged ({error}); restore it from a copy") from error


def shard_path(store: Path, number: int) -> Path:
    """Where a shard lies.

    >>> shard_path(Path("music"), 7).as_posix()
    'music/shards/000007.npy'
    """
    return store / "shards" / f"{number:06d}.npy"


def shard_checksum(path: Path, bar: ProgressBar | None = None) -> bytes:
    """SHA-256 of a file, 32 bytes; `bar` is advanced by the bytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            if bar is not None:
                bar.update(len(block))
    return digest.digest()


class Store:
    """A complete store, opened for reading.

    Nothing but the index is read until frames are asked for. A pickled store is its path alone,
    so it may be sent to worker processes.

    Attributes:
        path: its folder.
        settings: how it was cut.
        n_mels: 128.
        frames: frames of each clip, int32, shape (len,).
        offsets: first frame of each clip in the concatenation of the shards, int64, shape (len,).
    """

    n_mels = N_MELS

    def __init__(
        self, path: Path, settings: StoreSettings, clips: np.ndarray, shards: np.ndarray
    ) -> None:
        self.path = path
        self.settings = settings
        self.frames = np.ascontiguousarray(clips["frames"], dtype=np.int32)
        ends = np.cumsum(self.frames, dtype=np.int64)
        self.offsets = ends - self.frames
        self._clips = clips
        self._shards = shards
        self._shard_starts = np.cumsum(shards["frames"]) - shards["frames"]

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a complete store.

        Raises:
            StoreError: it is none, is not finished, has another format version, or a shard is
                missing or of the wrong size.
        """
        path = Path(path)
        settings = StoreSettings.read(path)
        try:
            columns = read_arrays(path / "index.npz", ["clips", "shards"])
        except FileNotFoundError:
            raise StoreError(
                f"{path}: not finished (it has no index.npz); "
                "run the command that began it once more, it goes on where it stopped"
            ) from None
        store = cls(path, settings, columns["clips"], columns["shards"])
        store._check_sizes()
        return store

    def __len__(self) -> int:
        return len(self.frames)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.path,)

    @cached_property
    def shards(self) -> list[np.memmap]:
        """The shards, float16, each of shape (frames in it, 128), time-major, read-only."""
        return [self._map_shard(row) for row in range(len(self._shards))]

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that name the content: all shards' checksums and clip lengths."""
        digest = hashlib.sha256(self._shards["checksum"].tobytes())
        digest.update(self.frames.astype("<i4").tobytes())
        return digest.hexdigest()

    def clip(self, i: int) -> np.ndarray:
        """Mel power of clip `i` as stored, float16, shape (frames, 128), a read-only view."""
        i = range(len(self))[i]
        shard = int(np.searchsorted(self._shard_starts, self.offsets[i], side="right")) - 1
        start = int(self.offsets[i] - self._shard_starts[shard])
        return np.asarray(self.shards[shard][start : start + int(self.frames[i])])

    def source(self, i: int) -> tuple[Path, float]:
        """The audio file of clip `i`, and where in it the centre of its first frame is, seconds."""
        row = self._clips[i]
        path = Path(os.fsdecode(self.index.paths[int(row["file"])]))
        return path, int(row["start"]) * HOP_LENGTH / SAMPLE_RATE

    @cached_property
    def index(self) -> Index:
        """The whole index, with paths and reported files; read when first asked for."""
        return Index.load(self.path / "index.npz")

    def verify(self) -> None:
        """Read every shard and compare its checksum, with a progress bar.

        Raises:
            StoreError: names the first shard that is not as it was written.
        """
        total = int(self._shards["bytes"].sum())
        with ProgressBar(total=total, unit="B", unit_scale=True, desc="verify") as bar:
            for shard in self._shards:
                path = shard_path(self.path, shard["number"])
                if shard_checksum(path, bar) != shard["checksum"].tobytes():
                    raise StoreError(
                        f"{path}: its checksum is not the recorded one, so the file has changed; "
                        f"restore it from a copy, or delete {self.path} and prepare it anew"
                    )

    def _check_sizes(self) -> None:
        for shard in self._shards:
            path = shard_path(self.path, shard["number"])
            try:
                size = path.stat().st_size
            except OSError as error:
                raise StoreError(
                    f"{path}: this shard is missing ({error.strerror}); restore it from a copy, "
                    f"or delete {self.path} and prepare it anew"
                ) from error
            if size != shard["bytes"]:
                raise StoreError(
                    f"{path}: {size} bytes where {shard['bytes']} were written, so the shard is "
                    f"truncated or replaced; restore it from a copy, or delete {self.path} and "
                    "prepare it anew"
                )

    def _map_shard(self, row: int) -> np.memmap:
        path = shard_path(self.path, self._shards["number"][row])
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path}: cannot be mapped ({error}); restore it from a copy"
            ) from error
        expected = (int(self._shards["frames"][row]), N_MELS)
        if mapped.dtype != np.float16 or mapped.shape != expected:
            raise StoreError(
                f"{path}: holds {mapped.dtype} of shape {mapped.shape} where float16 of shape "
                f"{expected} was written; restore it from a copy"
            )
        return mapped
