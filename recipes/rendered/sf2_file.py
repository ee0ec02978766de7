"""SoundFont 2 files: tones on keys and velocities, as instruments under General MIDI's programs.

Source of the file format: SoundFont Technical Specification 2.01; for compressed samples, what
FluidSynth and MuseScore call SF3.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

DRUM_BANK = 128
GUARD = 46
"""Zeros that the format asks for after every sample."""

# Numbers of generators.
VIBRATO_TO_PITCH, MOD_ENVELOPE_TO_FILTER, FILTER_HZ = 6, 11, 8
VIBRATO_DELAY, VIBRATO_RATE = 23, 24
MOD_DECAY, MOD_SUSTAIN = 28, 29
ATTACK, DECAY, SUSTAIN, RELEASE, KEY_TO_DECAY = 34, 36, 37, 38, 40
INSTRUMENT, KEY_RANGE, VELOCITY_RANGE, FINE_TUNE = 41, 43, 44, 52
SAMPLE, SAMPLE_MODE, ROOT_KEY = 53, 54, 58


@dataclass(frozen=True, eq=False)
class Tone:
    """A sample.

    Attributes:
        name: at most 19 letters.
        samples: int16.
        rate: samples a second.
        root: MIDI pitch that it sounds at, which need not be whole.
        loop: first sample of the loop and one past its last; (0, 0) for none.
    """

    name: str
    samples: np.ndarray
    rate: int
    root: float
    loop: tuple[int, int] = (0, 0)


Generators = list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Instrument:
    """Zones, each with its generators (a key range first, then a velocity range) and its tone."""

    name: str
    bank: int
    program: int
    zones: list[tuple[Generators, Tone]]


def timecents(seconds: float) -> int:
    """The format's measure of time, as an unsigned word.

    >>> timecents(1.0), timecents(0.5) - 65536
    (0, -1200)
    """
    return round(1200 * np.log2(seconds)) & 0xFFFF


def soundfont_file(
    instruments: Sequence[Instrument], title: str, *, compressed: bool = False
) -> bytes:
    """The bytes of a soundfont of some instruments.

    Args:
        instruments: each with another bank or program; drum kits are in `DRUM_BANK`.
        title: of the file.
        compressed: samples as Ogg Vorbis, which makes the file a sixth as large. The bytes are not
            the same each time then, for every stream gets a random number.
    """
    tones = list({id(tone): tone for i in instruments for _, tone in i.zones}.values())
    number_of = {id(tone): number for number, tone in enumerate(tones)}
    info = _list(
        "INFO",
        _chunk("ifil", struct.pack("<HH", 3 if compressed else 2, 1)),
        _chunk("isng", b"EMU8000\0"),
        _chunk("INAM", title.encode() + b"\0" * (2 - len(title) % 2)),
    )
    if compressed:
        data = [_vorbis(tone) for tone in tones]
        headers = _compressed_headers(tones, data)
    else:
        data = [tone.samples.tobytes() + b"\0" * (2 * GUARD) for tone in tones]
        headers = _headers(tones)
    samples = b"".join(data)
    # The synthesiser does not know the byte that fills a chunk of odd length up: whole here.
    samples += b"\0" * (len(samples) % 2)
    content = (
        info
        + _list("sdta", _chunk("smpl", samples))
        + _list("pdta", *_presets(instruments), *_zones(instruments, number_of), headers)
    )
    return _chunk("RIFF", b"sfbk" + content)


def _chunk(name: str, data: bytes) -> bytes:
    return name.encode() + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: str, *chunks: bytes) -> bytes:
    return _chunk("LIST", name.encode() + b"".join(chunks))


def _name(text: str) -> bytes:
    return text.encode()[:19].ljust(20, b"\0")


def _presets(instruments: Sequence[Instrument]) -> list[bytes]:
    """Every instrument as a preset of one zone; each table ends in a row that closes it."""
    n = len(instruments)
    order = sorted(range(n), key=lambda i: (instruments[i].bank, instruments[i].program))
    rows = [
        _name(instruments[i].name)
        + struct.pack("<HHHIII", instruments[i].program, instruments[i].bank, bag, 0, 0, 0)
        for bag, i in enumerate(order)
    ]
    rows.append(_name("EOP") + struct.pack("<HHHIII", 0, 0, n, 0, 0, 0))
    bags = [struct.pack("<HH", bag, 0) for bag in range(n + 1)]
    generators = [struct.pack("<HH", INSTRUMENT, i) for i in order] + [b"\0" * 4]
    return [
        _chunk("phdr", b"".join(rows)),
        _chunk("pbag", b"".join(bags)),
        _chunk("pmod", b"\0" * 10),
        _chunk("pgen", b"".join(generators)),
    ]


def _zones(instruments: Sequence[Instrument], number_of: dict[int, int]) -> list[bytes]:
    names: list[bytes] = []
    bags: list[bytes] = []
    generators: list[bytes] = []
    for instrument in instruments:
        names.append(_name(instrument.name) + struct.pack("<H", len(bags)))
        for zone, tone in instrument.zones:
            bags.append(struct.pack("<HH", len(generators), 0))
            generators += [struct.pack("<HH", *generator) for generator in zone]
            generators.append(struct.pack("<HH", SAMPLE, number_of[id(tone)]))
    names.append(_name("EOI") + struct.pack("<H", len(bags)))
    bags.append(struct.pack("<HH", len(generators), 0))
    generators.append(b"\0" * 4)
    return [
        _chunk("inst", b"".join(names)),
        _chunk("ibag", b"".join(bags)),
        _chunk("imod", b"\0" * 10),
        _chunk("igen", b"".join(generators)),
    ]


def _headers(tones: Sequence[Tone]) -> bytes:
    rows = []
    start = 0
    for tone in tones:
        end = start + len(tone.samples)
        rows.append(_header(tone, (start, end), start, 1))
        start = end + GUARD
    return _chunk("shdr", b"".join([*rows, _name("EOS") + b"\0" * 26]))


def _compressed_headers(tones: Sequence[Tone], data: Sequence[bytes]) -> bytes:
    """Places in bytes, but loops in samples from their own beginning."""
    rows = []
    start = 0
    for tone, stream in zip(tones, data, strict=True):
        rows.append(_header(tone, (start, start + len(stream)), 0, 0x11))
        start += len(stream)
    return _chunk("shdr", b"".join([*rows, _name("EOS") + b"\0" * 26]))


def _header(tone: Tone, place: tuple[int, int], begin: int, kind: int) -> bytes:
    # A whole pitch at or below, and cents above it, which the player takes off again.
    pitch = int(np.floor(tone.root))
    cents = round(100 * (pitch - tone.root))
    loop = (begin + tone.loop[0], begin + tone.loop[1])
    return _name(tone.name) + struct.pack(
        "<IIIIIBbHH", *place, *loop, tone.rate, pitch, cents, 0, kind
    )


def _vorbis(tone: Tone) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, tone.samples, tone.rate, format="OGG", subtype="VORBIS")
    return stream.getvalue()
