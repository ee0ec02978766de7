"""Soundfonts: where they are found, and playing notes with them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from tinysoundfont import _tinysoundfont

SYNTHESIS_RATE = 32_000
"""Hz. The synthesiser interpolates linearly, which mirrors treble; twice our rate avoids that."""

MAX_VOICES = 128
DRUM_CHANNEL = 9

USUAL_PLACES = (
    "/usr/share/fluidr3mono-gm-soundfont",
    "/usr/share/sounds/sf2",
    "/usr/share/sounds/sf3",
    "/usr/share/soundfonts",
)


class SoundfontError(ValueError):
    """A soundfont that cannot be used; the message names the file and the remedy."""


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
def load_soundfont(path: str) -> _tinysoundfont.SoundFont:
    """A soundfont ready to render mono float32 at `SYNTHESIS_RATE`, loaded once a process.

    Raises:
        SoundfontError: it is missing or not a soundfont.
    """
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
def soundfont_digest(path: str) -> str:
    """SHA-256 of a soundfont, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
