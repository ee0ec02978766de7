"""Shards of a rendered store: their blocks are drawn, rendered, and written in one go.

There are two ways to render: the synthesiser plays every clip, in worker processes; or workers draw
what is played, and a device puts the clips together from samples of the soundfonts' notes.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from myna_plugin.common.errors import UnfinishedError
from myna_plugin.model.audio import SAMPLE_RATE, frame_count
from myna_plugin.model.spectrogram import MelSpectrogram
from myna_plugin.pretraining.store.preparation import FLOAT16_MAX, SILENCE_AMPLITUDE, settings_of
from myna_plugin.pretraining.store.reading import StoreSettings
from myna_plugin.pretraining.store.writing import WORK, write_arrays, write_shard_file
from recipes.rendered.blocks import ClipPlan, StorePlan, draw_block
from recipes.rendered.recording_chain import apply_recordings, tabulate
from recipes.rendered.render import render_clip, run_in_workers
from recipes.rendered.sampler import (
    NoteBank,
    NoteIndex,
    PlayedNotes,
    instruments_of,
    make_bank,
    mix,
    tabulate_notes,
    to_peak,
)
from recipes.rendered.soundfonts import SoundfontError

MOST_ATTEMPTS = 10
"""Times that a block with a silent clip is drawn before the soundfonts are called unusable."""

LEAST_SHARDS = 400
"""Not a function of the workers, so that a store is the same with any number of them."""

Attempt = tuple[int, int]
"""A block's number, and how often it has been drawn before."""

Facts = TypeVar("Facts")
"""All that is drawn of some blocks."""


class Layout(Protocol):
    """What a store of blocks looks like, whatever it is made of."""

    @property
    def clip_seconds(self) -> float:
        """Length of a clip."""

    @property
    def clips_per_block(self) -> int:
        """Clips of a block."""


@dataclass(frozen=True)
class ShardJob:
    """Blocks `first` to `stop` (exclusive), which become shard `number`."""

    number: int
    first: int
    stop: int

    @property
    def attempts(self) -> list[Attempt]:
        """Its blocks, each for the first time."""
        return [(block, 0) for block in range(self.first, self.stop)]


@dataclass(frozen=True)
class ClipFacts:
    """What a store tells of a clip."""

    name: str
    work: str
    licence: str

    @classmethod
    def of(cls, clip: ClipPlan) -> ClipFacts:
        """Facts of a clip that is planned."""
        score = clip.score
        return cls(clip.name, f"{score.corpus}/{score.work}", score.licence)


@dataclass(frozen=True, eq=False)
class Rendered:
    """Clips as a store holds them.

    Attributes:
        facts: of each clip.
        mels: mel power, float16 (clips, frames, 128).
        clamped: values of each clip that float16 cannot hold, int64.
        silent: which clips are silent.
    """

    facts: list[ClipFacts]
    mels: np.ndarray
    clamped: np.ndarray
    silent: np.ndarray


@dataclass(frozen=True, eq=False)
class Drawn:
    """Clips of some blocks, everything about them drawn."""

    facts: list[ClipFacts]
    notes: PlayedNotes
    pieces: np.ndarray


def store_settings(plan: Layout) -> StoreSettings:
    """How the store is cut: every clip is full."""
    cut = settings_of(clip_seconds=plan.clip_seconds, min_seconds=plan.clip_seconds)
    return replace(cut, clips_per_block=plan.clips_per_block)


def shard_jobs(plan: Layout, n_blocks: int) -> list[ShardJob]:
    """Blocks dealt out to shards of the usual size, or to smaller ones that keep workers busy."""
    settings = store_settings(plan)
    usual = settings.shard_frames // (settings.clip_frames * plan.clips_per_block)
    size = max(1, min(usual, math.ceil(n_blocks / LEAST_SHARDS)))
    starts = range(0, n_blocks, size)
    return [ShardJob(i, first, min(first + size, n_blocks)) for i, first in enumerate(starts)]


def columns_path(store: Path, job: ShardJob) -> Path:
    """What is there when a shard is finished."""
    return store / WORK / f"{job.number:06d}.npz"


def fill_shards(
    jobs: Sequence[ShardJob], plan: StorePlan, store: Path, workers: int, device: str
) -> Iterator[None]:
    """Render shards and write them and, last, what they are made of; yields after every shard.

    Raises:
        SoundfontError: blocks come out silent again and again.
        UnfinishedError: the device's memory is too small.
    """
    if plan.sampled:
        try:
            yield from _fill_by_samples(jobs, plan, store, workers, device)
        except torch.OutOfMemoryError as error:
            remedy = "name fewer soundfonts, or begin another store without --sampled"
            raise UnfinishedError(f"the GPU has too little memory; {remedy}") from error
    else:
        fill = functools.partial(_fill_by_playing, plan=plan, store=store)
        yield from run_in_workers(fill, jobs, workers, total=len(jobs), unit="shard")


def _fill_by_playing(job: ShardJob, plan: StorePlan, store: Path) -> None:
    """The work of a worker."""
    began = time.perf_counter()
    play = functools.partial(play_blocks, plan=plan)
    rendered = _until_heard(job, play(job.attempts), play, plan, _unusable(plan))
    write_shard(store, job, rendered, began)


def play_blocks(attempts: Sequence[Attempt], plan: StorePlan) -> Rendered:
    """Have the synthesiser play all clips of some blocks."""
    facts, parts = [], []
    for attempt in attempts:
        for clip in draw_block(plan, *attempt):
            sound = render_clip(
                clip.score, clip.performance, clip.soundfont, plan.clip_seconds, clip.recording
            )
            facts.append(ClipFacts.of(clip))
            parts.append(as_stored(torch.from_numpy(sound.waveform)[None]))
    mels, clamped, silent = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Rendered(facts, mels, clamped, silent)


def _fill_by_samples(
    jobs: Sequence[ShardJob], plan: StorePlan, store: Path, workers: int, device: str
) -> Iterator[None]:
    bank = make_bank(instruments_of(plan.soundfonts), workers, device)
    draw = functools.partial(draw_blocks, plan=plan, index=bank.index)

    def render(drawn: Drawn) -> Rendered:
        return render_drawn(drawn, bank, plan.clip_seconds)

    yield from fill_from_draws(jobs, plan, store, workers, draw, render, _unusable(plan))


def fill_from_draws(
    jobs: Sequence[ShardJob],
    layout: Layout,
    store: Path,
    workers: int,
    draw: Callable[[Sequence[Attempt]], Facts],
    render: Callable[[Facts], Rendered],
    silence: Exception,
) -> Iterator[None]:
    """Have workers draw shards, render them here, and write them; yields after every shard.

    Args:
        jobs: the shards.
        layout: of the store.
        store: its folder.
        workers: processes.
        draw: picklable; draws some blocks.
        render: makes clips of what was drawn.
        silence: raised where a clip of a block is silent however it is drawn.
    """
    drawn = run_in_workers(
        draw, [job.attempts for job in jobs], workers, total=len(jobs), unit="shard"
    )
    with ThreadPoolExecutor(1) as writer:
        written = None
        for job, shard in zip(jobs, drawn, strict=True):
            began = time.perf_counter()
            rendered = _until_heard(
                job, render(shard), lambda again: render(draw(again)), layout, silence
            )
            if written is not None:
                written.result()
            written = writer.submit(write_shard, store, job, rendered, began)
            yield
        if written is not None:
            written.result()


def draw_blocks(attempts: Sequence[Attempt], plan: StorePlan, index: NoteIndex) -> Drawn:
    """Draw all clips of some blocks, to be put together from samples."""
    clips = [clip for attempt in attempts for clip in draw_block(plan, *attempt)]
    played = [(clip.score, clip.performance, clip.soundfont) for clip in clips]
    n_samples = round(SAMPLE_RATE * plan.clip_seconds)
    return Drawn(
        [ClipFacts.of(clip) for clip in clips],
        tabulate_notes(played, plan.clip_seconds, index),
        tabulate([clip.recording for clip in clips], n_samples),
    )


def render_drawn(drawn: Drawn, bank: NoteBank, seconds: float) -> Rendered:
    """Render what was drawn, clips of some length, on the bank's device."""
    waveforms = to_peak(mix(bank, drawn.notes, seconds))
    return Rendered(drawn.facts, *as_stored(apply_recordings(waveforms, drawn.pieces)))


@torch.inference_mode()
def as_stored(waveforms: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Rendered` has of waveforms (clips, samples), but for facts."""
    low, high = torch.aminmax(waveforms, dim=1)
    mel = _mel_spectrogram(waveforms.device)
    power = mel.frames(waveforms, 0, frame_count(waveforms.shape[1])).transpose(1, 2)
    return (
        power.clamp(max=FLOAT16_MAX).half().contiguous().cpu().numpy(),
        (power > FLOAT16_MAX).sum((1, 2)).cpu().numpy(),
        ((high - low) / 2 < SILENCE_AMPLITUDE).cpu().numpy(),
    )


@functools.cache
def _mel_spectrogram(device: torch.device) -> MelSpectrogram:
    return MelSpectrogram().to(device)


def _until_heard(
    job: ShardJob,
    rendered: Rendered,
    render: Callable[[Sequence[Attempt]], Rendered],
    layout: Layout,
    silence: Exception,
) -> Rendered:
    """Render blocks that have a silent clip anew from other chance.

    A clip is silent where a soundfont lacks what was asked for.
    """
    size = layout.clips_per_block
    for attempt in range(1, MOST_ATTEMPTS + 1):
        blocks = np.unique(np.flatnonzero(rendered.silent) // size)
        if not len(blocks):
            return rendered
        again = render([(job.first + int(block), attempt) for block in blocks])
        rows = (blocks[:, None] * size + np.arange(size)).ravel()
        for row, facts in zip(rows, again.facts, strict=True):
            rendered.facts[row] = facts
        for column in ("mels", "clamped", "silent"):
            getattr(rendered, column)[rows] = getattr(again, column)
    raise silence


def _unusable(plan: StorePlan) -> SoundfontError:
    fonts = ", ".join(dict.fromkeys(plan.soundfonts))
    return SoundfontError(f"{fonts}: renders silence; give a General MIDI soundfont")


def write_shard(store: Path, job: ShardJob, rendered: Rendered, began: float) -> None:
    """Write a shard and, last, what it is made of and how long that took."""
    columns = {
        "row": write_shard_file(store, job.number, list(rendered.mels)),
        "names": np.array([os.fsencode(clip.name) for clip in rendered.facts]),
        "clamped": rendered.clamped,
        "works": np.array([clip.work for clip in rendered.facts]),
        "licences": np.array([clip.licence for clip in rendered.facts]),
        "seconds": np.array([time.perf_counter() - began]),
    }
    write_arrays(columns_path(store, job), columns)
