"""The recording chain: what rooms, microphones, noise and coding do to clips, on any device.

Chance is drawn on the CPU, from the seed of each set of conditions alone, into a table with a row
for each piece of a clip that is recorded under one set of conditions. A GPU records hundreds of
pieces together; a CPU takes one after the other, so that a clip is the same in any batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import scipy.fft
import torch
from scipy.signal import butter, sosfilt
from torch import Tensor

from myna_plugin.model.audio import SAMPLE_RATE
from recipes.rendered.noises import BANK_SAMPLES, NOISES, TAIL_BANK, noise_bank, tail_bank
from recipes.rendered.recording import EQ_HZ, Conditions, Recording

FADE = round(0.02 * SAMPLE_RATE)
"""Samples over which one recording's conditions give way to the next."""

LONGEST_TAIL = round(1.4 * SAMPLE_RATE)
EQ_TAPS = 1024
BLOCK = 160
"""Samples of a compressor's look at the level: 10 ms."""

MOST_REFLECTIONS = 24
MOST_NOISES = 3
PIECES_AT_ONCE = {"cpu": 1, "cuda": 256}
FFT_STEP = 8192
"""Transforms are as long as multiples of this: quicker, and a GPU plans few different ones."""

NOISE_STEP = 1 << 18
"""Noise banks go on, from their beginning, for multiples of this."""

LOW_PASS_TAPS = 1024
"""Samples in which the steep low-pass has rung down."""

KINDS = tuple(NOISES)

PIECE = np.dtype(
    [
        ("clip", "i8"),
        # Samples of the clip: the first that is played, for what was played before still rings in
        # the room; the first that is recorded; one past the last.
        *[(name, "i8") for name in ("context", "low", "high")],
        # Whether it fades in from the piece before, and out into the next.
        *[(name, "?") for name in ("rise", "fall")],
        *[(name, "f4") for name in ("rt60_s", "damping", "reverberant")],
        # Of the tail its samples, where in the bank it begins, over how many samples it grows, and
        # its amplitude before the first reflections are added; of these the samples and amplitudes.
        *[(name, "i8") for name in ("tail_length", "tail_offset", "build_up")],
        ("tail_level", "f4"),
        ("early_at", "i8", (MOST_REFLECTIONS,)),
        ("early", "f4", (MOST_REFLECTIONS,)),
        ("eq_db", "f4", (len(EQ_HZ),)),
        *[(name, "f4") for name in ("low_cut_hz", "high_cut_hz")],
        # Kinds of noise by number, where in their banks they begin, and their amplitudes, 0 for
        # none; then that of all noise against the music.
        ("noise_kind", "i8", (MOST_NOISES,)),
        ("noise_offset", "i8", (MOST_NOISES,)),
        ("noise_share", "f4", (MOST_NOISES,)),
        ("noise_level", "f4"),
        *[(name, "f4") for name in ("compression", "threshold", "drive")],
        # In hundreds of Hz, 0 for none.
        ("low_pass", "i8"),
        ("peak", "f4"),
    ]
)
"""A piece of a clip and how it is recorded: see `Conditions`; amplitudes instead of decibels."""

Rows = dict[str, Tensor]
"""Columns of some pieces, on a device."""


def tabulate(recordings: Sequence[Recording], n_samples: int) -> np.ndarray:
    """The pieces of some clips of one length, everything about them drawn.

    Returns:
        Of dtype `PIECE`, by clip and time.
    """
    rows = []
    for clip, recording in enumerate(recordings):
        borders = [round(border * SAMPLE_RATE) for border in recording.borders_s]
        spans = zip([0, *borders], [*borders, n_samples], recording.conditions, strict=True)
        for start, stop, conditions in spans:
            row = _drawn(conditions)
            row["clip"] = clip
            row["low"] = max(start - FADE // 2, 0)
            row["high"] = min(stop + FADE // 2, n_samples)
            row["context"] = max(row["low"] - row["tail_length"], 0)
            row["rise"], row["fall"] = start > 0, stop < n_samples
            rows.append(row)
    return np.array(rows, PIECE)


def _drawn(conditions: Conditions) -> np.ndarray:
    """A row without its place in a clip."""
    rng = np.random.default_rng(conditions.seed)
    row = np.zeros((), PIECE)
    for name in ("rt60_s", "damping", "eq_db", "low_cut_hz", "high_cut_hz", "compression", "drive"):
        row[name] = getattr(conditions, name)
    for name in ("reverberant", "threshold", "peak"):
        row[name] = 10 ** (getattr(conditions, f"{name}_db") / 20)
    row["noise_level"] = 10 ** (-conditions.snr_db / 20)
    row["low_pass"] = round(conditions.low_pass_hz / 100)
    if conditions.rt60_s:
        # What is left after the tail is below -54 dB, or -46 in a church.
        length = min(max(round(0.9 * conditions.rt60_s * SAMPLE_RATE), 800), LONGEST_TAIL)
        row["tail_length"] = length
        row["tail_offset"] = rng.integers(TAIL_BANK - length)
        # The tail grows out of the first reflections instead of starting at once.
        row["build_up"] = round(rng.uniform(0.002, 0.03) * SAMPLE_RATE)
        n = int(rng.integers(4, MOST_REFLECTIONS))
        at = (rng.uniform(0.001, 0.05, n) * SAMPLE_RATE).astype(int)
        early = rng.uniform(-1, 1, n) * np.exp(-at / (0.02 * SAMPLE_RATE))
        row["tail_level"] = rng.uniform(0.3, 1.0)
        row["early_at"][:n] = at
        row["early"][:n] = early / np.linalg.norm(early) * rng.uniform(0.2, 0.8)
    for i, (kind, share) in enumerate(conditions.noises):
        row["noise_kind"][i] = KINDS.index(kind)
        row["noise_offset"][i] = rng.integers(BANK_SAMPLES)
        row["noise_share"][i] = np.sqrt(share)
    return row


def apply_recording(waveform: np.ndarray, recording: Recording) -> np.ndarray:
    """Record one sound, float32 (S,), 16 kHz, as `apply_recordings` does a batch."""
    pieces = tabulate([recording], len(waveform))
    return apply_recordings(torch.from_numpy(waveform)[None], pieces)[0].numpy()


@torch.inference_mode()
def apply_recordings(waveforms: Tensor, pieces: np.ndarray) -> Tensor:
    """Record a batch of sounds.

    Args:
        waveforms: float32 (C, S), 16 kHz, on any device.
        pieces: of `tabulate` for as many clips of as many samples.

    Returns:
        float32 (C, S), in [-1, 1]. The direct sound stays where it was. On a CPU a clip does not
        depend on the others; a GPU rounds them differently in other company.
    """
    ordered = pieces[np.argsort(pieces["high"] - pieces["context"], kind="stable")]
    columns = {name: torch.from_numpy(ordered[name].copy()) for name in PIECE.names or ()}
    columns = {name: column.to(waveforms.device) for name, column in columns.items()}
    columns["microphone"] = _microphones(columns)
    levels, peaks = waveforms.square().mean(1).sqrt(), waveforms.abs().amax(1)
    recorded = torch.zeros_like(waveforms)
    # Pieces of like length together: all of a batch take as long as the longest.
    at_once = PIECES_AT_ONCE[waveforms.device.type]
    for start in range(0, len(ordered), at_once):
        batch = ordered[start : start + at_once]
        rows = {name: column[start : start + at_once] for name, column in columns.items()}
        sound = _record(waveforms, batch, rows, levels[rows["clip"]], peaks[rows["clip"]])
        _add(recorded, sound, batch, rows)
    return recorded


def _add(recorded: Tensor, sound: Tensor, batch: np.ndarray, rows: Rows) -> None:
    """Put pieces where they belong in their clips; weights of neighbours sum to 1 in fades."""
    if len(batch) == 1:
        ramp = (torch.arange(min(FADE, sound.shape[1]), device=sound.device) + 0.5) / FADE
        if batch["rise"][0]:
            sound[0, :FADE] *= ramp
        if batch["fall"][0]:
            sound[0, -FADE:] *= ramp.flip(0)
        recorded[int(batch["clip"][0]), int(batch["low"][0]) : int(batch["high"][0])] += sound[0]
        return
    time = torch.arange(sound.shape[1], device=sound.device)
    before_end = (rows["high"] - rows["low"])[:, None] - 1 - time
    for fades, at in (("rise", time), ("fall", before_end)):
        sound *= ((at + 0.5) / FADE).clamp(max=1).where(rows[fades][:, None], 1.0)
    # Beyond a piece's end there are zeros, which may fall anywhere in the clip.
    n_samples = recorded.shape[1]
    place = (rows["low"][:, None] + time) % n_samples + rows["clip"][:, None] * n_samples
    recorded.view(-1).index_add_(0, place.flatten(), sound.flatten())


def _record(
    waveforms: Tensor, batch: np.ndarray, rows: Rows, level: Tensor, peak: Tensor
) -> Tensor:
    """Pieces as they are recorded, (R, samples of the longest); beyond a piece's end zeros."""
    length = rows["high"] - rows["low"]
    longest = int((batch["high"] - batch["low"]).max())
    sound = _cut(_play_in_rooms(waveforms, rows, batch, longest), length)
    # A passage much softer than the rest is not brought up to full level, here and below.
    sound *= (level / _rms(sound, length).clamp(min=1e-9).maximum(0.1 * level))[:, None]
    if (batch["compression"] > 1).any():
        sound = _compress(sound, rows, length, level)
    noise = _cut(_noise(batch, rows, longest), length)
    # Silence stays silence: a clip of noise alone would carry labels that nobody can hear.
    noise *= (level * rows["noise_level"] / _rms(noise, length).clamp(min=1e-9))[:, None]
    sound = _cut(_low_pass(sound + noise, batch), length)
    gain = 1 / sound.abs().amax(1).clamp(min=1e-9).maximum(0.25 * peak)
    if (batch["drive"] > 0).any():
        drive = rows["drive"][:, None]
        driven = torch.tanh(sound * (gain[:, None] * drive)) / torch.tanh(drive) / gain[:, None]
        sound = torch.where(drive > 0, driven, sound)
    return sound.mul_((gain * rows["peak"])[:, None])


def _cut(sound: Tensor, length: Tensor) -> Tensor:
    """Zeros beyond the ends of pieces; one alone ends with its row."""
    if len(sound) == 1:
        return sound
    return sound * (torch.arange(sound.shape[1], device=sound.device) < length[:, None])


def _rms(sound: Tensor, length: Tensor) -> Tensor:
    """Root mean square of the first samples of each row; the others must be 0."""
    return (sound.square().sum(1) / length).sqrt()


def _stretches(source: Tensor, rows: Tensor, starts: Tensor, length: int) -> Tensor:
    """Stretches of rows of `source` from given samples on, (R, length)."""
    if source.is_cuda:
        return source.unfold(1, length, 1)[rows, starts]
    places = zip(rows.tolist(), starts.tolist(), strict=True)
    return torch.stack([source[row, start : start + length] for row, start in places])


def _play_in_rooms(waveforms: Tensor, rows: Rows, batch: np.ndarray, length: int) -> Tensor:
    """Pieces as they sound at the microphone, (R, length); beyond a piece's end anything."""
    longest = int((batch["high"] - batch["context"]).max())
    # All stretches are as long as the longest, so some must begin before their context.
    begin = rows["context"].clamp(max=waveforms.shape[1] - longest)
    skip = rows["low"] - begin
    played = _stretches(waveforms, rows["clip"], begin, longest)
    if len(batch) > 1:
        time = torch.arange(longest, device=waveforms.device)
        played *= time >= (rows["context"] - begin)[:, None]
    kernels = _kernels(rows, batch)
    # What is beyond the transform's length comes back at its beginning, which is skipped.
    beyond = max(kernels.shape[1] - int(skip.min()), 0)
    n = _transform_length(max(longest + beyond, int(skip.max()) + length))
    heard = _irfft(_rfft(played, n).mul_(_rfft(kernels, n)), n)
    return _stretches(heard, torch.arange(len(batch), device=heard.device), skip, length)


def _rfft(sound: Tensor, n: int) -> Tensor:
    if sound.is_cuda:
        return torch.fft.rfft(sound, n)
    # On a CPU torch plans every transform anew, which takes longer than the transform.
    return torch.from_numpy(scipy.fft.rfft(sound.numpy(), n))


def _irfft(spectrum: Tensor, n: int) -> Tensor:
    if spectrum.is_cuda:
        return torch.fft.irfft(spectrum, n)
    return torch.from_numpy(scipy.fft.irfft(spectrum.numpy(), n))


def _transform_length(at_least: int) -> int:
    return FFT_STEP * scipy.fft.next_fast_len(-(-at_least // FFT_STEP), real=True)


def _kernels(rows: Rows, batch: np.ndarray) -> Tensor:
    """Rooms and microphones as one impulse response each, the direct sound first, (R, K)."""
    microphones = rows["microphone"]
    if not batch["tail_length"].any():
        return microphones
    rooms = _rooms(rows, int(batch["tail_length"].max()))
    length = rooms.shape[1] + EQ_TAPS
    n = _transform_length(length)
    return _irfft(_rfft(rooms, n).mul_(_rfft(microphones, n)), n)[:, :length]


def _rooms(rows: Rows, length: int) -> Tensor:
    """Impulse responses, (R, length); a one and zeros where there is no room."""
    time = torch.arange(length, device=rows["clip"].device, dtype=torch.float32)
    bass, treble = _tails(time.device)
    has_room = rows["tail_length"] > 0
    rate = -np.log(1000.0) / rows["rt60_s"].where(has_room, 1.0) / SAMPLE_RATE
    first = torch.zeros_like(rows["clip"])
    tail = _stretches(bass, first, rows["tail_offset"], length)
    tail *= torch.exp(rate[:, None] * time)
    damped = torch.exp((rate / rows["damping"])[:, None] * time)
    tail += damped * _stretches(treble, first, rows["tail_offset"], length)
    tail *= (time / (rows["build_up"] - 1).clamp(min=1)[:, None]).clamp(max=1)
    tail *= time < rows["tail_length"][:, None]
    room = _unit(tail) * rows["tail_level"][:, None]
    room.scatter_add_(1, rows["early_at"], rows["early"])
    room = _unit(room) * rows["reverberant"][:, None] * has_room[:, None]
    room[:, 0] += 1.0
    return room


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _microphones(rows: Rows) -> Tensor:
    """The causal kernels of gain curves that ring least, (R, EQ_TAPS).

    Source: the folded real cepstrum, Oppenheim and Schafer, Discrete-Time Signal Processing.
    """
    hz, weights = _frequencies(rows["clip"].device)
    # Not a matrix product, whose rounding depends on the number of rows.
    gain = 10 ** ((rows["eq_db"][:, :, None] * weights).sum(1) / 20)
    low, high = rows["low_cut_hz"][:, None], rows["high_cut_hz"][:, None]
    gain = gain / (1 + (low / hz) ** 2)
    gain = torch.where(high > 0, gain / (1 + (hz / high.clamp(min=1.0)) ** 2), gain)
    cepstrum = _irfft(gain.clamp(min=1e-4).log(), EQ_TAPS)
    cepstrum[:, 1 : EQ_TAPS // 2] *= 2
    cepstrum[:, EQ_TAPS // 2 + 1 :] = 0
    return _irfft(torch.exp(_rfft(cepstrum, EQ_TAPS)), EQ_TAPS)


def _compress(sound: Tensor, rows: Rows, length: Tensor, level: Tensor) -> Tensor:
    """Reduce what is louder than the threshold, by the level over some 30 ms."""
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


def _noise(batch: np.ndarray, rows: Rows, length: int) -> Tensor:
    """Background noise of some level, (R, length)."""
    device = rows["clip"].device
    noise = torch.zeros((len(batch), length), device=device)
    beyond = -(-length // NOISE_STEP) * NOISE_STEP
    for kind in np.unique(batch["noise_kind"][batch["noise_share"] > 0]).tolist():
        bank = _noise_bank(kind, beyond, device)
        found = np.nonzero((batch["noise_kind"] == kind) & (batch["noise_share"] > 0))
        if len(batch) == 1:
            begin = int(batch["noise_offset"][found][0])
            weight = float(batch["noise_share"][found][0])
            noise.add_(bank[:, begin : begin + length], alpha=weight)
            continue
        piece, slot = (torch.from_numpy(numbers).to(device) for numbers in found)
        offset, share = rows["noise_offset"][piece, slot], rows["noise_share"][piece, slot]
        heard = _stretches(bank, 0 * piece, offset, length)
        noise.index_add_(0, piece, heard.mul_(share[:, None]))
    return noise


def _low_pass(sound: Tensor, batch: np.ndarray) -> Tensor:
    """A steep cut as of lossy coding, where there is one."""
    cut = np.flatnonzero(batch["low_pass"])
    if not len(cut):
        return sound
    n = _transform_length(sound.shape[1] + LOW_PASS_TAPS)
    kernels = np.stack([_steep_low_pass(hundreds) for hundreds in batch["low_pass"][cut].tolist()])
    spectrum = _rfft(torch.from_numpy(kernels).to(sound.device), n)
    filtered = sound.clone()
    filtered[cut] = _irfft(spectrum.mul_(_rfft(sound[cut], n)), n)[:, : sound.shape[1]]
    return filtered


@functools.cache
def _tails(device: torch.device) -> tuple[Tensor, Tensor]:
    """The tails' bank, (1, samples), with silence after it: other tails of a batch are longer."""
    bass, treble = (np.pad(part, (0, LONGEST_TAIL))[None] for part in tail_bank())
    return torch.from_numpy(bass).to(device), torch.from_numpy(treble).to(device)


@functools.cache
def _noise_bank(kind: int, beyond: int, device: torch.device) -> Tensor:
    """A bank of noise, (1, samples), that begins anew at its end and goes on for some samples."""
    repeated = np.resize(noise_bank(KINDS[kind]), BANK_SAMPLES + beyond)
    return torch.from_numpy(repeated[None]).to(device)


@functools.cache
def _frequencies(device: torch.device) -> tuple[Tensor, Tensor]:
    """Frequencies of a microphone's gains, and how `EQ_HZ` weigh in each, (9, EQ_TAPS // 2 + 1)."""
    hz = np.linspace(0, SAMPLE_RATE / 2, EQ_TAPS // 2 + 1)
    hz[0] = hz[1] / 2
    weights = np.stack([np.interp(np.log(hz), np.log(EQ_HZ), row) for row in np.eye(len(EQ_HZ))])
    return torch.from_numpy(hz).float().to(device), torch.from_numpy(weights).float().to(device)


@functools.cache
def _steep_low_pass(hundreds_of_hz: int) -> np.ndarray:
    """Impulse response, float32; what comes after it is inaudible."""
    impulse = np.zeros(LOW_PASS_TAPS)
    impulse[0] = 1.0
    sections = butter(8, 100 * hundreds_of_hz, fs=SAMPLE_RATE, output="sos")
    return sosfilt(sections, impulse).astype(np.float32)
