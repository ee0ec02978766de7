"""Recordings: what a room, a microphone and what lies behind it do to a sound, drawn at random.

All of it is synthetic: impulse responses are early reflections and decaying noise, background noise
comes from a bank made once a process. Nothing is measured from a real room.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy.signal import butter, sosfilt

from myna_plugin.model.audio import SAMPLE_RATE

FADE = round(0.02 * SAMPLE_RATE)
"""Samples over which one recording's conditions give way to the next."""

SEGMENT_S = (2.0, 6.0)
"""Shortest and longest time that conditions hold where they change."""

LONGEST_TAIL = round(1.4 * SAMPLE_RATE)
BANK_SAMPLES = 1 << 20
TAIL_BANK = 1 << 18
EQ_HZ = np.array([30.0, 60.0, 120.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0])
EQ_TAPS = 1024
BLOCK = 160
"""Samples of a compressor's look at the level: 10 ms."""


@dataclass(frozen=True)
class Conditions:
    """Room, microphone, noise and level that hold for a while.

    Attributes:
        rt60_s: seconds in which the reverberation falls by 60 dB; 0 for no room.
        reverberant_db: level of the reverberation against the direct sound.
        damping: factor from the decay time of the bass to that of the treble, in (0, 1].
        eq_db: gain of the microphone at `EQ_HZ`.
        low_cut_hz: below, the microphone falls by 12 dB an octave; 0 for none.
        high_cut_hz: above, likewise; 0 for none.
        noises: kinds of background noise (see `NOISES`) and their shares.
        snr_db: level of the music against the noise.
        compression: ratio above the threshold; 1 for none.
        threshold_db: level relative to the music's from which it is compressed.
        drive: soft clipping: gain before a tanh, relative to the peak; 0 for none.
        low_pass_hz: steep cut as of lossy coding, noise included; 0 for none.
        peak_db: peak level, dB below full scale.
        seed: decides reflections and the noise itself.
    """

    rt60_s: float = 0.0
    reverberant_db: float = 0.0
    damping: float = 0.5
    eq_db: tuple[float, ...] = (0.0,) * len(EQ_HZ)
    low_cut_hz: float = 0.0
    high_cut_hz: float = 0.0
    noises: tuple[tuple[str, float], ...] = ()
    snr_db: float = 60.0
    compression: float = 1.0
    threshold_db: float = 0.0
    drive: float = 0.0
    low_pass_hz: float = 0.0
    peak_db: float = -6.0
    seed: int = 0


@dataclass(frozen=True)
class Recording:
    """Conditions one after the other.

    Attributes:
        conditions: at least one.
        borders_s: where one gives way to the next, seconds, ascending; one fewer.
    """

    conditions: tuple[Conditions, ...]
    borders_s: tuple[float, ...] = ()


def draw_conditions(rng: np.random.Generator) -> Conditions:
    """Some conditions, from an anechoic line to a noisy phone in a church."""
    walk = np.cumsum(rng.normal(0.0, rng.uniform(0.5, 4.0), len(EQ_HZ)))
    curve = np.clip(walk - walk.mean() + rng.uniform(-1.5, 1.5) * np.arange(-4, 5), -14, 14)
    kinds = rng.choice(list(NOISES), rng.integers(1, 4), replace=False)
    shares = rng.dirichlet(np.ones(len(kinds)))
    return Conditions(
        rt60_s=float(0.1 + 1.7 * rng.random() ** 1.3) if rng.random() < 0.75 else 0.0,
        reverberant_db=float(rng.uniform(-18.0, 4.0)),
        damping=float(rng.uniform(0.25, 1.0)),
        eq_db=tuple(curve.tolist()),
        low_cut_hz=float(np.exp(rng.uniform(np.log(20), np.log(250)))) * (rng.random() < 0.6),
        high_cut_hz=float(np.exp(rng.uniform(np.log(1800), np.log(8000)))) * (rng.random() < 0.4),
        noises=tuple(zip(kinds.tolist(), shares.tolist(), strict=True)),
        snr_db=float(rng.uniform(8.0, 45.0)),
        compression=float(rng.uniform(1.2, 5.0)) if rng.random() < 0.35 else 1.0,
        threshold_db=float(rng.uniform(-12.0, 3.0)),
        drive=float(rng.uniform(0.3, 2.5)) if rng.random() < 0.25 else 0.0,
        low_pass_hz=float(rng.uniform(3400.0, 7600.0)) if rng.random() < 0.2 else 0.0,
        peak_db=float(rng.uniform(-35.0, -1.0)),
        seed=int(rng.integers(2**31)),
    )


def draw_recording(
    rng: np.random.Generator, seconds: float, *, changing: bool = False
) -> Recording:
    """A recording of some length.

    Args:
        rng: source of chance.
        seconds: its length.
        changing: draw the conditions anew every 2 to 6 seconds, at random moments, so that nothing
            of the recording stays the same over a clip; otherwise once.
    """
    borders: list[float] = []
    if changing:
        # The first may come at once: a border is no nearer to the clip's ends than elsewhere.
        border = float(rng.uniform(0.0, SEGMENT_S[1]))
        while border < seconds:
            borders.append(border)
            border += float(rng.uniform(*SEGMENT_S))
    conditions = tuple(draw_conditions(rng) for _ in range(len(borders) + 1))
    return Recording(conditions, tuple(borders))


def apply_recording(waveform: np.ndarray, recording: Recording) -> np.ndarray:
    """Record a sound.

    Args:
        waveform: float32 (S,), 16 kHz.
        recording: how.

    Returns:
        float32 (S,), in [-1, 1]. The direct sound stays where it was.
    """
    n_samples = len(waveform)
    level, peak = _rms(waveform), float(np.abs(waveform).max(initial=0.0))
    recorded = np.zeros(n_samples, np.float32)
    pieces = pieces_of(recording, n_samples)
    for piece, conditions in zip(pieces, recording.conditions, strict=True):
        played = waveform[piece.context : piece.high]
        sound = apply_conditions(played, conditions, piece.low - piece.context, level, peak)
        recorded[piece.low : piece.high] += sound * _fade(len(sound), piece.rise, piece.fall)
    return recorded


class Piece(NamedTuple):
    """Samples of a clip that are recorded under one set of conditions.

    Attributes:
        context: the first that is played: what was played before still rings in the room.
        low: the first that is recorded.
        high: one past the last.
        rise: whether it fades in from the piece before.
        fall: whether it fades out into the next.
    """

    context: int
    low: int
    high: int
    rise: bool
    fall: bool


def pieces_of(recording: Recording, n_samples: int) -> list[Piece]:
    """The pieces of a clip, one for each of the recording's conditions."""
    borders = [round(border * SAMPLE_RATE) for border in recording.borders_s]
    found = []
    for start, stop, conditions in zip(
        [0, *borders], [*borders, n_samples], recording.conditions, strict=True
    ):
        low, high = max(start - FADE // 2, 0), min(stop + FADE // 2, n_samples)
        context = max(low - tail_samples(conditions.rt60_s), 0)
        found.append(Piece(context, low, high, start > 0, stop < n_samples))
    return found


def _fade(length: int, rise: bool, fall: bool) -> np.ndarray:
    """Weights of a piece; those of neighbours sum to 1 where they overlap."""
    weights = np.ones(length, np.float32)
    ramp = (np.arange(FADE, dtype=np.float32) + 0.5) / FADE
    if rise:
        weights[:FADE] *= ramp[: len(weights)]
    if fall:
        weights[-FADE:] *= ramp[::-1][-len(weights) :]
    return weights


def apply_conditions(
    waveform: np.ndarray, conditions: Conditions, skip: int, level: float, peak: float
) -> np.ndarray:
    """Record a sound under one set of conditions.

    Args:
        waveform: float32 (S,), 16 kHz.
        conditions: how.
        skip: samples at the beginning that are played but not recorded.
        level: root mean square of the music, to which noise is set.
        peak: peak of the music; a passage much softer than this is not brought up to full level.

    Returns:
        float32 (S - skip,), in [-1, 1].
    """
    rng = np.random.default_rng(conditions.seed)
    sound = _convolve(waveform, _impulse_response(conditions, rng))[skip:]
    gain = level / max(_rms(sound), 0.1 * level, 1e-9)
    sound = _compress(sound * np.float32(gain), conditions, level)
    sound = _add_noise(sound, conditions, level, rng)
    if conditions.low_pass_hz:
        sections = steep_low_pass(round(conditions.low_pass_hz / 100))
        sound = sosfilt(sections, sound).astype(np.float32, copy=False)
    top = max(float(np.abs(sound).max(initial=0.0)), 0.25 * peak, 1e-9)
    sound = sound * np.float32(1 / top)
    if conditions.drive:
        sound = np.tanh(sound * np.float32(conditions.drive))
        sound /= np.float32(np.tanh(conditions.drive))
    return sound * np.float32(10 ** (conditions.peak_db / 20))


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform)))) if len(waveform) else 0.0


def _convolve(waveform: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The beginning of a convolution, as long as the waveform."""
    n = scipy.fft.next_fast_len(len(waveform) + len(kernel), real=True)
    product = scipy.fft.rfft(waveform, n)
    product *= scipy.fft.rfft(kernel, n)
    return scipy.fft.irfft(product, n)[: len(waveform)]


def _impulse_response(conditions: Conditions, rng: np.random.Generator) -> np.ndarray:
    """Room and microphone as one kernel, float32, the direct sound at its beginning."""
    microphone = _minimum_phase(_microphone_gain(conditions))
    if not conditions.rt60_s:
        return microphone
    room = _room(conditions, rng)
    n = scipy.fft.next_fast_len(len(room) + len(microphone), real=True)
    return scipy.fft.irfft(scipy.fft.rfft(room, n) * scipy.fft.rfft(microphone, n), n)


def tail_samples(rt60_s: float) -> int:
    """Length of a room's kernel: what is left after it is below -54 dB, or -46 in a church."""
    return min(max(round(0.9 * rt60_s * SAMPLE_RATE), 800), LONGEST_TAIL) if rt60_s else 0


@dataclass(frozen=True, eq=False)
class Reflections:
    """What is drawn of a room.

    Attributes:
        offset: where in the bank of noise the tail begins.
        build_up: samples over which it grows.
        at: samples after the direct sound of each early reflection, int64.
        early: their amplitudes, of unit norm together.
        tail_level: amplitude of the tail, of unit norm.
        early_level: amplitude of the early reflections.
    """

    offset: int
    build_up: int
    at: np.ndarray
    early: np.ndarray
    tail_level: float
    early_level: float


def draw_reflections(rt60_s: float, rng: np.random.Generator) -> Reflections:
    """Reflections of a room with a reverberation time above 0."""
    offset = int(rng.integers(TAIL_BANK - tail_samples(rt60_s)))
    # The tail grows out of the first reflections instead of starting at once.
    build_up = round(rng.uniform(0.002, 0.03) * SAMPLE_RATE)
    n_early = int(rng.integers(4, 24))
    at = (rng.uniform(0.001, 0.05, n_early) * SAMPLE_RATE).astype(int)
    early = _unit(rng.uniform(-1, 1, n_early) * np.exp(-at / (0.02 * SAMPLE_RATE)))
    return Reflections(
        offset, build_up, at, early, float(rng.uniform(0.3, 1.0)), float(rng.uniform(0.2, 0.8))
    )


def _room(conditions: Conditions, rng: np.random.Generator) -> np.ndarray:
    drawn = draw_reflections(conditions.rt60_s, rng)
    length = tail_samples(conditions.rt60_s)
    bass, treble = tail_bank()
    part = slice(drawn.offset, drawn.offset + length)
    seconds = np.arange(length, dtype=np.float32) / np.float32(SAMPLE_RATE)
    rate = np.float32(-np.log(1000.0) / conditions.rt60_s)
    tail = bass[part] * np.exp(rate * seconds)
    tail += treble[part] * np.exp(rate / conditions.damping * seconds)
    tail[: drawn.build_up] *= np.linspace(0, 1, drawn.build_up, dtype=np.float32)
    room = _unit(tail) * np.float32(drawn.tail_level)
    np.add.at(room, drawn.at, drawn.early * drawn.early_level)
    room = _unit(room) * np.float32(10 ** (conditions.reverberant_db / 20))
    room[0] += 1.0
    return room


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@functools.lru_cache(maxsize=1)
def tail_bank() -> tuple[np.ndarray, np.ndarray]:
    """Bass and treble parts of 16 s of white noise, float32."""
    white = np.random.default_rng(0).standard_normal(TAIL_BANK).astype(np.float32)
    treble = sosfilt(butter(1, 1500, "highpass", fs=SAMPLE_RATE, output="sos"), white)
    treble = treble.astype(np.float32)
    return white - treble, treble


def microphone_hz() -> np.ndarray:
    """The `EQ_TAPS` // 2 + 1 frequencies of a microphone's gains, from just above 0 to 8 kHz."""
    hz = np.linspace(0, SAMPLE_RATE / 2, EQ_TAPS // 2 + 1)
    hz[0] = hz[1] / 2
    return hz


def _microphone_gain(conditions: Conditions) -> np.ndarray:
    """Gain at `microphone_hz`."""
    hz = microphone_hz()
    gain = 10 ** (np.interp(np.log(hz), np.log(EQ_HZ), conditions.eq_db) / 20)
    if conditions.low_cut_hz:
        gain /= 1 + (conditions.low_cut_hz / hz) ** 2
    if conditions.high_cut_hz:
        gain /= 1 + (hz / conditions.high_cut_hz) ** 2
    return gain


def _minimum_phase(gain: np.ndarray) -> np.ndarray:
    """The causal kernel of a gain curve that rings least, float32 (EQ_TAPS,).

    Source: the folded real cepstrum, Oppenheim and Schafer, Discrete-Time Signal Processing.
    """
    cepstrum = scipy.fft.irfft(np.log(np.maximum(gain, 1e-4)), EQ_TAPS)
    cepstrum[1 : EQ_TAPS // 2] *= 2
    cepstrum[EQ_TAPS // 2 + 1 :] = 0
    return scipy.fft.irfft(np.exp(scipy.fft.rfft(cepstrum)), EQ_TAPS).astype(np.float32)


def _compress(sound: np.ndarray, conditions: Conditions, level: float) -> np.ndarray:
    """Reduce what is louder than the threshold, by the level over some 30 ms."""
    if conditions.compression == 1.0 or len(sound) < 4 * BLOCK:
        return sound
    whole = len(sound) // BLOCK * BLOCK
    blocks = np.sqrt(np.square(sound[:whole].reshape(-1, BLOCK)).mean(1))
    smooth = np.convolve(np.pad(blocks, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    threshold = level * 10 ** (conditions.threshold_db / 20)
    over = np.maximum(smooth / max(threshold, 1e-9), 1.0)
    gains = (over ** (1 / conditions.compression - 1)).astype(np.float32)
    steps = np.linspace(gains, np.append(gains[1:], gains[-1]), BLOCK, axis=1, dtype=np.float32)
    compressed = sound.copy()
    compressed[:whole] *= steps.reshape(-1)
    compressed[whole:] *= gains[-1]
    return compressed


def _add_noise(
    sound: np.ndarray, conditions: Conditions, level: float, rng: np.random.Generator
) -> np.ndarray:
    # Silence stays silence: a clip of noise alone would carry labels that nobody can hear.
    if not conditions.noises or level == 0:
        return sound
    noise = np.zeros(len(sound), np.float32)
    for kind, share in conditions.noises:
        bank = noise_bank(kind)
        offset = int(rng.integers(BANK_SAMPLES))
        noise += np.float32(np.sqrt(share)) * _around(bank, offset, len(sound))
    gain = level * 10 ** (-conditions.snr_db / 20) / max(_rms(noise), 1e-9)
    return sound + np.float32(gain) * noise


def _around(bank: np.ndarray, offset: int, length: int) -> np.ndarray:
    """Samples of a bank from an offset on, beginning anew at its end."""
    if offset + length <= len(bank):
        return bank[offset : offset + length]
    return np.take(bank, np.arange(offset, offset + length), mode="wrap")


@functools.lru_cache(maxsize=64)
def steep_low_pass(hundreds_of_hz: int) -> np.ndarray:
    return butter(8, 100 * hundreds_of_hz, fs=SAMPLE_RATE, output="sos").astype(np.float32)


def _coloured(rng: np.random.Generator, exponent: float) -> np.ndarray:
    """Noise whose power falls with frequency to an exponent, periodic, float32."""
    spectrum = scipy.fft.rfft(rng.standard_normal(BANK_SAMPLES).astype(np.float32))
    hz = np.maximum(np.arange(len(spectrum)) * (SAMPLE_RATE / BANK_SAMPLES), 20.0)
    return scipy.fft.irfft(spectrum * (hz ** (-exponent / 2)).astype(np.float32), BANK_SAMPLES)


def _slow(rng: np.random.Generator, hz: float) -> np.ndarray:
    """A smooth random curve in [0, 1] with about `hz` knots a second, (BANK_SAMPLES,)."""
    n_knots = max(round(BANK_SAMPLES / SAMPLE_RATE * hz), 4)
    knots = np.linspace(0, BANK_SAMPLES, n_knots)
    return np.interp(np.arange(BANK_SAMPLES), knots, rng.random(n_knots))


def _white(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, 0.0)


def _pink(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, 1.0)


def _brown(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, 2.0)


def _wind(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, 2.5) * _slow(rng, 0.7) ** 2


def _hum(rng: np.random.Generator, mains_hz: float = 50.0) -> np.ndarray:
    """Mains hum: harmonics of 50 Hz, each a little unsteady."""
    time = np.arange(BANK_SAMPLES) / SAMPLE_RATE
    sound = np.zeros(BANK_SAMPLES)
    for harmonic in (1, 2, 3, 4, 5, 6, 8, 10, 14, 20):
        phase = 2 * np.pi * (mains_hz * harmonic * time + rng.random())
        sound += np.sin(phase) * rng.uniform(0.2, 1) / harmonic * (0.5 + _slow(rng, 0.2))
    return sound


def _hum_60(rng: np.random.Generator) -> np.ndarray:
    return _hum(rng, 60.0)


def _crackle(rng: np.random.Generator) -> np.ndarray:
    """Clicks of a worn record, some 12 a second, over a faint hiss."""
    clicks = np.zeros(BANK_SAMPLES)
    n_clicks = round(12 * BANK_SAMPLES / SAMPLE_RATE)
    clicks[rng.integers(BANK_SAMPLES, size=n_clicks)] = rng.standard_cauchy(n_clicks).clip(-4, 4)
    clicks = sosfilt(butter(2, [800, 6000], "bandpass", fs=SAMPLE_RATE, output="sos"), clicks)
    return clicks / clicks.std() + 0.1 * rng.standard_normal(BANK_SAMPLES)


def _babble(rng: np.random.Generator) -> np.ndarray:
    """Like many people talking: bands of noise that swell at the rate of syllables."""
    sound = np.zeros(BANK_SAMPLES)
    pink = _coloured(rng, 1.0)
    for _ in range(12):
        centre = float(np.exp(rng.uniform(np.log(200), np.log(3500))))
        band = butter(1, [0.8 * centre, 1.25 * centre], "bandpass", fs=SAMPLE_RATE, output="sos")
        sound += sosfilt(band, pink) * _slow(rng, rng.uniform(3, 8)) ** 2
    return sound


def _audience(rng: np.random.Generator) -> np.ndarray:
    """Rustle and claps: bursts of treble, uneven."""
    bursts = np.zeros(BANK_SAMPLES)
    n_bursts = round(40 * BANK_SAMPLES / SAMPLE_RATE)
    bursts[rng.integers(BANK_SAMPLES, size=n_bursts)] = rng.exponential(1.0, n_bursts).clip(0, 3)
    envelope = _convolve(bursts * _slow(rng, 0.4) ** 2, np.exp(-np.arange(800) / 160))
    treble = butter(1, 1200, "highpass", fs=SAMPLE_RATE, output="sos")
    return np.maximum(envelope, 0.0) * sosfilt(treble, rng.standard_normal(BANK_SAMPLES))


NOISES = {
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "wind": _wind,
    "hum 50 Hz": _hum,
    "hum 60 Hz": _hum_60,
    "crackle": _crackle,
    "babble": _babble,
    "audience": _audience,
}
"""Kinds of background noise: 65 s of each are made once a process."""


@functools.lru_cache(maxsize=len(NOISES))
def noise_bank(kind: str) -> np.ndarray:
    """65 s of a kind of noise, float32, root mean square 1, the same in every process."""
    sound = NOISES[kind](np.random.default_rng(list(NOISES).index(kind)))
    sound = sound - sound.mean()
    return (sound / _rms(sound)).astype(np.float32)
