"""Audio of a task's clips: loading it, and writing it as WAV files."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor
from tqdm import tqdm

from myna_plugin.common.errors import say
from myna_plugin.common.files import check_disk, write_whole
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.threads import map_as_done
from myna_plugin.model.audio import SAMPLE_RATE, load_audio, read_info
from myna_plugin.probing.tasks.task import Item, TaskError

SUBTYPE = "PCM_16"
"""What written clips are, as HEAR's public tasks: 16 bit; samples beyond [-1, 1] are clipped."""

SAMPLE_BYTES = 2
"""What one of their samples takes."""


def group_by_file(items: Sequence[Item]) -> dict[Path, list[Item]]:
    """Items by audio file, in the order of their first clips."""
    groups: dict[Path, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.path].append(item)
    return dict(groups)


def load_clips(path: Path, items: Sequence[Item], sample_rate: int = SAMPLE_RATE) -> list[Tensor]:
    """Decode a file once and cut its clips.

    Args:
        path: audio file.
        items: clips of that file.
        sample_rate: of the result, Hz.

    Returns:
        One mono waveform a clip, in [-1, 1], shape (S,) with S >= 1.

    Raises:
        AudioError: the file is missing, cannot be decoded, is empty, or holds NaN or inf.
        TaskError: a clip starts where the file has ended.
    """
    waveform = load_audio(path, sample_rate)
    clips = []
    for item in items:
        start = round(item.start_s * sample_rate)
        end = None if item.end_s is None else round(item.end_s * sample_rate)
        clips.append(waveform[start:end])
        if not len(clips[-1]):
            raise TaskError(
                f"{path}: clip {item.clip_id!r} starts at {item.start_s:g} s, "
                f"the file ends at {len(waveform) / sample_rate:g} s"
            )
    return clips


def is_whole_file(item: Item, sample_rate: int | None = None) -> bool:
    """Whether the clip is its file, at the sample rate asked for (None: at whatever it has)."""
    if item.start_s or item.end_s is not None:
        return False
    return sample_rate is None or read_info(item.path).sample_rate == sample_rate


def link_file(link: Path, file: Path) -> None:
    """Have a symbolic link to a file, unless something good is there already."""
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # a link to data that has moved
        link.symlink_to(file.resolve())


def write_clips(
    items: Sequence[Item],
    destinations: Mapping[str, Path],
    sample_rate: int | None,
    jobs: int = 4,
    progress: bool = False,
) -> None:
    """Write clips as mono 16-bit WAV files, whole or not at all; existing files are kept.

    Args:
        items: the clips.
        destinations: clip_id -> file to write.
        sample_rate: Hz; None keeps each file's own.
        jobs: files to decode at a time.
        progress: say what is written, and show a progress bar.

    Raises:
        AudioError, TaskError: see `load_clips`.
        InputError: the disk has not the room for them.
        OSError: a file cannot be written.
    """
    missing = [item for item in items if not destinations[item.clip_id].is_file()]
    groups = group_by_file(missing)
    if not groups:
        return
    needed = sum(_wav_bytes(path, clips, sample_rate) for path, clips in groups.items())
    place = destinations[missing[0].clip_id].parent.parent
    if progress:
        say(f"{place}: {len(missing):,} WAV files to write, {tqdm.format_sizeof(needed, 'B')}")
    check_disk(place, needed)
    for folder in {destinations[item.clip_id].parent for item in missing}:
        folder.mkdir(parents=True, exist_ok=True)

    def write_file(path: Path) -> None:
        rate = sample_rate or read_info(path).sample_rate
        clips = groups[path]
        for item, waveform in zip(clips, load_clips(path, clips, rate), strict=True):
            write_wav(destinations[item.clip_id], waveform.numpy(), rate)

    with closing(map_as_done(write_file, groups, jobs)) as written:
        for _ in ProgressBar(written, "audio", len(groups), unit="file", disable=not progress):
            pass


def _wav_bytes(path: Path, clips: Sequence[Item], sample_rate: int | None) -> int:
    """Bytes of a file's clips as WAV files, by its header."""
    info = read_info(path)
    rate = sample_rate or info.sample_rate
    ends = (info.duration_s if clip.end_s is None else clip.end_s for clip in clips)
    seconds = sum(end - clip.start_s for end, clip in zip(ends, clips, strict=True))
    return round(seconds * rate) * SAMPLE_BYTES


def write_wav(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write mono samples in [-1, 1], shape (S,), as a WAV file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    # libsndfile, writing to a full disk, tells no reason.
    content = io.BytesIO()
    soundfile.write(content, samples, sample_rate, subtype=SUBTYPE, format="WAV")
    write_whole(path, content.getbuffer())
