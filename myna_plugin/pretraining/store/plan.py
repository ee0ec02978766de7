"""Which files go into which shards: a folder is scanned, lengths estimated, work divided."""

from __future__ import annotations

import os
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.worker_pool import (
    NO_ITEM,
    WorkerDiedError,
    WorkerPool,
    begin_item,
)
from myna_plugin.model.audio import HOP_LENGTH, SAMPLE_RATE
from myna_plugin.model.audio_files import AUDIO_SUFFIXES, estimate_seconds, find_files, tell_ignored
from myna_plugin.pretraining.store.reading import (
    Index,
    StoreError,
    StoreSettings,
    read_arrays,
)
from myna_plugin.pretraining.store.texts import Texts
from myna_plugin.pretraining.store.writing import (
    WORK,
    write_arrays,
    write_settings,
)

SCAN_BATCH = 256


@dataclass(frozen=True, eq=False)
class PreparationPlan:
    """Which files a run takes in, and into which shards: row by row, in the order of the store.

    Attributes:
        paths: absolute paths.
        size: bytes of each file at the scan, -1 where it could not be told, int64.
        mtime_ns: its modification time, int64.
        frames: about how many frames it will take, int64.
        bounds: shard k takes rows bounds[k] to bounds[k + 1], int64, shape (shards + 1,).
        replaces: rows of the store's index that the plan tries again, int64.
        first_shard: number of the plan's first shard.
        generation: that of the store's index when the plan is done.
        root: the folder that was scanned.
    """

    paths: Texts
    size: np.ndarray
    mtime_ns: np.ndarray
    frames: np.ndarray
    bounds: np.ndarray
    replaces: np.ndarray
    first_shard: int
    generation: int
    root: bytes

    def save(self, path: Path) -> None:
        """Write the plan atomically."""
        columns = {
            field.name: np.asarray(getattr(self, field.name))
            for field in fields(self)
            if field.name not in ("paths", "root")
        }
        columns["path_data"], columns["path_ends"] = self.paths.data, self.paths.ends
        columns["root"] = np.frombuffer(self.root, np.uint8)
        write_arrays(path, columns)

    @classmethod
    def load(cls, path: Path) -> PreparationPlan:
        """Read a plan; StoreError if it is damaged or none of ours, FileNotFoundError if absent."""
        columns = read_arrays(path)
        if "path_data" not in columns:
            raise StoreError(f"{path}: another command began this; go on with that one")
        return cls(
            paths=Texts(columns.pop("path_data"), columns.pop("path_ends")),
            first_shard=int(columns.pop("first_shard")),
            generation=int(columns.pop("generation")),
            root=columns.pop("root").tobytes(),
            **columns,
        )

    @property
    def n_shards(self) -> int:
        """Shards to be made, some perhaps empty."""
        return len(self.bounds) - 1

    def frames_of(self, shards: Sequence[int]) -> int:
        """About how many frames some of the plan's shards take."""
        return sum(int(self.frames[self.bounds[k] : self.bounds[k + 1]].sum()) for k in shards)

    def job(self, k: int) -> ShardJob:
        """The work of shard k, counted from the plan's first."""
        rows = range(self.bounds[k], self.bounds[k + 1])
        return ShardJob(
            self.first_shard + k,
            [self.paths[row] for row in rows],
            self.size[rows.start : rows.stop].tolist(),
            self.mtime_ns[rows.start : rows.stop].tolist(),
            self.frames[rows.start : rows.stop].tolist(),
        )


def size_and_mtime(path: bytes) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class ScanBatch:
    """Some files whose length is to be estimated, and the row of the first."""

    start: int
    paths: list[bytes]

    def after_death(self, item: int) -> ScanBatch:
        """The batch without the file at which a worker died; decoding will report it."""
        return replace(self, paths=[*self.paths[:item], b"", *self.paths[item + 1 :]])


def estimate_frames(batch: ScanBatch) -> list[int]:
    """About how many frames files will take, 0 if unreadable: the work of a worker."""
    frames = []
    for item, path in enumerate(batch.paths):
        begin_item(item)
        seconds = estimate_seconds(Path(os.fsdecode(path)))
        frames.append(int(seconds * SAMPLE_RATE) // HOP_LENGTH + 1 if seconds else 0)
    return frames


def make_plan(
    root: Path,
    store: Path,
    settings: StoreSettings,
    base: Index | None,
    extend: bool,
    pool: WorkerPool,
    say: Callable[[str], None],
) -> PreparationPlan | None:
    """Scan and plan; None if a complete store has all files already."""
    paths, size, mtime_ns, replaces = _scan(root, settings.part, base, say)
    if base is not None and not len(paths):
        say(f"{store}: is complete, and holds or reports every file under {root}")
        return None
    if base is not None and not extend:
        if len(paths) == len(replaces):
            say(f"{store}: is complete; --extend tries again what is in its report")
            return None
        raise StoreError(
            f"{store}: is complete, and lacks {len(paths) - len(replaces):,} of the files under "
            f"{root}; add them with --extend, or give another folder for a new store"
        )
    frames = _estimate_all(paths, pool)
    plan = PreparationPlan(
        paths,
        size,
        mtime_ns,
        frames,
        _shard_bounds(frames, settings.shard_frames),
        replaces,
        base.next_shard if base is not None else 0,
        base.generation + 1 if base is not None else 1,
        os.fsencode(root),
    )
    write_settings(store, settings)
    remove_strays(store, plan.first_shard)
    plan.save(store / WORK / "plan.npz")
    return plan


def _scan(
    root: Path, part: tuple[int, int], base: Index | None, say: Callable[[str], None]
) -> tuple[Texts, np.ndarray, np.ndarray, np.ndarray]:
    """Files that are not stored yet: paths, sizes, times, and the rows they have in the report.

    StoreError if a new store would have none; but of a part that has none, others have some.
    """
    known = {path: row for row, path in enumerate(base.paths)} if base is not None else {}
    size, mtime_ns, replaces = array("q"), array("q"), array("q")
    changed: list[bytes] = []
    kinds: Counter[str] = Counter()

    def wanted() -> Iterator[bytes]:
        prefix = len(os.path.join(os.fsencode(root), b""))
        for path in ProgressBar(find_files(root, say), "find", unit=" files"):
            suffix = os.fsdecode(os.path.splitext(path)[1]).lower()
            kinds[suffix] += 1
            if suffix not in AUDIO_SUFFIXES:
                continue
            # By name, not by place in a list: machines that scan at different times agree.
            if zlib.crc32(path[prefix:]) % part[1] != part[0] - 1:
                continue
            status, row = size_and_mtime(path), known.get(path)
            if base is not None and row is not None:
                if base.files["clips"][row]:
                    if status != tuple(base.files[row][["size", "mtime_ns"]]):
                        changed.append(path)
                    continue
                replaces.append(row)
            size.append(status[0])
            mtime_ns.append(status[1])
            yield path

    paths = Texts.of(wanted())
    if base is None and not kinds.keys() & AUDIO_SUFFIXES:
        known_suffixes = " ".join(sorted(AUDIO_SUFFIXES))
        raise StoreError(f"{root}: no audio files found (known are {known_suffixes})")
    tell_ignored(kinds, say)
    if changed:
        say(
            f"files that have changed since they were stored, kept as they were: {len(changed):,} "
            f"(the first: {os.fsdecode(changed[0])}); a new store would take the new ones"
        )
    return paths, np.array(size), np.array(mtime_ns), np.array(replaces, np.int64)


def _estimate_all(paths: Texts, pool: WorkerPool) -> np.ndarray:
    """About how many frames each file takes, int64."""
    frames = np.zeros(len(paths), np.int64)

    def batches() -> Iterator[ScanBatch]:
        for start in range(0, len(paths), SCAN_BATCH):
            stop = min(start + SCAN_BATCH, len(paths))
            yield ScanBatch(start, [paths[row] for row in range(start, stop)])

    results = pool.map(estimate_frames, batches(), ScanBatch.after_death)
    with ProgressBar(total=len(paths), desc="scan", unit=" files") as bar, closing(results):
        for batch, estimates in results:
            frames[batch.start : batch.start + len(estimates)] = estimates
            bar.update(len(estimates))
    return frames


def _shard_bounds(frames: np.ndarray, shard_frames: int) -> np.ndarray:
    """Cut rows into runs of about `shard_frames`, at least one row each.

    >>> _shard_bounds(np.array([50, 60, 300, 40, 40, 40]), 100).tolist()
    [0, 1, 2, 3, 5, 6]
    """
    # A file that counts as nothing still costs time: a second's worth.
    ends = np.cumsum(np.maximum(frames, SAMPLE_RATE // HOP_LENGTH))
    bounds = [0]
    while bounds[-1] < len(frames):
        before = ends[bounds[-1] - 1] if bounds[-1] else 0
        fitting = int(np.searchsorted(ends, before + shard_frames, side="right"))
        bounds.append(max(fitting, bounds[-1] + 1))
    return np.array(bounds, np.int64)


def remove_strays(store: Path, first_shard: int) -> None:
    """Remove what an interrupted merge, or a run killed while it tidied up, has left."""
    for path in (store / WORK).glob("*.npz"):
        path.unlink()
    for path in (store / "shards").glob("*.npy"):
        if int(path.stem) >= first_shard:
            path.unlink()


def resume_plan(root: Path, store: Path, base: Index | None) -> PreparationPlan | None:
    """The plan of an interrupted run, brought up to date; None if there is none."""
    plan_path = store / WORK / "plan.npz"
    try:
        plan = PreparationPlan.load(plan_path)
    except FileNotFoundError:
        return None
    if base is not None and base.generation == plan.generation:
        # Killed between publishing and tidying up.
        plan_path.unlink()
        return None
    if plan.root != os.fsencode(root):
        raise StoreError(
            f"{store}: an interrupted run over {os.fsdecode(plan.root)} is to be finished first; "
            "give that folder"
        )
    size, mtime_ns = np.empty_like(plan.size), np.empty_like(plan.mtime_ns)
    for row, path in enumerate(plan.paths):
        size[row], mtime_ns[row] = size_and_mtime(path)
    if (size < 0).all():
        raise StoreError(
            f"{root}: none of the files that an interrupted run found there exist any more; "
            "mount their disk, or delete the store to begin anew"
        )
    changed = (size != plan.size) | (mtime_ns != plan.mtime_ns)
    if not changed.any():
        return plan
    # What has vanished after it was stored is no reason to lose it.
    for row in np.flatnonzero(changed & (size >= 0)).tolist():
        k = int(np.searchsorted(plan.bounds, row, side="right")) - 1
        index_of_shard(store, plan.first_shard + k).unlink(missing_ok=True)
    plan = replace(plan, size=size, mtime_ns=mtime_ns)
    plan.save(plan_path)
    return plan


@dataclass(frozen=True)
class ShardJob:
    """The files of one shard.

    Attributes:
        number: number of the shard.
        paths: its files.
        sizes: their bytes at the scan.
        mtimes_ns: their modification times at the scan.
        frames: their estimated frames.
        suspect: the file at which a worker has died once, or NO_ITEM.
        crashed: files at which a worker has died twice.
    """

    number: int
    paths: list[bytes]
    sizes: list[int]
    mtimes_ns: list[int]
    frames: list[int]
    suspect: int = NO_ITEM
    crashed: tuple[int, ...] = ()

    def after_death(self, item: int) -> ShardJob:
        """The job to try next when a worker died at a file: a second death rules the file out."""
        if item in self.crashed or item == len(self.paths):
            raise WorkerDiedError(
                f"a worker died while it wrote shard {self.number}, probably for want of "
                "memory; run again with fewer --workers"
            )
        if item == self.suspect:
            return replace(self, suspect=NO_ITEM, crashed=(*self.crashed, item))
        return replace(self, suspect=item)


def index_of_shard(store: Path, number: int) -> Path:
    return store / WORK / f"{number:06d}.npz"
