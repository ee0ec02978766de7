"""Many recordings at once, on any device: `recording.apply_recording` for a batch of clips.

Chance is drawn on the CPU as `apply_recording` draws it, so that both give the same sound but for
rounding. What is drawn is a table with a row for each piece of a clip that is recorded under one
set of conditions; a GPU records hundreds of pieces together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from myna_plugin.model.audio import SAMPLE_RATE
from recipes.rendered.recording import (
    BANK_SAMPLES,
    BLOCK,
    EQ_HZ,
    EQ_TAPS,
    FADE,
    NOISES,
    Conditions,
    Recording,
    draw_reflections,
    microphone_hz,
    noise_bank,
    pieces_of,
    steep_low_pass,
    tail_bank,
    tail_samples,
)

MOST_REFLECTIONS = 24
MOST_NOISES = 3
ROWS_AT_ONCE = 256
FFT_STEP = 8192
"""Lengths of Fourier transforms are multiples of this, so that few different ones are planned."""

LOW_PASS_TAIL = 2048
"""Samples in which the steep low-pass has rung down."""

KINDS = tuple(NOISES)


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of clips and how each is recorded; arrays with a row for each, see `Conditions`.

    Attributes:
        clip: number of the clip.
        context: as `recording.Piece` has it, and so `low`, `high`, `rise` and `fall`.
        low: see there.
        high: see there.
        rise: see there.
        fall: see there.
        rt60_s: 0 for no room.
        damping: of the treble.
        reverberant: amplitude of the reverberation.
        tail_length: samples of it.
        tail_offset: where in the bank its noise begins.
        build_up: samples over which it grows.
        tail_level: its amplitude before reflections are added.
        early_at: samples of the first reflections, shape (R, 24).
        early: their amplitudes, 0 where there are fewer.
        eq_db: shape (R, 9).
        low_cut_hz: 0 for none.
        high_cut_hz: 0 for none.
        noise_kind: number of a kind, shape (R, 3).
        noise_offset: where in its bank it begins.
        noise_share: its amplitude, 0 for none.
        noise_level: amplitude of all noise against the music.
        compression: ratio.
        threshold: amplitude against the music.
        drive: 0 for none.
        low_pass: cut in hundreds of Hz, 0 for none.
        peak: amplitude.
    """

    clip: np.ndarray
    context: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rise: np.ndarray
    fall: np.ndarray
    rt60_s: np.ndarray
    damping: np.ndarray
    reverberant: np.ndarray
    tail_length: np.ndarray
    tail_offset: np.ndarray
    build_up: np.ndarray
    tail_level: np.ndarray
    early_at: np.ndarray
    early: np.ndarray
    eq_db: np.ndarray
    low_cut_hz: np.ndarray
    high_cut_hz: np.ndarray
    noise_kind: np.ndarray
    noise_offset: np.ndarray
    noise_share: np.ndarray
    noise_level: np.ndarray
    compression: np.ndarray
    threshold: np.ndarray
    drive: np.ndarray
    low_pass: np.ndarray
    peak: np.ndarray

    def on(self, rows: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """Some rows as tensors by name; real numbers as float32."""
        chosen = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        tensors = {name: torch.from_numpy(values).to(device) for name, values in chosen.items()}
        return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def tabulate(recordings: Sequence[Recording], n_samples: int) -> Pieces:
    """The pieces of some clips of one length, everything about them drawn."""
    rows = []
    for clip, recording in enumerate(recordings):
        found = pieces_of(recording, n_samples)
        for piece, conditions in zip(found, recording.conditions, strict=True):
            rows.append((clip, *piece, *_drawn(conditions)))
    return Pieces(*(np.array(column) for column in zip(*rows, strict=True)))


def _drawn(conditions: Conditions) -> tuple[object, ...]:
    """Columns from `rt60_s` on, drawn in the order of `apply_conditions`."""
    rng = np.random.default_rng(conditions.seed)
    at = np.zeros(MOST_REFLECTIONS, np.int64)
    early = np.zeros(MOST_REFLECTIONS)
    offset, build_up, tail_level = 0, 1, 0.0
    if conditions.rt60_s:
        drawn = draw_reflections(conditions.rt60_s, rng)
        at[: len(drawn.at)] = drawn.at
        early[: len(drawn.early)] = drawn.early * drawn.early_level
        offset, build_up, tail_level = drawn.offset, drawn.build_up, drawn.tail_level
    kinds, offsets = np.zeros((2, MOST_NOISES), np.int64)
    shares = np.zeros(MOST_NOISES)
    for i, (kind, share) in enumerate(conditions.noises):
        kinds[i], offsets[i] = KINDS.index(kind), rng.integers(BANK_SAMPLES)
        shares[i] = np.sqrt(share)
    return (
        conditions.rt60_s,
        conditions.damping,
        10 ** (conditions.reverberant_db / 20),
        tail_samples(conditions.rt60_s),
        offset,
        build_up,
        tail_level,
        at,
        early,
        np.array(conditions.eq_db),
        conditions.low_cut_hz,
        conditions.high_cut_hz,
        kinds,
        offsets,
        shares,
        10 ** (-conditions.snr_db / 20),
        conditions.compression,
        10 ** (conditions.threshold_db / 20),
        conditions.drive,
        round(conditions.low_pass_hz / 100),
        10 ** (conditions.peak_db / 20),
    )


def apply_recordings(waveforms: Tensor, pieces: Pieces) -> Tensor:
    """Record a batch of sounds.

    Args:
        waveforms: float32 (C, S), 16 kHz, on any device.
        pieces: of `tabulate` for as many clips of as many samples.

    Returns:
        float32 (C, S), in [-1, 1], as `recording.apply_recording` gives it but for rounding.
    """
    n_samples = waveforms.shape[1]
    levels, peaks = waveforms.square().mean(1).sqrt(), waveforms.abs().amax(1)
    recorded = torch.zeros_like(waveforms)
    # Pieces of like length together: all of a batch take as long as the longest.
    by_length = np.argsort(pieces.high - pieces.context, kind="stable")
    for start in range(0, len(by_length), ROWS_AT_ONCE):
        rows = pieces.on(by_length[start : start + ROWS_AT_ONCE], waveforms.device)
        level, peak = levels[rows["clip"]], peaks[rows["clip"]]
        sound, time, inside = _play_in_rooms(waveforms, rows)
        length = rows["high"] - rows["low"]
        gain = level / _rms(sound, length).clamp(min=1e-9).maximum(0.1 * level)
        sound = _compress(sound * gain[:, None], rows, length, level)
        sound = _add_noise(sound, rows, length, level, time, inside)
        sound = _low_pass(sound, rows) * inside
        top = sound.abs().amax(1).clamp(min=1e-9).maximum(0.25 * peak)
        sound = sound / top[:, None]
        drive = rows["drive"][:, None]
        driven = torch.tanh(sound * drive) / torch.tanh(drive)
        sound = torch.where(drive > 0, driven, sound) * rows["peak"][:, None]
        sound = sound * _fade(time, rows, length)
        # Beyond a piece's end there are zeros, which may fall anywhere in the clip.
        place = rows["clip"][:, None] * n_samples + (rows["low"][:, None] + time) % n_samples
        recorded.view(-1).index_add_(0, place.flatten(), sound.flatten())
    return recorded


def _rms(sound: Tensor, length: Tensor) -> Tensor:
    """Root mean square of the first samples of each row; the others must be 0."""
    return (sound.square().sum(1) / length).sqrt()


def _play_in_rooms(waveforms: Tensor, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces as they sound at the microphone, without what was only played before them.

    Returns:
        (R, M) for pieces of M samples at most, 0 beyond a piece's end; the numbers of their samples
        (M,); where each is within its piece (R, M).
    """
    device = waveforms.device
    played = int((rows["high"] - rows["context"]).max())
    room = _rooms(rows)
    n = _transform_length(played + room.shape[1] + EQ_TAPS)
    at = rows["context"][:, None] + torch.arange(played, device=device)
    sound = waveforms[rows["clip"][:, None], at.clamp(max=waveforms.shape[1] - 1)]
    sound = sound * (at < rows["high"][:, None])
    spectrum = torch.fft.rfft(sound, n)
    spectrum *= torch.fft.rfft(room, n)
    spectrum *= torch.fft.rfft(_microphones(rows), n)
    heard = torch.fft.irfft(spectrum, n)
    length = rows["high"] - rows["low"]
    time = torch.arange(int(length.max()), device=device)
    skip = (rows["low"] - rows["context"])[:, None]
    inside = time < length[:, None]
    return heard.gather(1, (skip + time).clamp(max=n - 1)) * inside, time, inside


def _transform_length(at_least: int) -> int:
    return scipy.fft.next_fast_len(-(-at_least // FFT_STEP) * FFT_STEP, real=True)


def _rooms(rows: dict[str, Tensor]) -> Tensor:
    """Impulse responses, (R, K); a one and zeros where there is no room."""
    device = rows["clip"].device
    time = torch.arange(max(int(rows["tail_length"].max()), 1), device=device)
    bass, treble = _tails(device)
    at = (rows["tail_offset"][:, None] + time).clamp(max=len(bass) - 1)
    has_room = rows["rt60_s"] > 0
    rate = -np.log(1000.0) / rows["rt60_s"].where(has_room, 1.0) / SAMPLE_RATE
    tail = bass[at] * torch.exp(rate[:, None] * time)
    tail += treble[at] * torch.exp((rate / rows["damping"])[:, None] * time)
    tail *= (time / (rows["build_up"] - 1).clamp(min=1)[:, None]).clamp(max=1)
    tail *= time < rows["tail_length"][:, None]
    room = _unit(tail) * rows["tail_level"][:, None]
    room.scatter_add_(1, rows["early_at"], rows["early"])
    room = _unit(room) * rows["reverberant"][:, None] * has_room[:, None]
    room[:, 0] += 1.0
    return room


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _microphones(rows: dict[str, Tensor]) -> Tensor:
    """Minimum-phase kernels of the microphones, (R, EQ_TAPS)."""
    hz, weights = _frequencies(rows["clip"].device)
    gain = 10 ** (rows["eq_db"] @ weights / 20)
    low, high = rows["low_cut_hz"][:, None], rows["high_cut_hz"][:, None]
    gain = gain / (1 + (low / hz) ** 2)
    gain = torch.where(high > 0, gain / (1 + (hz / high.clamp(min=1.0)) ** 2), gain)
    cepstrum = torch.fft.irfft(gain.clamp(min=1e-4).log(), EQ_TAPS)
    cepstrum[:, 1 : EQ_TAPS // 2] *= 2
    cepstrum[:, EQ_TAPS // 2 + 1 :] = 0
    return torch.fft.irfft(torch.exp(torch.fft.rfft(cepstrum)), EQ_TAPS)


def _compress(sound: Tensor, rows: dict[str, Tensor], length: Tensor, level: Tensor) -> Tensor:
    n_blocks = length // BLOCK
    most = -(-sound.shape[1] // BLOCK)
    padded = torch.nn.functional.pad(sound, (0, most * BLOCK - sound.shape[1]))
    blocks = padded.view(len(sound), most, BLOCK).square().mean(2).sqrt()
    last = (n_blocks - 1).clamp(min=0)[:, None]
    number = torch.arange(-1, most + 1, device=sound.device)
    around = blocks.gather(1, number.clamp(min=0).minimum(last))
    smooth = (around[:, :-2] + around[:, 1:-1] + around[:, 2:]) / 3
    threshold = (level * rows["threshold"]).clamp(min=1e-9)[:, None]
    gains = (smooth / threshold).clamp(min=1.0) ** (1 / rows["compression"][:, None] - 1)
    gains = gains.gather(1, number[1:].minimum(last))
    ramp = torch.linspace(0, 1, BLOCK, device=sound.device)
    steps = torch.lerp(gains[:, :-1, None], gains[:, 1:, None], ramp).flatten(1)
    compressed = (rows["compression"] > 1) & (length >= 4 * BLOCK)
    return torch.where(compressed[:, None], sound * steps[:, : sound.shape[1]], sound)


def _add_noise(
    sound: Tensor,
    rows: dict[str, Tensor],
    length: Tensor,
    level: Tensor,
    time: Tensor,
    inside: Tensor,
) -> Tensor:
    bank = _noises(sound.device)
    noise = torch.zeros_like(sound)
    for i in range(MOST_NOISES):
        at = (rows["noise_offset"][:, i, None] + time) % BANK_SAMPLES
        noise += rows["noise_share"][:, i, None] * bank[rows["noise_kind"][:, i, None], at]
    noise *= inside
    # Silence stays silence, as its level is 0.
    gain = level * rows["noise_level"] / _rms(noise, length).clamp(min=1e-9)
    return sound + gain[:, None] * noise


def _low_pass(sound: Tensor, rows: dict[str, Tensor]) -> Tensor:
    cut = torch.nonzero(rows["low_pass"])[:, 0]
    if not len(cut):
        return sound
    n = _transform_length(sound.shape[1] + LOW_PASS_TAIL)
    kinds, which = torch.unique(rows["low_pass"][cut], return_inverse=True)
    spectrum = torch.fft.rfft(sound[cut], n)
    spectrum *= _low_pass_gains(kinds, n)[which]
    filtered = sound.clone()
    filtered[cut] = torch.fft.irfft(spectrum, n)[:, : sound.shape[1]]
    return filtered


def _fade(time: Tensor, rows: dict[str, Tensor], length: Tensor) -> Tensor:
    rise = ((time + 0.5) / FADE).clamp(max=1).where(rows["rise"][:, None], 1.0)
    before_end = (length - 1)[:, None] - time
    fall = ((before_end + 0.5) / FADE).clamp(max=1).where(rows["fall"][:, None], 1.0)
    return rise * fall


@functools.cache
def _tails(device: torch.device) -> tuple[Tensor, Tensor]:
    bass, treble = tail_bank()
    return torch.from_numpy(bass).to(device), torch.from_numpy(treble).to(device)


@functools.cache
def _noises(device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack([noise_bank(kind) for kind in KINDS])).to(device)


@functools.cache
def _frequencies(device: torch.device) -> tuple[Tensor, Tensor]:
    """Frequencies of a microphone's gains, and how `EQ_HZ` weigh in each, (9, EQ_TAPS // 2 + 1)."""
    hz = microphone_hz()
    weights = np.stack([np.interp(np.log(hz), np.log(EQ_HZ), row) for row in np.eye(len(EQ_HZ))])
    return torch.from_numpy(hz).float().to(device), torch.from_numpy(weights).float().to(device)


def _low_pass_gains(hundreds_of_hz: Tensor, n: int) -> Tensor:
    """Complex gains of steep low-passes at the frequencies of a real transform of n samples.

    The bilinear transform by hand: a table of all gains would take longer to read than to compute.
    """
    device = hundreds_of_hz.device
    sections = np.stack([steep_low_pass(k) for k in hundreds_of_hz.tolist()])
    phase = torch.arange(n // 2 + 1, device=device, dtype=torch.float64) * (-2 * np.pi / n)
    delay = torch.polar(torch.ones_like(phase), phase)
    powers = torch.stack([torch.ones_like(delay), delay, delay * delay])
    above, below = torch.from_numpy(sections).to(device, torch.complex128).split(3, dim=2)
    return ((above @ powers) / (below @ powers)).prod(1).to(torch.complex64)
