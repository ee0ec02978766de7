"""Recorded notes: read from a folder, cut to the sound, tuned, and looped where they last.

The bank holds them at `RATE`. The model hears up to 8 kHz; what 22,050 Hz holds beyond that serves
notes played below their recorded pitch, down to five semitones. The synthesiser interpolates
linearly, and the images that this leaves of 0 to 11 kHz lie above 8 kHz for these notes, too.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import soundfile
import soxr
from scipy.signal import correlate

from myna_plugin.common.errors import InputError

RATE = 22_050
"""Hz."""

PITCH_CLASSES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
ACCIDENTALS = {"": 0, "#": 1, "s": 1, "b": -1}

ONSET = 0.02
"""Of a recording's peak: where it first gets louder than this, the note begins."""

END = 3e-3
"""Of the peak: what is softer at the end is cut off."""

LEVEL = 0.12
"""Root mean square of a note's loudest `LEVEL_S`; full scale is 1."""

LEVEL_S = 0.1
LARGEST_PEAK = 0.95
FADE_S = 0.02
LEAST_LOOP_S = 0.25
SEAM_S = 0.05
MATCHED_S = 0.03
HELD_BLOCK_S = 0.05
HELD = 0.7
"""Of its usual level: what is softer is no longer held."""

FARTHEST_CENTS = 60
"""A note is tuned if it is no farther than this from what its name says."""

STANDS_OUT, FAINT = 1.3, 0.1


class BankError(InputError):
    """Recordings that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class Note:
    """A recorded note, ready for a soundfont.

    Attributes:
        samples: float32 in (-1, 1), at `RATE`.
        loop: first sample of its loop and one past its last; (0, 0) for none.
        cents: how much sharper it is than it was said to be.
    """

    samples: np.ndarray
    loop: tuple[int, int] = (0, 0)
    cents: float = 0.0

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / RATE


@dataclass(frozen=True)
class Region:
    """A sample of an instrument's .sfz.

    Attributes:
        sample: its path, as the .sfz has it, from the .sfz's folder.
        pitch: MIDI pitch at which it sounds as recorded.
        low_velocity: lowest that plays it.
    """

    sample: str
    pitch: float
    low_velocity: int = 0


def midi_pitch(note: str) -> int:
    """MIDI pitch of a note's name, C4 being 60.

    Raises:
        ValueError: no name of a note.

    >>> midi_pitch("C4"), midi_pitch("F#3"), midi_pitch("Ds1"), midi_pitch("bb1"), midi_pitch("A-1")
    (60, 54, 27, 34, 9)
    """
    parts = re.fullmatch(r"([a-g])([#sb]?)(-?\d)", note, re.IGNORECASE)
    if parts is None:
        raise ValueError(f"no name of a note: {note!r}")
    letter, accidental, octave = (part.lower() for part in parts.groups())
    return 12 * (int(octave) + 1) + PITCH_CLASSES[letter] + ACCIDENTALS[accidental]


def file_inside(folder: Path, name: str) -> Path:
    """A file of a folder; its name comes from a file that somebody else wrote.

    Raises:
        BankError: it lies outside of the folder, through a link perhaps, or is missing.
    """
    path = folder / PureWindowsPath(name).as_posix()
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BankError(f"{folder}: names {name!r}, which lies outside of it; take that out")
    if not path.is_file():
        raise BankError(f"{path}: no such file; download the whole of its source")
    return path


def read_regions(path: Path) -> list[Region]:
    """Regions of an .sfz that sound when a key is struck: `sample`, pitch and lowest velocity.

    Opcodes of a <group> and of a <global> hold for their regions. Regions for other triggers are
    left out, and so are samples that come twice.

    Raises:
        BankError: a region has no pitch.
    """
    text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8", errors="replace"))
    levels: dict[str, dict[str, str]] = {}
    order = ("global", "master", "group", "region")
    found: dict[str, Region] = {}
    for header, body in re.findall(r"<(\w+)>([^<]*)", text):
        if header not in order:
            continue
        # A value ends where the next opcode begins: names of files have spaces.
        opcodes = re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)", body, re.DOTALL)
        levels[header] = {name.lower(): value.strip() for name, value in opcodes}
        for lower in order[order.index(header) + 1 :]:
            levels.pop(lower, None)
        if header != "region":
            continue
        merged = {k: v for name in order for k, v in levels.get(name, {}).items()}
        sample = merged.get("sample", "")
        if not sample or sample in found:
            continue
        if merged.get("trigger", "attack") not in ("attack", "first"):
            continue
        pitch = merged.get("pitch_keycenter", merged.get("key", ""))
        try:
            root = float(pitch) if re.fullmatch(r"\d+", pitch) else float(midi_pitch(pitch))
        except ValueError:
            raise BankError(f"{path}: {sample} has no pitch_keycenter") from None
        sharper = float(merged.get("tune", 0)) / 100
        found[sample] = Region(sample, root - sharper, int(merged.get("lovel", 0)))
    return list(found.values())


def read_note(path: Path, pitch: float | None, longest_s: float, *, lasting: bool) -> Note:
    """Read a note: mono, from its onset on, of even level, tuned, with a loop if it lasts.

    Args:
        path: of a recording that libsndfile reads.
        pitch: MIDI pitch that it should have; None for a sound without one.
        longest_s: what lies beyond is cut off.
        lasting: give it a loop: the file's own if it has one, or else the best that is found.

    Raises:
        BankError: it cannot be read, or is silent.
    """
    try:
        recorded, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise BankError(f"{path}: cannot be read ({error}); download it anew") from error
    sound = np.asarray(soxr.resample(recorded.mean(1), rate, RATE), np.float32)
    peak = float(np.abs(sound).max(initial=0.0))
    if peak < 1e-4:
        raise BankError(f"{path}: is silent; leave it out")
    audible = np.flatnonzero(np.abs(sound) > END * peak)
    begin = max(int(np.flatnonzero(np.abs(sound) > ONSET * peak)[0]) - RATE // 500, 0)
    end = min(int(audible[-1]) + 1, begin + round(longest_s * RATE))
    sound = sound[begin:end]
    cents = 0.0 if pitch is None else measure_cents(sound, pitch)
    loop = (0, 0)
    if lasting:
        own = tuple(round(at * RATE / rate) - begin for at in read_loop(path))
        sound, loop = loop_note(sound, own if 0 < own[0] < own[1] <= len(sound) else None)
    else:
        fade = min(round(FADE_S * RATE), len(sound))
        sound[len(sound) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return Note(sound * np.float32(level_gain(sound)), loop, cents)


def level_gain(sound: np.ndarray) -> float:
    """Factor that brings a sound's loudest moment to `LEVEL`, or its peak as high as may be."""
    width = max(min(round(LEVEL_S * RATE), len(sound)), 1)
    power = np.cumsum(np.concatenate([[0.0], np.square(sound, dtype=np.float64)]))
    loudest = float((power[width:] - power[:-width]).max()) / width
    peak = float(np.abs(sound).max())
    return min(LEVEL / max(loudest, 1e-12) ** 0.5, LARGEST_PEAK / max(peak, 1e-9))


def measure_cents(sound: np.ndarray, pitch: float) -> float:
    """How much sharper a note sounds than a pitch near it, in cents.

    The strongest comb of four harmonics (eight for low notes, whose first are weak) within
    `FARTHEST_CENTS`; 0 if that is faint, or hardly stands out from the edges: then the note sounds
    at another pitch, or at none.
    """
    part = sound[min(round(0.05 * RATE), len(sound) // 4) :][: 2 * RATE]
    n = 1 << 18
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), n))
    hz = 440 * 2 ** ((pitch - 69) / 12)
    cents = np.arange(-FARTHEST_CENTS, FARTHEST_CENTS + 1)
    orders = np.arange(1, 9 if pitch < 45 else 5)
    orders = orders[orders * hz < 0.45 * RATE]
    bins = orders[:, None] * hz * 2 ** (cents / 1200) * (n / RATE)
    strength = np.interp(bins, np.arange(len(spectrum)), spectrum).sum(0)
    least = max(STANDS_OUT * strength[0], STANDS_OUT * strength[-1], FAINT * spectrum.max())
    return float(cents[strength.argmax()]) if strength.max() > least else 0.0


def read_loop(path: Path) -> tuple[int, int]:
    """First sample of a WAV file's loop and one past its last; (0, 0) for none.

    Source: the `smpl` chunk of Multimedia Programming Interface and Data Specifications 1.0.
    """
    if path.suffix.lower() != ".wav":
        return 0, 0
    data = path.read_bytes()
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"smpl" and size >= 60 and at + 68 <= len(data):
            count = struct.unpack_from("<I", data, at + 36)[0]
            start, last = struct.unpack_from("<II", data, at + 52)
            return (start, last + 1) if count else (0, 0)
        at += 8 + size + size % 2
    return 0, 0


def loop_note(
    sound: np.ndarray, loop: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Give a note a loop without a seam: its end fades into what precedes the loop's beginning.

    Args:
        sound: float32 (S,).
        loop: first sample and one past the last; None to end it where the note is no longer held,
            and to begin it, after a third of that, where what precedes is most like its end.

    Returns:
        sound: up to the loop's end, and 16 samples more, into which interpolation reads.
        loop: (0, 0) where the note is too short.
    """
    width = round(MATCHED_S * RATE)
    if loop is None:
        begin, end = held_part(sound)
        low = max(begin + (end - begin) // 3, width)
        high = end - round(LEAST_LOOP_S * RATE)
        if high <= low:
            return sound, (0, 0)
        loop = (low + _likest(sound[low - width : high], sound[end - width : end]), end)
    start, end = loop
    seam = min(round(SEAM_S * RATE), start, end - start)
    looped = sound[:end].copy()
    ramp = np.linspace(0, 1, seam, dtype=np.float32)
    looped[end - seam :] *= 1 - ramp
    looped[end - seam :] += ramp * sound[start - seam : start]
    return np.concatenate([looped, looped[start : start + 16]]), (start, end)


def held_part(sound: np.ndarray) -> tuple[int, int]:
    """First and one past the last sample of where a note is held, as loud as it mostly is."""
    block = round(HELD_BLOCK_S * RATE)
    whole = len(sound) // block * block
    if not whole:
        return 0, len(sound)
    levels = np.sqrt(np.square(sound[:whole].reshape(-1, block)).mean(1))
    held = np.flatnonzero(levels > HELD * np.percentile(levels, 80))
    return int(held[0]) * block, (int(held[-1]) + 1) * block


def _likest(sound: np.ndarray, pattern: np.ndarray) -> int:
    """Where in a sound a pattern is found best, by normalised correlation and like level."""
    products = correlate(sound, pattern, "valid", "fft")[:-1]
    power = np.cumsum(np.concatenate([[0.0], np.square(sound, dtype=np.float64)]))
    norms = np.sqrt(np.maximum(power[len(pattern) :] - power[: -len(pattern)], 1e-12))[:-1]
    own = float(np.linalg.norm(pattern))
    likeness = products / (norms * own) * np.minimum(norms / own, own / norms) ** 0.5
    return int(likeness.argmax())
