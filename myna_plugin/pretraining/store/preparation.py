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
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import check_disk
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.worker_pool import (
    WorkerPool,
    begin_item,
    finish_item,
)
from myna_plugin.model.audio import (
    HOP_LENGTH,
    SAMPLE_RATE,
    SILENCE_AMPLITUDE,
    SILENT,
    AudioError,
    Note,
    frame_count,
    load_audio,
)
from myna_plugin.model.spectrogram import MelSpectrogram
from myna_plugin.pretraining.store.plan import (
    PreparationPlan,
    ShardJob,
    index_of_shard,
    make_plan,
    resume_plan,
    size_and_mtime,
)
from myna_plugin.pretraining.store.reading import (
    CLIP,
    FILE,
    FRAME_BYTES,
    SHARD,
    Index,
    StoreError,
    StoreSettings,
)
from myna_plugin.pretraining.store.texts import Texts
from myna_plugin.pretraining.store.writing import (
    INDEX_BYTES_PER_FILE,
    WORK,
    publish,
    write_arrays,
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

    >>> made = settings_of()
    >>> made.clip_frames, made.min_frames, made.shard_frames
    (313, 126, 125000)
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
        raise RejectedError(SILENT)
    return replace(clips, silent=silent, clamped=clamped)


@functools.cache
def _mel_spectrogram() -> MelSpectrogram:
    return MelSpectrogram()


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
    write_arrays(index_of_shard(store, job.number), index.columns())


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
    if size_and_mtime(job.paths[row]) != (job.sizes[row], job.mtimes_ns[row]):
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
    if settings.clips_per_block > 1:
        raise StoreError(f"{store}: its clips form blocks; give a folder for a new store")
    with writing(store):
        if (store / "store.json").exists():
            _check_settings(store, settings)
        base = _load_base(store)
        plan = resume_plan(root, store, base)
        pool = functools.partial(WorkerPool, workers, [__name__])
        if plan is None:
            plan = make_plan(root, store, settings, base, extend, pool(), say)
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


def _is_finished(store: Path, plan: PreparationPlan, k: int) -> bool:
    return index_of_shard(store, plan.first_shard + k).exists()


def _announce(
    store: Path, plan: PreparationPlan, unfinished: list[int], say: Callable[[str], None]
) -> None:
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
    plan: PreparationPlan,
    unfinished: list[int],
    decode: Decoder,
    pool: WorkerPool,
) -> None:
    """Make all unfinished shards."""
    function = functools.partial(fill_shard, store=store, settings=settings, decode=decode)
    total = int(plan.frames.sum())
    finished = total - plan.frames_of(unfinished)
    bar = ProgressBar(
        total=total / FRAMES_PER_HOUR,
        initial=finished / FRAMES_PER_HOUR,
        desc="prepare",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} hours of audio "
        "[{elapsed}<{remaining}{postfix}]",
        mininterval=0.5,
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


def _gather(store: Path, plan: PreparationPlan, base: Index | None) -> Index:
    """The index of the whole store, from those of its shards."""
    parts = [Index.empty() if base is None else base.without(plan.replaces)]
    numbers = range(plan.first_shard, plan.first_shard + plan.n_shards)
    parts += [Index.load(index_of_shard(store, number)) for number in numbers]
    return replace(Index.concatenate(parts), generation=plan.generation)
