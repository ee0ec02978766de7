"""Rendering: a score, a performance and a soundfont become 16 kHz audio with labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy.signal import resample_poly

from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.worker_pool import WorkerDiedError, WorkerPool, begin_item
from myna_plugin.model.audio import SAMPLE_RATE
from recipes.rendered.percussion import DrumTrack, drum_notes
from recipes.rendered.performance import Performance, octave_shift
from recipes.rendered.recording import Recording
from recipes.rendered.recording_chain import apply_recording
from recipes.rendered.scores import DRUMS, Score
from recipes.rendered.soundfonts import (
    DRUM_CHANNEL,
    SYNTHESIS_RATE,
    balance_db,
    load_soundfont,
    silence,
)

STEP = 64
"""Samples at `SYNTHESIS_RATE` between possible onsets: 2 ms."""

PRE_ROLL_S = 0.5
"""Seconds played before the clip begins, so that it does not begin with a stroke."""

DRY_PEAK = 0.5
DEFAULT_VELOCITY = 80

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Clip:
    """Audio and what is true about it.

    Attributes:
        waveform: float32 (S,), 16 kHz.
        notes: float32 (n, 4), sorted by onset: onset and offset in seconds of the clip, MIDI pitch
            as played, General MIDI program. Offsets lie after 0 and onsets before the end; a note
            that began earlier has a negative onset. Percussion is not among them.
        keys: (onset in seconds of the clip, tonic pitch class, mode) as played.
        key: (tonic, mode) if one known key holds throughout, else None.
        score: the work.
        performance: how it was played.
        soundfont: path.
    """

    waveform: np.ndarray
    notes: np.ndarray
    keys: tuple[tuple[float, int, int], ...]
    key: tuple[int, int] | None
    score: Score
    performance: Performance
    soundfont: str

    @property
    def programs(self) -> tuple[int, ...]:
        """Programs that sound, ascending."""
        return tuple(np.unique(self.notes[:, 3].astype(int)).tolist())


def render_notes(
    notes: np.ndarray,
    programs: tuple[int, ...],
    soundfont: str,
    seconds: float,
    *,
    gains_db: tuple[float, ...] = (0.0,),
    tuning_cents: float = 0.0,
    drums: np.ndarray | None = None,
    drum_kit: int = 0,
    drum_gain_db: float = 0.0,
) -> np.ndarray:
    """Dry mono audio of some notes.

    Args:
        notes: float (n, 5): onset and duration in seconds, MIDI pitch, velocity 1 to 127, part.
            Onsets may lie up to `PRE_ROLL_S` before 0.
        programs: General MIDI program (from 0) of each part, at most 15.
        soundfont: path.
        seconds: length of the result.
        gains_db: level of each part; repeated where shorter than `programs`.
        tuning_cents: offset from A = 440 Hz.
        drums: like `notes`, pitches naming General MIDI drums; None for none.
        drum_kit: program of the drum channel.
        drum_gain_db: its level.

    Returns:
        float32 (round(16000 * seconds),), as loud as the soundfont makes it.
    """
    font = load_soundfont(soundfont)
    silence(font)
    channels = [channel for channel in range(16) if channel != DRUM_CHANNEL]
    for part, program in enumerate(programs):
        channel = channels[part]
        font.channel_set_preset_number(channel, program, False)
        font.channel_set_volume(channel, 10 ** (gains_db[part % len(gains_db)] / 20))
        font.channel_set_tuning(channel, tuning_cents / 100)
    font.channel_set_preset_number(DRUM_CHANNEL, drum_kit, True)
    font.channel_set_volume(DRUM_CHANNEL, 10 ** (drum_gain_db / 20))
    played = [_events(notes, [channels[part] for part in range(len(programs))])]
    if drums is not None and len(drums):
        played.append(_events(drums, [DRUM_CHANNEL] * (int(drums[:, 4].max()) + 1)))
    return _play(font, np.concatenate(played), seconds)


def _events(notes: np.ndarray, channels: list[int]) -> np.ndarray:
    """Rows (step, 1 on | 0 off, channel, pitch, velocity) of notes, int64, unsorted."""
    steps = np.rint((notes[:, :1] + PRE_ROLL_S) * (SYNTHESIS_RATE / STEP)).astype(np.int64)
    ends = np.rint((notes[:, :1] + notes[:, 1:2] + PRE_ROLL_S) * (SYNTHESIS_RATE / STEP))
    whole = np.rint(notes[:, 2:5]).astype(np.int64)
    channel = np.asarray(channels, np.int64)[whole[:, 2:3]]
    pitch, velocity = whole[:, 0:1], whole[:, 1:2]
    on = np.concatenate([steps, np.ones_like(steps), channel, pitch, velocity], 1)
    # A stop in the step of its onset would end the note before it is heard.
    stops = np.maximum(ends.astype(np.int64), steps + 1)
    off = np.concatenate([stops, np.zeros_like(steps), channel, pitch, velocity], 1)
    return np.concatenate([on, off])


def _play(font: Any, events: np.ndarray, seconds: float) -> np.ndarray:
    n_samples = round(SAMPLE_RATE * seconds)
    ratio = SYNTHESIS_RATE // SAMPLE_RATE
    pre_roll = round(PRE_ROLL_S * SYNTHESIS_RATE)
    n_steps = -(-(pre_roll + ratio * n_samples) // STEP)
    # Sorted by step; at one step, ends come before onsets, so that repeated notes sound again.
    events = events[np.lexsort((events[:, 1], events[:, 0]))]
    events = events[(events[:, 0] < n_steps) & (events[:, 0] >= 0)]
    sound = np.zeros(n_steps * STEP, np.float32)
    target = sound.data.cast("B")
    width = STEP * sound.itemsize
    now = 0
    for step, is_on, channel, pitch, velocity in events.tolist():
        if step > now:
            font.render(target[now * width : step * width])
            now = step
        if is_on:
            font.channel_note_on(channel, pitch, velocity / 127)
        else:
            font.channel_note_off(channel, pitch)
    if now < n_steps:
        font.render(target[now * width :])
    dry = resample_poly(sound[pre_roll : pre_roll + ratio * n_samples], 1, ratio)
    return dry.astype(np.float32, copy=False)


def perform(score: Score, performance: Performance, seconds: float) -> tuple[np.ndarray, ...]:
    """Notes of a passage as played.

    Returns:
        notes: float64 (n, 5) in seconds of the clip, as `render_notes` takes them.
        drums: the same for percussion, the score's own or added.
    """
    notes = score.notes
    start = performance.start_s
    span = seconds * performance.tempo
    early = PRE_ROLL_S * performance.tempo
    inside = (notes[:, 0] < start + span) & (notes[:, 0] + notes[:, 1] > start - early)
    notes = notes[inside].astype(np.float64)
    notes[:, 0] = (notes[:, 0] - start) / performance.tempo
    notes[:, 1] *= performance.articulation / performance.tempo
    begun = np.maximum(-PRE_ROLL_S - notes[:, 0], 0)
    notes[:, 0] += begun
    notes[:, 1] = np.maximum(notes[:, 1] - begun, 0.02)
    notes = notes[notes[:, 0] + notes[:, 1] > -PRE_ROLL_S]
    rng = np.random.default_rng(performance.seed)
    notes[:, 0] += np.clip(rng.normal(0.0, performance.timing_s + 1e-9, len(notes)), -0.05, 0.05)
    given = np.where(notes[:, 3] > 0, notes[:, 3], DEFAULT_VELOCITY)
    given += rng.normal(0.0, performance.velocity_spread + 1e-9, len(notes))
    notes[:, 3] = np.clip(given, 20, 127)
    percussion = [i for i, name in enumerate(score.parts) if name == DRUMS]
    is_drum = np.isin(notes[:, 4], percussion)
    pitched, drums = notes[~is_drum], notes[is_drum]
    pitched[:, 4] %= len(performance.programs)
    for part in np.unique(pitched[:, 4]).astype(int).tolist():
        own = pitched[:, 4] == part
        # From the pitches as written, so that all transpositions share one octave.
        pitched[own, 2] += octave_shift(pitched[own, 2], performance.programs[part])
    pitched[:, 2] += performance.transposition
    if performance.drums is not None:
        added = drum_notes(performance.drums, score, start, seconds, performance.tempo)
        drums = np.concatenate([drums, added])
    heard = (pitched[:, 2] >= 12) & (pitched[:, 2] <= 120)
    return pitched[heard], drums


def render_clip(
    score: Score,
    performance: Performance,
    soundfont: str,
    seconds: float,
    recording: Recording | None = None,
) -> Clip:
    """Render one clip.

    Args:
        score: the work.
        performance: how it is played.
        soundfont: path.
        seconds: length of the clip.
        recording: how it is recorded; None leaves it dry.

    Returns:
        The clip, at most 1.0 in magnitude; the same for the same arguments.
    """
    notes, drums = perform(score, performance, seconds)
    track = performance.drums or DrumTrack("")
    waveform = render_notes(
        notes,
        performance.programs,
        soundfont,
        seconds,
        gains_db=balanced_gains(notes, performance, soundfont),
        tuning_cents=performance.tuning_cents,
        drums=drums,
        drum_kit=track.kit,
        drum_gain_db=track.gain_db,
    )
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > 0:
        waveform = waveform * np.float32(DRY_PEAK / peak)
    if recording is not None:
        waveform = apply_recording(waveform, recording)
    return Clip(
        waveform,
        _labels(notes, performance, seconds),
        _keys(score, performance, seconds),
        _key(score, performance, seconds),
        score,
        performance,
        soundfont,
    )


def balanced_gains(
    notes: np.ndarray, performance: Performance, soundfont: str
) -> tuple[float, ...]:
    """Level of each part: what the players chose, after their instruments are made equally loud."""
    gains = []
    for part, program in enumerate(performance.programs):
        pitches = notes[notes[:, 4] == part, 2]
        # To the tritone: neighbouring notes are about as loud, and are measured once.
        pitch = int(np.rint(np.median(pitches) / 6) * 6) if len(pitches) else 60
        chosen = performance.gains_db[part % len(performance.gains_db)]
        gains.append(chosen + balance_db(soundfont, program, pitch))
    return tuple(gains)


def _labels(notes: np.ndarray, performance: Performance, seconds: float) -> np.ndarray:
    offsets = notes[:, 0] + notes[:, 1]
    programs = np.asarray(performance.programs)[notes[:, 4].astype(int)]
    rows = np.stack([notes[:, 0], offsets, notes[:, 2], programs], 1).astype(np.float32)
    rows = rows[(offsets > 0) & (notes[:, 0] < seconds)]
    return rows[np.lexsort((rows[:, 2], rows[:, 0]))]


def _key(score: Score, performance: Performance, seconds: float) -> tuple[int, int] | None:
    start = performance.start_s
    key = score.key_during(start, start + seconds * performance.tempo)
    return None if key is None else ((key[0] + performance.transposition) % 12, key[1])


def _keys(
    score: Score, performance: Performance, seconds: float
) -> tuple[tuple[float, int, int], ...]:
    onsets = [(onset - performance.start_s) / performance.tempo for onset, _, _ in score.keys]
    ends = [*onsets[1:], np.inf]
    return tuple(
        (max(onset, 0.0), (tonic + performance.transposition) % 12, mode)
        for onset, end, (_, tonic, mode) in zip(onsets, ends, score.keys, strict=False)
        if onset < seconds and end > 0
    )


def run_in_workers(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    *,
    total: int | None = None,
    description: str = "render",
    unit: str = "clip",
) -> Iterator[Result]:
    """Results of a function on every task, in their order, with a progress bar.

    Args:
        function: picklable, and a function of its task alone, so that the number of workers
            changes nothing.
        tasks: picklable.
        workers: processes, one thread each; 1 runs in this process.
        total: number of tasks, where `tasks` does not tell.
        description: of the bar.
        unit: of the bar.

    Raises:
        WorkerDiedError: a worker was killed, for memory perhaps.
    """
    if workers < 1:
        raise ValueError(f"at least 1 worker is needed, got {workers}")
    with ProgressBar(total=total, desc=description, unit=unit) as bar:
        if workers == 1:
            for task in tasks:
                yield function(task)
                bar.update()
            return
        waiting: dict[int, Result] = {}
        turn = 0
        pool = WorkerPool(workers, [__name__])
        numbered = functools.partial(_run_numbered, function)
        with closing(pool.map(numbered, enumerate(tasks), _name_death)) as results:
            for (number, _), result in results:
                waiting[number] = result
                while turn in waiting:
                    yield waiting.pop(turn)
                    turn += 1
                    bar.update()


def _run_numbered(function: Callable[[Task], Result], task: tuple[int, Task]) -> Result:
    begin_item(0)
    return function(task[1])


def _name_death(task: tuple[int, Task], item: int) -> tuple[int, Task]:
    raise WorkerDiedError(f"a worker died at task {task[0]} ({task[1]!r:.200})")
