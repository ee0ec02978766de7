"""From a folder of audio to a store: find the files, plan the shards, let workers fill them.

The plan, made once and kept beside, gives every file its shard. A worker makes a whole shard:
it writes the frames beside, renames, then writes the shard's index the same way. A shard counts as
finished when its index is there, so a run that is killed at any instant goes on with the first
shard that has none, and the result is the same to the byte whatever the number of workers.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import check_disk
from myna_plugin.common.worker_pool import (
    NO_ITEM,
    WorkerDiedError,
    WorkerPool,
    begin_item,
    finish_item,
)
from myna_plugin.model.audio import SAMPLE_RATE, SILENCE_AMPLITUDE, AudioError, Note, load_audio
from myna_plugin.model.decoding import AUDIO_SUFFIXES, estimate_seconds, find_files
from myna_plugin.model.spectrogram import HOP_LENGTH, MelSpectrogram, frame_count
from myna_plugin.pretraining.store.reading import (
    CLIP,
    FILE,
    FRAME_BYTES,
    SHARD,
    Index,
    StoreError,
    StoreSettings,
    Texts,
    read_arrays,
)
from myna_plugin.pretraining.store.writing import (
    INDEX_BYTES_PER_FILE,
    WORK,
    publish,
    write_arrays,
    write_settings,
    write_shard_file,
    writing,
)

CLIP_SECONDS = 10.0
"""Length of AudioSet's segments, on which the published models were trained (paper §4.1)."""

MIN_SECONDS = 4.0
"""Room for two different crops of 96 frames (3.07 s): 31 places each."""

SHARD_MB = 32.0
"""1.2 hours of audio: small enough to keep many workers busy, 2,000 shards for AudioSet's music."""

FLOAT16_MAX = 65_504.0

FRAMES_PER_HOUR = 3600 * SAMPLE_RATE / HOP_LENGTH

SCAN_BATCH = 256

Decoder = Callable[[Path, Note], Tensor]
"""Reads one file, mono at 16 kHz, and tells what is odd about it."""


def decode_audio(path: Path, note: Note) -> Tensor:
    """`load_audio` at the model's rate."""
    return load_audio(path, SAMPLE_RATE, note)


class RejectedError(InputError):
    """A file that does not belong in a store, and why."""


def settings_of(
    clip_seconds: float = CLIP_SECONDS,
    min_seconds: float = MIN_SECONDS,
    shard_mb: float = SHARD_MB,
    part: tuple[int, int] = (1, 1),
) -> StoreSettings:
    """Settings in frames from settings in seconds and megabytes.

    A clip has the frames of a sound of its length, so a ten-second file is one clip of 313.

    >>> settings_of()
    StoreSettings(clip_frames=313, min_frames=126, shard_frames=125000, part=(1, 1))
    """
    if min(clip_seconds, min_seconds, shard_mb) <= 0:
        raise StoreError("lengths of clips and sizes of shards must be above 0")
    return StoreSettings(
        clip_frames=frame_count(max(1, round(clip_seconds * SAMPLE_RATE))),
        min_frames=frame_count(max(1, round(min_seconds * SAMPLE_RATE))),
        shard_frames=max(1, int(shard_mb * 1e6) // FRAME_BYTES),
        part=part,
    )


@dataclass(frozen=True)
class Clips:
    """The clips cut from one file.

    Attributes:
        starts: first frame of each.
        mels: mel power of each, float16, shape (frames, 128).
        silent: clips left out because they are silent.
        clamped: values above what float16 holds, stored as 65,504.
    """

    starts: list[int]
    mels: list[np.ndarray]
    silent: int
    clamped: int


def cut_clips(waveform: Tensor, settings: StoreSettings) -> Clips:
    """Mel spectrogram of a file, cut into clips.

    The clips are slices of the spectrogram of the whole file, as an encoder sees it, so frames at
    a cut hold what sounds on both sides. Every clip is full but the last, which is kept if it has
    `min_frames`. Silent clips are left out: all views of all silent clips are alike, which a
    contrastive loss cannot use.

    Args:
        waveform: mono, 16 kHz, shape (S,).
        settings: how to cut.

    Returns:
        At least one clip.

    Raises:
        RejectedError: the file is too short or silent throughout.
    """
    n_frames = frame_count(len(waveform))
    if n_frames < settings.min_frames:
        needed = (settings.min_frames - 1) * HOP_LENGTH / SAMPLE_RATE
        raise RejectedError(
            f"too short: {len(waveform) / SAMPLE_RATE:.2f} s, {needed:.2f} s are needed"
        )
    clips = Clips([], [], 0, 0)
    silent = clamped = 0
    for start in range(0, n_frames, settings.clip_frames):
        stop = min(start + settings.clip_frames, n_frames)
        if stop - start < settings.min_frames:
            break
        low, high = torch.aminmax(waveform[start * HOP_LENGTH : stop * HOP_LENGTH])
        if (high - low) / 2 < SILENCE_AMPLITUDE:
            silent += 1
            continue
        with torch.inference_mode():
            power = _mel_spectrogram().frames(waveform[None], start, stop)[0].T
            clamped += int((power > FLOAT16_MAX).sum())
            clips.mels.append(power.clamp(max=FLOAT16_MAX).half().contiguous().numpy())
        clips.starts.append(start)
    if not clips.starts:
        raise RejectedError(f"silent: nothing above {20 * np.log10(SILENCE_AMPLITUDE):.0f} dBFS")
    return replace(clips, silent=silent, clamped=clamped)


@functools.cache
def _mel_spectrogram() -> MelSpectrogram:
    return MelSpectrogram()


@dataclass(frozen=True, eq=False)
class Plan:
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
    def load(cls, path: Path) -> Plan:
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


def fill_shard(job: ShardJob, store: Path, settings: StoreSettings, decode: Decoder) -> None:
    """Make one shard and, last, its index: the work of a worker."""
    mels: list[np.ndarray] = []
    clip_rows: list[tuple[int, int, int]] = []
    file_rows: list[tuple[int, int, int, int, int]] = []
    reasons: list[bytes] = []
    for row in range(len(job.paths)):
        begin_item(row)
        try:
            clips, reason = _read_clips(job, row, settings, decode)
        except RejectedError as error:
            clips, reason = Clips([], [], 0, 0), str(error)
        reasons.append(os.fsencode(reason))
        counts = len(clips.starts), clips.silent, clips.clamped
        file_rows.append((job.sizes[row], job.mtimes_ns[row], *counts))
        starts = zip(clips.starts, clips.mels, strict=True)
        clip_rows += [(row, start, len(mel)) for start, mel in starts]
        mels += clips.mels
        finish_item(job.frames[row])
    begin_item(len(job.paths))
    index = Index(
        np.array(clip_rows, CLIP),
        write_shard_file(store, job.number, mels) if mels else np.zeros(0, SHARD),
        np.array(file_rows, FILE),
        Texts.of(job.paths),
        Texts.of(reasons),
    )
    write_arrays(_index_of_shard(store, job.number), index.columns())


def _read_clips(
    job: ShardJob, row: int, settings: StoreSettings, decode: Decoder
) -> tuple[Clips, str]:
    """Clips of one file, and what is odd about it; RejectedError, whatever happens."""
    notes: list[str] = []
    path = Path(os.fsdecode(job.paths[row]))
    if row in job.crashed:
        raise RejectedError(
            "the process that decoded it died twice: a crash of the decoder, or too little memory"
        )
    try:
        clips = cut_clips(decode(path, lambda _, text: notes.append(text)), settings)
    except RejectedError:
        raise
    except AudioError as error:
        raise RejectedError(str(error).removeprefix(f"{path}: ")) from error
    # Decoders are other people's code and files come from anywhere: whatever one of them raises,
    # it must not stop the other million. KeyboardInterrupt and StoppedError pass.
    except Exception as error:
        raise RejectedError(f"cannot be decoded ({type(error).__name__}: {error})") from error
    if _size_and_mtime(job.paths[row]) != (job.sizes[row], job.mtimes_ns[row]):
        raise RejectedError("changed after the scan: run again with --extend when it is complete")
    return clips, "; ".join(notes)


def prepare(
    audio_dir: str | Path,
    store: str | Path,
    settings: StoreSettings,
    *,
    extend: bool = False,
    workers: int = 1,
    decode: Decoder = decode_audio,
    say: Callable[[str], None] = print,
) -> Index:
    """Make a store of the audio under a folder, or go on with one that was interrupted.

    Every audio file found ends up either in the store or, with the reason, in its `report.csv`,
    which lists too what is odd about files that are stored.

    Args:
        audio_dir: searched with all its sub-folders; links to folders are followed once.
        store: folder of the store.
        settings: how to cut; an existing store must have been cut the same way.
        extend: add files to a complete store, and try those in its report again.
        workers: processes, one thread each.
        decode: see `Decoder`; picklable.
        say: takes lines for the user.

    Returns:
        The index of the complete store.

    Raises:
        StoreError: nothing was found, the disk is too small, the store is complete and does not
            hold all files, or it cannot be written.
    """
    root, store = Path(os.path.abspath(audio_dir)), Path(store)
    if not root.is_dir():
        raise StoreError(f"{audio_dir}: no such folder; give the folder that holds the audio")
    if extend and not (store / "store.json").exists():
        raise StoreError(f"{store}: there is no store to extend; without --extend one is made")
    with writing(store):
        if (store / "store.json").exists():
            _check_settings(store, settings)
        base = _load_base(store)
        plan = _resume(root, store, base)
        pool = functools.partial(WorkerPool, workers, [__name__])
        if plan is None:
            plan = _make_plan(root, store, settings, base, extend, pool(), say)
        if plan is None:
            assert base is not None
            return base
        unfinished = [k for k in range(plan.n_shards) if not _is_finished(store, plan, k)]
        _announce(store, plan, unfinished, say)
        _fill(store, settings, plan, unfinished, decode, pool())
        index = _gather(store, plan, base)
        publish(store, index)
        (store / WORK / "plan.npz").unlink()
    return index


def _check_settings(store: Path, settings: StoreSettings) -> None:
    begun = asdict(StoreSettings.read(store))
    differing = [f"{k} {begun[k]}, now {v}" for k, v in asdict(settings).items() if v != begun[k]]
    if differing:
        raise StoreError(
            f"{store}: was begun with other settings ({'; '.join(differing)}); "
            "leave these options out, or give another folder"
        )


def _load_base(store: Path) -> Index | None:
    try:
        return Index.load(store / "index.npz")
    except FileNotFoundError:
        return None


def _size_and_mtime(path: bytes) -> tuple[int, int]:
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


def _make_plan(
    root: Path,
    store: Path,
    settings: StoreSettings,
    base: Index | None,
    extend: bool,
    pool: WorkerPool,
    say: Callable[[str], None],
) -> Plan | None:
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
    plan = Plan(
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
    _remove_strays(store, plan.first_shard)
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
        for path in tqdm(find_files(root, say), "find", unit=" files"):
            suffix = os.fsdecode(os.path.splitext(path)[1]).lower()
            kinds[suffix] += 1
            if suffix not in AUDIO_SUFFIXES:
                continue
            # By name, not by place in a list: machines that scan at different times agree.
            if zlib.crc32(path[prefix:]) % part[1] != part[0] - 1:
                continue
            status, row = _size_and_mtime(path), known.get(path)
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
    ignored = [(suffix, n) for suffix, n in kinds.most_common() if suffix not in AUDIO_SUFFIXES]
    if ignored:
        listed = ", ".join(f"{suffix or 'no suffix'} {n:,}" for suffix, n in ignored[:8])
        total = sum(n for _, n in ignored)
        say(f"files that are not audio, passed over: {total:,} ({listed})")
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
    with tqdm(total=len(paths), desc="scan", unit=" files") as bar, closing(results):
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


def _remove_strays(store: Path, first_shard: int) -> None:
    """Remove what an interrupted merge, or a run killed while it tidied up, has left."""
    for path in (store / WORK).glob("*.npz"):
        path.unlink()
    for path in (store / "shards").glob("*.npy"):
        if int(path.stem) >= first_shard:
            path.unlink()


def _resume(root: Path, store: Path, base: Index | None) -> Plan | None:
    """The plan of an interrupted run, brought up to date; None if there is none."""
    plan_path = store / WORK / "plan.npz"
    try:
        plan = Plan.load(plan_path)
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
        size[row], mtime_ns[row] = _size_and_mtime(path)
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
        _index_of_shard(store, plan.first_shard + k).unlink(missing_ok=True)
    plan = replace(plan, size=size, mtime_ns=mtime_ns)
    plan.save(plan_path)
    return plan


def _index_of_shard(store: Path, number: int) -> Path:
    return store / WORK / f"{number:06d}.npz"


def _is_finished(store: Path, plan: Plan, k: int) -> bool:
    return _index_of_shard(store, plan.first_shard + k).exists()


def _announce(store: Path, plan: Plan, unfinished: list[int], say: Callable[[str], None]) -> None:
    """Say what is to come and what disk it needs; StoreError if that is not there."""
    needed = plan.frames_of(unfinished) * FRAME_BYTES + INDEX_BYTES_PER_FILE * len(plan.paths)
    finished = plan.n_shards - len(unfinished)
    say(
        f"{len(plan.paths):,} files, about {plan.frames.sum() / FRAMES_PER_HOUR:,.2f} hours, "
        f"{plan.n_shards:,} shards" + (f" of which {finished:,} are finished" if finished else "")
    )
    say(
        f"disk needed: {tqdm.format_sizeof(needed, 'B')}; "
        f"left where {store} is: {tqdm.format_sizeof(shutil.disk_usage(store).free, 'B')}"
    )
    check_disk(store, needed, StoreError)


def _fill(
    store: Path,
    settings: StoreSettings,
    plan: Plan,
    unfinished: list[int],
    decode: Decoder,
    pool: WorkerPool,
) -> None:
    """Make all unfinished shards."""
    function = functools.partial(fill_shard, store=store, settings=settings, decode=decode)
    total = int(plan.frames.sum())
    finished = total - plan.frames_of(unfinished)
    bar = tqdm(
        total=total / FRAMES_PER_HOUR,
        initial=finished / FRAMES_PER_HOUR,
        desc="prepare",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} hours of audio "
        "[{elapsed}<{remaining}{postfix}]",
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )

    def poll() -> None:
        # A shard that is tried again counts twice.
        now = min(finished + pool.done, total) / FRAMES_PER_HOUR
        minutes = max(bar.format_dict["elapsed"], 1e-3) / 60
        bar.set_postfix_str(f"{(now - bar.initial) / minutes:.1f} hours/min", refresh=False)
        bar.update(now - bar.n)

    results = pool.map(function, map(plan.job, unfinished), ShardJob.after_death, poll)
    with bar, closing(results):
        for _ in results:
            poll()


def _gather(store: Path, plan: Plan, base: Index | None) -> Index:
    """The index of the whole store, from those of its shards."""
    parts = [Index.empty() if base is None else base.without(plan.replaces)]
    numbers = range(plan.first_shard, plan.first_shard + plan.n_shards)
    parts += [Index.load(_index_of_shard(store, number)) for number in numbers]
    return replace(Index.concatenate(parts), generation=plan.generation)
