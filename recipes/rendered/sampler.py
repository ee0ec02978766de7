"""Rendering by samples: every note of the soundfonts is played once, and clips are put together.

`render.render_clip` has a synthesiser play every clip. Here a bank holds each note of each
instrument at two velocities, and a clip is the sum of its notes' samples, each begun, ended and
weighted as its player would: what a synthesiser does for a note, done once. A GPU puts hundreds of
clips together at a time.

What differs from the synthesiser: notes beyond the piano's pitches sound octaves nearer; notes
longer than `LONGEST_S` die away; a velocity between the two is scaled from the nearer one; the
release is one exponential for all notes of an instrument; drums are held for `DRUM_S` whatever the
score says; a note struck again does not stop the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from myna_plugin.model.audio import SAMPLE_RATE
from recipes.rendered.percussion import KITS, DrumTrack
from recipes.rendered.performance import PROGRAMS, Performance
from recipes.rendered.render import (
    DRY_PEAK,
    PRE_ROLL_S,
    STEP,
    balanced_gains,
    perform,
    run_in_workers,
)
from recipes.rendered.scores import Score
from recipes.rendered.soundfonts import (
    DRUM_CHANNEL,
    SYNTHESIS_RATE,
    load_soundfont,
    programs_of,
    silence,
)

RATIO = SYNTHESIS_RATE // SAMPLE_RATE
ROW = STEP // RATIO
"""Samples of a row: notes begin and end at rows, 2 ms apart, as the synthesiser's do."""

ROWS_A_SECOND = SAMPLE_RATE // ROW
PITCHES = range(21, 109)
DRUMS = range(27, 88)
VELOCITIES = (56, 100)
LONGEST_S = 3.0
FADE_S = 0.1
"""Seconds over which a note fades that outlasts its sample."""

DRUM_S = 0.2
"""Seconds for which a drum is held before it is released; see `percussion.drum_notes`."""

INAUDIBLE = 1e-3
"""Of a note's peak: what is softer at its end is cut off."""

TAPS = 8
"""Samples that the tuning interpolates between."""

ROWS_AT_ONCE = 1 << 21

Instrument = tuple[str, int, bool]
"""Soundfont, program, and whether it is a drum kit."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """All notes of an instrument.

    Attributes:
        samples: float16 (rows, ROW), one note after the other.
        rows: rows of each note, int64 (velocities, pitches).
        release: nepers a second by which a note dies away once it is let go.
    """

    samples: np.ndarray
    rows: np.ndarray
    release: float


def sample_instrument(instrument: Instrument) -> Sampled:
    """Play all notes of an instrument: `PITCHES`, or `DRUMS` of a kit."""
    is_kit = instrument[2]
    pitches = DRUMS if is_kit else PITCHES
    sounds = [
        _trim(_play_note(instrument, pitch, velocity, DRUM_S if is_kit else None))
        for velocity in VELOCITIES
        for pitch in pitches
    ]
    rows = np.array([len(sound) for sound in sounds]).reshape(len(VELOCITIES), len(pitches))
    return Sampled(np.concatenate(sounds), rows, 0.0 if is_kit else _release(instrument))


def _play_note(
    instrument: Instrument, pitch: int, velocity: int, held_s: float | None, s: float = LONGEST_S
) -> np.ndarray:
    """A note at `SAMPLE_RATE`, held for some time or throughout, float32."""
    soundfont, program, is_kit = instrument
    font = load_soundfont(soundfont)
    silence(font)
    channel = DRUM_CHANNEL if is_kit else 0
    font.channel_set_preset_number(channel, program, is_kit)
    font.channel_set_volume(channel, 1.0)
    sound = np.zeros(round(s * SYNTHESIS_RATE), np.float32)
    target = sound.data.cast("B")
    font.channel_note_on(channel, pitch, velocity / 127)
    if held_s is None:
        font.render(target)
    else:
        held = round(held_s * SYNTHESIS_RATE) * sound.itemsize
        font.render(target[:held])
        font.channel_note_off(channel, pitch)
        font.render(target[held:])
    return resample_poly(sound, 1, RATIO).astype(np.float32, copy=False)


def _trim(sound: np.ndarray) -> np.ndarray:
    """A note as rows, without its inaudible end; at least one row."""
    fade = round(FADE_S * SAMPLE_RATE)
    faded = sound.copy()
    faded[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    magnitude = np.abs(faded)
    audible = np.flatnonzero(magnitude > INAUDIBLE * magnitude.max(initial=0.0))
    n_rows = -(-(int(audible[-1]) + 1) // ROW) if len(audible) else 1
    kept = np.zeros(n_rows * ROW, np.float16)
    kept[: len(faded)] = faded[: len(kept)]
    return kept.reshape(n_rows, ROW)


def _release(instrument: Instrument) -> float:
    """Nepers a second after a note in the middle of the range is let go."""
    low, high = PROGRAMS.get(instrument[1], (48, 72))
    pitch, let_go, after = (low + high) // 2, 0.3, 0.02
    held = _play_note(instrument, pitch, VELOCITIES[1], None, 0.5)
    released = _play_note(instrument, pitch, VELOCITIES[1], let_go, 0.5)
    look = slice(*(round((let_go + s) * SAMPLE_RATE) for s in (after - 0.01, after + 0.01)))
    # Both are the same but for the release: nothing in a synthesiser is left to chance.
    full, left = (float(np.square(sound[look]).sum()) for sound in (held, released))
    if full <= 0:
        return 1 / after
    return float(-0.5 * np.log(np.clip(left / full, 1e-8, 1.0)) / after)


@dataclass(frozen=True, eq=False)
class NoteIndex:
    """Where in a bank each note is.

    Attributes:
        numbers: place of each instrument in the arrays.
        first: first row of each note, int64 (instruments, velocities, 128): every MIDI pitch has
            one, those that were not played an octave's.
        rows: rows of each note, likewise.
        release: of each instrument, nepers a second.
    """

    numbers: dict[Instrument, int]
    first: np.ndarray
    rows: np.ndarray
    release: np.ndarray


@dataclass(frozen=True, eq=False)
class NoteBank:
    """The notes of some instruments.

    Attributes:
        samples: float16 (rows, ROW), on the device that renders.
        index: where each note is.
    """

    samples: Tensor
    index: NoteIndex


def instruments_of(soundfonts: Sequence[str]) -> list[Instrument]:
    """All instruments and drum kits that performances draw from, of some soundfonts."""
    fonts = list(dict.fromkeys(soundfonts))
    pitched = [(font, program, False) for font in fonts for program in programs_of(font)]
    return pitched + [(font, kit, True) for font in fonts for kit in KITS]


def make_bank(
    instruments: Sequence[Instrument], workers: int, device: torch.device | str = "cpu"
) -> NoteBank:
    """Play all notes of some instruments; about 14 MB an instrument, and as much while it is made.

    Args:
        instruments: which.
        workers: processes.
        device: where the samples are kept, and clips put together.
    """
    samples: list[Tensor] = []
    first, rows, release = [], [], []
    total = 0
    played = run_in_workers(
        sample_instrument,
        instruments,
        workers,
        total=len(instruments),
        description="sample",
        unit="instrument",
    )
    for instrument, sampled in zip(instruments, played, strict=True):
        nearest = _nearest(DRUMS if instrument[2] else PITCHES, octaves=not instrument[2])
        starts = np.cumsum(sampled.rows.ravel()) - sampled.rows.ravel() + total
        first.append(starts.reshape(sampled.rows.shape)[:, nearest])
        rows.append(sampled.rows[:, nearest])
        release.append(sampled.release)
        samples.append(torch.from_numpy(sampled.samples).to(device))
        total += len(sampled.samples)
    numbers = {instrument: number for number, instrument in enumerate(instruments)}
    index = NoteIndex(numbers, np.stack(first), np.stack(rows), np.array(release))
    return NoteBank(torch.cat(samples), index)


def _nearest(pitches: range, *, octaves: bool) -> np.ndarray:
    """For every MIDI pitch the place in `pitches` of itself or of what stands for it, (128,)."""
    step = 12 if octaves else 1
    moved = np.arange(128)
    moved = np.where(moved < pitches[0], moved + -(-(pitches[0] - moved) // step) * step, moved)
    moved = np.where(moved > pitches[-1], moved - -(-(moved - pitches[-1]) // step) * step, moved)
    return moved - pitches[0]


@dataclass(frozen=True, eq=False)
class PlayedNotes:
    """The notes of some clips, as arrays with a row for each.

    Attributes:
        clip: number of the clip.
        onset: row of the clip at which it is first heard; row 0 is the clip's beginning, less the
            pre-roll.
        first: row of the bank that it begins with.
        rows: for how many rows it is heard.
        held: rows until it is let go; may lie beyond its end.
        release: nepers a row from then on.
        gain: amplitude.
        tuning: of each clip: factor on all frequencies, (clips,).
    """

    clip: np.ndarray
    onset: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    held: np.ndarray
    release: np.ndarray
    gain: np.ndarray
    tuning: np.ndarray


def tabulate_notes(
    clips: Sequence[tuple[Score, Performance, str]], seconds: float, index: NoteIndex
) -> PlayedNotes:
    """What the players of some clips do.

    Args:
        clips: of each its work, performance and soundfont.
        seconds: length of every clip.
        index: of the bank that has their instruments.
    """
    tables = []
    tuning = np.array([2 ** (clip[1].tuning_cents / 1200) for clip in clips])
    for number, (score, performance, soundfont) in enumerate(clips):
        notes, drums = perform(score, performance, seconds)
        gains = balanced_gains(notes, performance, soundfont)
        numbers = [index.numbers[soundfont, program, False] for program in performance.programs]
        part = notes[:, 4].astype(np.int64)
        rows = [_rows_of(notes, np.array(numbers)[part], 10 ** (np.array(gains)[part] / 20))]
        if len(drums):
            track = performance.drums or DrumTrack("")
            kit = index.numbers[soundfont, track.kit, True]
            gain = 10 ** (track.gain_db / 20)
            rows.append(_rows_of(drums, np.full(len(drums), kit), np.full(len(drums), gain)))
        table = np.concatenate(rows)
        tables.append(np.concatenate([np.full((len(table), 1), number), table], 1))
    columns = np.concatenate(tables).T
    clip, instrument, pitch, layer = columns[:4].astype(np.int64)
    begins, ends, gain = columns[4:]
    # All is heard faster by the tuning: what is put together lasts longer by as much.
    begins, ends = ((s + PRE_ROLL_S) * tuning[clip] * ROWS_A_SECOND for s in (begins, ends))
    onset = np.rint(begins).astype(np.int64)
    held = np.maximum(np.rint(ends).astype(np.int64) - onset, 1)
    release = index.release[instrument] / ROWS_A_SECOND
    dies = held + np.ceil(np.log(1 / INAUDIBLE) / np.maximum(release, 1e-6)).astype(np.int64)
    rows = np.minimum(index.rows[instrument, layer, pitch], dies)
    # What lies before or after the clip is not heard.
    n_rows = clip_rows(seconds)
    before = np.maximum(-onset, 0)
    rows = np.minimum(rows - before, n_rows - onset - before)
    heard = rows > 0
    first = index.first[instrument, layer, pitch] + before
    return PlayedNotes(
        clip[heard],
        (onset + before)[heard],
        first[heard],
        rows[heard],
        (held - before)[heard],
        release[heard],
        gain[heard],
        tuning,
    )


def _rows_of(notes: np.ndarray, instruments: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """(instrument, pitch, layer, onset, end, gain) of notes as `render.render_notes` takes them."""
    pitch = np.rint(notes[:, 2])
    velocity = np.rint(notes[:, 3])
    layer = (velocity > sum(VELOCITIES) / 2).astype(np.int64)
    gain = gains * velocity / np.array(VELOCITIES)[layer]
    onset, end = notes[:, 0], notes[:, 0] + notes[:, 1]
    return np.stack([instruments, pitch, layer, onset, end, gain], 1)


def clip_rows(seconds: float) -> int:
    """Rows put together for a clip: its pre-roll, and what the highest tuning needs beyond it."""
    return round((PRE_ROLL_S + 1.02 * seconds + 0.05) * ROWS_A_SECOND)


def mix(bank: NoteBank, notes: PlayedNotes, seconds: float) -> Tensor:
    """Dry audio of some clips, as loud as the soundfonts make it.

    Returns:
        float32 (clips, round(16000 * seconds)), on the bank's device.
    """
    device = bank.samples.device
    n_clips, n_rows = len(notes.tuning), clip_rows(seconds)
    mixed = torch.zeros((n_clips * n_rows, ROW), device=device)
    ends = np.cumsum(notes.rows)
    cuts = np.searchsorted(ends, np.arange(ROWS_AT_ONCE, notes.rows.sum(), ROWS_AT_ONCE))
    for low, high in pairwise([0, *cuts.tolist(), len(ends)]):
        _add_notes(mixed, bank.samples, notes, slice(low, high), n_rows)
    tuning = torch.from_numpy(notes.tuning).to(device)
    return _tune(mixed.view(n_clips, n_rows * ROW), tuning, round(SAMPLE_RATE * seconds))


def _add_notes(
    mixed: Tensor, samples: Tensor, notes: PlayedNotes, part: slice, n_rows: int
) -> None:
    device = mixed.device
    rows = torch.from_numpy(notes.rows[part]).to(device)
    target = torch.from_numpy(notes.clip[part] * n_rows + notes.onset[part]).to(device)
    first = torch.from_numpy(notes.first[part]).to(device)
    held = torch.from_numpy(notes.held[part]).to(device)
    release = torch.from_numpy(notes.release[part]).float().to(device)
    gain = torch.from_numpy(notes.gain[part]).float().to(device)
    note = torch.repeat_interleave(rows)
    number = torch.arange(len(note), device=device) - (rows.cumsum(0) - rows)[note]
    # The release is straight within a row, which is 2 ms.
    after = (number - held[note]).clamp_(min=-1)
    begin, end = (gain[note] * torch.exp(-release[note] * (after + i).clamp(min=0)) for i in (0, 1))
    within = torch.arange(ROW, device=device) / ROW
    envelope = torch.lerp(begin[:, None], end[:, None], within)
    mixed.index_add_(0, target[note] + number, envelope.mul_(samples[first[note] + number]))


def _tune(mixed: Tensor, tuning: Tensor, n_samples: int) -> Tensor:
    """Play each clip faster by a factor, from the pre-roll's end on, by a windowed sinc."""
    at = torch.arange(n_samples, device=mixed.device)
    # In two steps, for float32 does not tell neighbouring samples apart far from the beginning.
    begin = PRE_ROLL_S * SAMPLE_RATE * tuning
    later = (begin[:, None] + (tuning - 1)[:, None] * at).float()
    whole = later.floor()
    fraction = later - whole
    nearest = at + whole.long()
    tuned = torch.zeros((len(mixed), n_samples), device=mixed.device)
    for tap in range(1 - TAPS // 2, TAPS // 2 + 1):
        distance = fraction - tap
        weight = torch.sinc(distance) * torch.cos(distance * (np.pi / TAPS)).square()
        tuned += weight * mixed.gather(1, (nearest + tap).clamp(0, mixed.shape[1] - 1))
    return tuned


def to_peak(waveforms: Tensor) -> Tensor:
    """Clips at `render.DRY_PEAK`; silent ones stay as they are."""
    peak = waveforms.abs().amax(1, keepdim=True)
    return waveforms * torch.where(peak > 0, DRY_PEAK / peak, 1.0)
