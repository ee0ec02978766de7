"""Variations of a soundfont: its recorded sounds, as other instruments of their kind might sound.

Every instrument keeps its samples and its pitch. What changes, by a draw for each: from which
neighbouring keys' recordings its notes are made (which moves formants), how bright it is, how fast
it speaks and dies away, and its vibrato. Drum kits are left as they are.

\b
    python -m benchmarks.rendered.soundfont_variation FluidR3Mono_GM.sf3 varied-1.sf3 --seed 1

Source of the file format: SoundFont Technical Specification 2.01, §7, §8.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from benchmarks.rendered.soundfont_writer import (
    ATTACK,
    DECAY,
    DRUM_BANK,
    FILTER_HZ,
    INSTRUMENT,
    KEY_RANGE,
    RELEASE,
    SAMPLE,
    VIBRATO_RATE,
    VIBRATO_TO_PITCH,
)
from benchmarks.rendered.soundfonts import SoundfontError
from myna_plugin.writing import replacing

VELOCITY_RANGE = 44

KEYS = 127

DEFAULTS = {FILTER_HZ: 13_500, ATTACK: -12_000, DECAY: -12_000, RELEASE: -12_000}
"""What an absent generator means (§8.1.3), of those that are added to."""

LIMITS = {
    FILTER_HZ: (1_500, 13_500),
    ATTACK: (-12_000, 8_000),
    DECAY: (-12_000, 8_000),
    RELEASE: (-12_000, 8_000),
    VIBRATO_TO_PITCH: (-12_000, 12_000),
    VIBRATO_RATE: (-16_000, 4_500),
}

SEMITONES = 5
"""Farthest that recordings are moved over the keys."""

Zone = list[tuple[int, bytes]]
"""Generators by number with their two bytes, in the order of the file."""


def vary_soundfont(source: Path, target: Path, seed: int) -> Path:
    """Write a variation of a soundfont; equal seeds give equal files.

    Args:
        source: a General MIDI soundfont, .sf2 or .sf3.
        target: the new file.
        seed: of the draws.

    Returns:
        The new file.

    Raises:
        SoundfontError: the source cannot be read, or is no soundfont.
    """
    try:
        content = source.read_bytes()
    except OSError as error:
        raise SoundfontError(f"{source}: cannot be read ({error.strerror})") from error
    try:
        varied = _vary(content, np.random.default_rng(seed))
    except (struct.error, KeyError, IndexError, StopIteration) as error:
        raise SoundfontError(f"{source}: not a soundfont that can be varied ({error})") from error
    with replacing(target) as partial:
        partial.write_bytes(varied)
    return target


def _vary(content: bytes, rng: np.random.Generator) -> bytes:
    # The samples before the tables stay byte for byte, filled up to whole words or not.
    (start, stop) = next(
        (start, stop)
        for start, stop in _chunks(content, 12)
        if content[start : start + 4] == b"LIST" and content[start + 8 : start + 12] == b"pdta"
    )
    tables = {
        content[first : first + 4]: content[first + 8 : last]
        for first, last in _chunks(content[:stop], start + 12)
    }
    drums = _drum_instruments(tables)
    bags = [bag for bag, _ in struct.iter_unpack("<HH", tables[b"ibag"])]
    modulators = [first for _, first in struct.iter_unpack("<HH", tables[b"ibag"])]
    rows = [(number, value) for number, value in struct.iter_unpack("<H2s", tables[b"igen"])]
    firsts = [first for _, first in struct.iter_unpack("<20sH", tables[b"inst"])]
    new_rows: list[tuple[int, bytes]] = []
    new_bags: list[tuple[int, int]] = []
    for instrument, (first, last) in enumerate(zip(firsts, firsts[1:], strict=False)):
        zones = [rows[bags[bag] : bags[bag + 1]] for bag in range(first, last)]
        if instrument not in drums:
            zones = _vary_zones(zones, rng)
        for bag, zone in zip(range(first, last), zones, strict=True):
            new_bags.append((len(new_rows), modulators[bag]))
            new_rows += zone
    new_bags.append((len(new_rows), modulators[-1]))
    new_rows.append((0, b"\0\0"))
    tables[b"ibag"] = b"".join(struct.pack("<HH", *bag) for bag in new_bags)
    tables[b"igen"] = b"".join(struct.pack("<H2s", *row) for row in new_rows)
    body = b"pdta" + b"".join(_chunk(name, data) for name, data in tables.items())
    varied = content[8:start] + _chunk(b"LIST", body) + content[stop:]
    return b"RIFF" + struct.pack("<I", len(varied)) + varied


def _vary_zones(zones: list[Zone], rng: np.random.Generator) -> list[Zone]:
    """An instrument's zones with one draw for all of them."""
    shift = int(rng.integers(-SEMITONES, SEMITONES + 1))
    added = {
        FILTER_HZ: int(rng.uniform(-3_000, 500)) if rng.random() < 0.7 else 0,
        ATTACK: int(rng.uniform(-600, 2_400)),
        DECAY: int(rng.uniform(-1_200, 1_200)),
        RELEASE: int(rng.uniform(-1_200, 1_800)),
        VIBRATO_TO_PITCH: int(rng.uniform(0, 25)) if rng.random() < 0.4 else 0,
        VIBRATO_RATE: int(rng.uniform(-700, 700)),
    }
    # A first zone without a sample speaks for those that follow and do not say otherwise.
    common = dict(zones[0]) if zones and SAMPLE not in dict(zones[0]) else {}
    varied = []
    for zone in zones:
        own = dict(zone)
        is_common = SAMPLE not in own
        changed: dict[int, bytes] = {}
        for number, amount in added.items():
            known = own.get(number, None if is_common else common.get(number))
            if known is None and number in own | common and is_common:
                continue
            value = struct.unpack("<h", known)[0] if known else DEFAULTS.get(number, 0)
            if number in (ATTACK, DECAY, RELEASE) and known is None:
                continue  # an instant rise stays instant, and so on
            low, high = LIMITS[number]
            changed[number] = struct.pack("<h", int(np.clip(value + amount, low, high)))
        if is_common:
            varied.append(zone)
            continue
        if KEY_RANGE in own:
            low, high = own[KEY_RANGE]
            moved = (
                low if low == 0 else min(max(low + shift, 1), KEYS),
                high if high == KEYS else min(max(high + shift, 0), KEYS - 1),
            )
            changed[KEY_RANGE] = bytes(moved)
        varied.append(_replace(zone, changed))
    return varied


def _replace(zone: Zone, changed: dict[int, bytes]) -> Zone:
    """The zone with some generators replaced or added, in an order that the format allows."""
    values = dict(zone) | changed
    ranges = [number for number in (KEY_RANGE, VELOCITY_RANGE) if number in values]
    between = [number for number in values if number not in (*ranges, SAMPLE)]
    return [(number, values[number]) for number in (*ranges, *between, SAMPLE)]


def _drum_instruments(tables: dict[bytes, bytes]) -> set[int]:
    """Instruments that a preset of the drums' bank uses."""
    presets = [row[1:4] for row in struct.iter_unpack("<20sHHHIII", tables[b"phdr"])]
    bags = [first for first, _ in struct.iter_unpack("<HH", tables[b"pbag"])]
    rows = list(struct.iter_unpack("<HH", tables[b"pgen"]))
    return {
        amount
        for (_, bank, first), (_, _, stop) in zip(presets, presets[1:], strict=False)
        if bank == DRUM_BANK
        for number, amount in rows[bags[first] : bags[stop]]
        if number == INSTRUMENT
    }


def _chunks(data: bytes, place: int) -> Iterator[tuple[int, int]]:
    """Where the chunks from `place` on begin and end. Writers of .sf3 leave out the filling byte."""
    while place + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, place + 4)
        yield place, place + 8 + size
        place += 8 + size
        place += size % 2 and data[place : place + 1] == b"\0"


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


@click.command(help=__doc__)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def main(source: Path, target: Path, seed: int) -> None:
    try:
        vary_soundfont(source, target, seed)
    except (SoundfontError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error
    click.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
