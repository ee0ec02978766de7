"""Soundfonts: where they are found, and playing notes with them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from myna_plugin.common.errors import InputError, MissingPackageError
from myna_plugin.common.files import digest_path
from recipes.rendered.performance import PROGRAMS
from recipes.rendered.sf2_file import DRUM_BANK

Soundfont = Any
"""What the synthesiser, which has no types, plays with."""

SYNTHESIS_RATE = 32_000
"""Hz. The synthesiser interpolates linearly, which mirrors treble; twice our rate avoids that."""

HELD_OUT = "TimGM6mb.sf2"
"""Kept for test clips: training takes it only where it is named."""

NOT_TRAINED_ON = (HELD_OUT, "sf_GMbank.sf2")
"""Csound's bank has most of its instruments from the same samples as TimGM6mb."""

MAX_VOICES = 128
DRUM_CHANNEL = 9
FLUSH = 2048
"""Samples in which a voice that was cut off is gone."""

REFERENCE_VELOCITY = 90
REFERENCE_DB = -24.0
"""Root mean square of the first half second of a note, dB below full scale, after balancing."""

USUAL_PLACES = (
    "/usr/share/fluidr3mono-gm-soundfont",
    "/usr/share/sounds/sf2",
    "/usr/share/sounds/sf3",
    "/usr/share/soundfonts",
)


class SoundfontError(InputError):
    """A soundfont that cannot be used; the message names the file and the remedy."""


def find_training_soundfonts() -> list[Path]:
    """Those of `find_soundfonts` that may be trained on without being named."""
    return [path for path in find_soundfonts() if path.name not in NOT_TRAINED_ON]


def find_soundfonts() -> list[Path]:
    """General MIDI soundfonts on this machine: Debian's folders, and the one in pretty_midi.

    pretty_midi brings TimGM6mb (GPL); the benchmark keeps that for test clips.
    """
    found = [
        path
        for folder in map(Path, USUAL_PLACES)
        for path in sorted(folder.glob("*.sf[23]"))
        if path.is_file()
    ]
    return found + [path for path in (_bundled_soundfont(),) if path is not None]


def _bundled_soundfont() -> Path | None:
    try:
        import pretty_midi
    except ImportError:
        return None
    path = Path(pretty_midi.__file__).parent / "TimGM6mb.sf2"
    return path if path.is_file() else None


@functools.lru_cache(maxsize=16)
def load_soundfont(path: str) -> Soundfont:
    """A soundfont ready to render mono float32 at `SYNTHESIS_RATE`, loaded once a process.

    Raises:
        SoundfontError: it is missing or not a soundfont.
        MissingPackageError: there is no synthesiser.
    """
    try:
        from tinysoundfont import _tinysoundfont
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "the synthesiser is not installed: pip install --no-deps tinysoundfont"
        ) from error
    # The public `Synth` renders stereo only and cannot be set back to silence at once; clips must
    # not hear each other's tails, or a clip would depend on which worker made it.
    if not Path(path).is_file():
        raise SoundfontError(f"{path}: no such file; give a General MIDI soundfont (.sf2, .sf3)")
    try:
        font = _tinysoundfont.SoundFont(path)
    except Exception as error:
        raise SoundfontError(f"{path}: not a soundfont that can be read ({error})") from error
    font.set_output(_tinysoundfont.OutputMode.Mono, SYNTHESIS_RATE, 0.0)
    font.set_max_voices(MAX_VOICES)
    return font


@functools.lru_cache(maxsize=16)
def programs_of(path: str) -> tuple[int, ...]:
    """General MIDI programs of `performance.PROGRAMS` that a soundfont has, ascending.

    Asked for another, the synthesiser would play on with whatever instrument it had before.

    Raises:
        SoundfontError: it has none, or no drum kit.
    """
    font = load_soundfont(path)
    found = tuple(program for program in PROGRAMS if font.get_preset_index(0, program) >= 0)
    if not found or font.get_preset_index(DRUM_BANK, 0) < 0:
        raise SoundfontError(f"{path}: no General MIDI programs, or no drum kit 0; give another")
    return found


def silence(font: Soundfont) -> None:
    """Bring a soundfont into the state in which it was loaded."""
    font.reset()
    # Voices cut off by the reset still fade for a moment, and the places that they take would
    # decide in which order the next notes are added up.
    font.render(np.zeros(FLUSH, np.float32).data.cast("B"))


@functools.lru_cache(maxsize=4096)
def balance_db(path: str, program: int, pitch: int) -> float:
    """Gain that brings an instrument's notes near a pitch to about the loudness of all others.

    Soundfonts differ by up to 40 dB between instruments; a part that cannot be heard would make
    labels untrue.
    """
    font = load_soundfont(path)
    silence(font)
    font.channel_set_preset_number(0, program, False)
    sound = np.zeros(SYNTHESIS_RATE // 2, np.float32)
    font.channel_note_on(0, pitch, REFERENCE_VELOCITY / 127)
    font.render(sound.data.cast("B"))
    level = float(np.sqrt(np.mean(np.square(sound))))
    return float(np.clip(REFERENCE_DB - 20 * np.log10(max(level, 1e-9)), -20.0, 20.0))


@functools.lru_cache(maxsize=16)
def soundfont_digest(path: str) -> str:
    """SHA-256 of a soundfont, hexadecimal."""
    return digest_path(Path(path))


def digest_soundfonts(paths: Iterable[str]) -> dict[str, str]:
    """SHA-256 of soundfonts by their files' names, for the record."""
    return {Path(path).name: soundfont_digest(path) for path in paths}
