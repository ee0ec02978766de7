"""The recording chain as it is meant: one clip, one piece, one effect after the other, in NumPy."""

import functools

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

from recipes.rendered import noises
from recipes.rendered.noises import BANK_SAMPLES, TAIL_BANK
from recipes.rendered.recording import EQ_HZ

RATE = 16_000
FADE = 320

noise_bank = functools.cache(noises.noise_bank)
tail_bank = functools.cache(noises.tail_bank)


def rms(sound):
    return np.sqrt(np.mean(np.square(sound, dtype=float)))


def record(waveform, recording):
    """A sound (S,) as `recording` has it."""
    recorded = np.zeros(len(waveform))
    borders = [round(border * RATE) for border in recording.borders_s]
    for start, stop, conditions in zip(
        [0, *borders], [*borders, len(waveform)], recording.conditions, strict=True
    ):
        low, high = max(start - FADE // 2, 0), min(stop + FADE // 2, len(waveform))
        context = max(low - tail_samples(conditions), 0)
        sound = record_piece(waveform[context:high], low - context, conditions, waveform)
        ramp = (np.arange(min(FADE, len(sound))) + 0.5) / FADE
        if start > 0:
            sound[:FADE] *= ramp
        if stop < len(waveform):
            sound[-FADE:] *= ramp[::-1]
        recorded[low:high] += sound
    return recorded


def record_piece(played, skip, conditions, waveform):
    """A piece without the `skip` samples that only ring; the whole waveform gives the levels."""
    rng = np.random.default_rng(conditions.seed)
    level, peak = rms(waveform), np.abs(waveform).max()
    kernel = microphone(conditions)
    if conditions.rt60_s:
        kernel = fftconvolve(room(conditions, rng), kernel)
    sound = fftconvolve(played, kernel)[skip : len(played)]
    sound = compress(sound * level / max(rms(sound), 0.1 * level, 1e-9), conditions, level)
    sound = sound + noise(len(sound), conditions, level, rng)
    if conditions.low_pass_hz:
        hz = 100 * round(conditions.low_pass_hz / 100)
        sound = sosfilt(butter(8, hz, fs=RATE, output="sos"), sound)
    sound = sound / max(np.abs(sound).max(), 0.25 * peak, 1e-9)
    if conditions.drive:
        sound = np.tanh(sound * conditions.drive) / np.tanh(conditions.drive)
    return sound * 10 ** (conditions.peak_db / 20)


def tail_samples(conditions):
    if not conditions.rt60_s:
        return 0
    return min(max(round(0.9 * conditions.rt60_s * RATE), 800), round(1.4 * RATE))


def room(conditions, rng):
    """Impulse response: direct sound, early reflections, and a tail whose treble dies sooner."""
    length = tail_samples(conditions)
    offset = rng.integers(TAIL_BANK - length)
    build_up = round(rng.uniform(0.002, 0.03) * RATE)
    n = rng.integers(4, 24)
    at = (rng.uniform(0.001, 0.05, n) * RATE).astype(int)
    early = rng.uniform(-1, 1, n) * np.exp(-at / (0.02 * RATE))
    tail_level, early_level = rng.uniform(0.3, 1.0), rng.uniform(0.2, 0.8)
    bass, treble = (bank[offset : offset + length] for bank in tail_bank())
    rate = -np.log(1000) / conditions.rt60_s * np.arange(length) / RATE
    tail = bass * np.exp(rate) + treble * np.exp(rate / conditions.damping)
    tail[:build_up] *= np.linspace(0, 1, build_up)
    response = tail_level * tail / np.linalg.norm(tail)
    np.add.at(response, at, early_level * early / np.linalg.norm(early))
    response *= 10 ** (conditions.reverberant_db / 20) / np.linalg.norm(response)
    response[0] += 1
    return response


def microphone(conditions, taps=1024):
    """Minimum-phase kernel of the curve between `EQ_HZ` and the two cuts."""
    hz = np.linspace(0, RATE / 2, taps // 2 + 1)
    hz[0] = hz[1] / 2
    gain = 10 ** (np.interp(np.log(hz), np.log(EQ_HZ), conditions.eq_db) / 20)
    gain /= 1 + (conditions.low_cut_hz / hz) ** 2
    if conditions.high_cut_hz:
        gain /= 1 + (hz / conditions.high_cut_hz) ** 2
    cepstrum = np.fft.irfft(np.log(np.maximum(gain, 1e-4)))
    cepstrum[1 : taps // 2] *= 2
    cepstrum[taps // 2 + 1 :] = 0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))


def compress(sound, conditions, level, block=160):
    """Less of what is above the threshold, by the level of three blocks of 10 ms."""
    n = len(sound) // block
    if conditions.compression == 1 or n < 4:
        return sound
    levels = np.array([rms(part) for part in np.split(sound[: n * block], n)])
    smooth = np.convolve(np.pad(levels, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    over = smooth / max(level * 10 ** (conditions.threshold_db / 20), 1e-9)
    gains = np.maximum(over, 1) ** (1 / conditions.compression - 1)
    # From each block's gain to the next one's, which its last sample has reached.
    following = np.append(gains[1:], gains[-1])
    steps = np.concatenate(
        [np.linspace(*pair, block) for pair in zip(gains, following, strict=True)]
    )
    return sound * np.append(steps, np.full(len(sound) - n * block, gains[-1]))


def noise(length, conditions, level, rng):
    """Background noise at its level below the music's."""
    total = np.zeros(length)
    for kind, share in conditions.noises:
        at = rng.integers(BANK_SAMPLES) + np.arange(length)
        total += np.sqrt(share) * noise_bank(kind)[at % BANK_SAMPLES]
    return total * level * 10 ** (-conditions.snr_db / 20) / max(rms(total), 1e-9)
