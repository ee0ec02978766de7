"""A soundfont of recorded notes, from folders that the user has downloaded.

What each source is, where it is found and under which licence, says `recorded_sources.yaml`, and
which General MIDI programs and drum kits it becomes. The soundfont has these programs alone;
performances of it draw no others.

\b
Example:
  python -m recipes.rendered.recorded_bank recorded.sf3 --sources sources

Exit status: 0 done, 2 bad input.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np

from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.files import replacing, write_text
from myna_plugin.common.options import FILE, FOLDER
from recipes.rendered.recorded_notes import (
    RATE,
    BankError,
    Note,
    file_inside,
    midi_pitch,
    read_note,
    read_regions,
)
from recipes.rendered.recorded_objects import choose_objects
from recipes.rendered.recorded_sources import Kit, Recorded, Table, read_table
from recipes.rendered.sf2_file import (
    DRUM_BANK,
    KEY_RANGE,
    RELEASE,
    ROOT_KEY,
    SAMPLE_MODE,
    VELOCITY_RANGE,
    Generators,
    Instrument,
    Tone,
    soundfont_file,
    timecents,
)

TITLE = "Recorded notes"
DRUM_S = 1.5
ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".aif")

FAMILIES: tuple[tuple[int, ...], ...] = (
    (35, 36),  # bass drums
    (41, 43, 45, 47, 48, 50, 65, 66, 87, 86),  # toms, timbales, surdos
    (60, 61, 62, 63, 64, 78, 79),  # drums played by hand
    (38, 40, 37, 39, 31, 32, 34),  # snares, sticks, claps
    (75, 76, 77, 85, 33),  # woods
    (56, 67, 68, 80, 81, 84, 71, 72),  # bells, triangles, whistles
    (69, 70, 54, 82, 83, 58, 73, 74, 28, 29, 30, 27),  # shaken and scraped
    (42, 44, 46),  # hi-hats
    (49, 57, 55, 52, 51, 59, 53),  # cymbals
)
"""Keys of the drums by kind, each kind between those that it is most like: a key that a kit lacks
gets the drum next to it in its family, or in the families beside."""


@dataclass(frozen=True, eq=False)
class Played:
    """A recording's place in an instrument.

    Attributes:
        path: of the recording.
        pitch: MIDI pitch, as said.
        softest: lowest velocity that plays it; the softest layer plays what is softer, too.
    """

    path: Path
    pitch: float
    softest: int = 0


@dataclass(eq=False)
class Used:
    """What a bank took of a source."""

    seconds: float = 0.0
    recordings: int = 0
    presets: list[str] | None = None


@dataclass(frozen=True, eq=False)
class Bank:
    """A soundfont to be, what it took by source, and the sources that were not there."""

    instruments: list[Instrument]
    used: dict[str, Used]
    absent: list[str]


def make_bank(table: Table, sources: Path) -> Bank:
    """Read all recordings of a table that are there.

    Raises:
        BankError: a source is there in part, or cannot be read; or none is there.
    """
    absent = [name for name in table.sources if not (sources / name).is_dir()]
    if len(absent) == len(table.sources):
        raise BankError(f"{sources}: has no source; put for example {absent[0]} there")
    reader = _Reader(table, sources, absent)
    instruments = [reader.instrument(recorded) for recorded in table.instruments]
    instruments += [reader.kit(kit) for kit in table.kits]
    return Bank([i for i in instruments if i is not None], dict(reader.used), absent)


class _Reader:
    """Makes instruments of recordings, and counts what was taken of each source."""

    def __init__(self, table: Table, sources: Path, absent: Sequence[str]) -> None:
        self.table, self.sources, self.absent = table, sources, absent
        self.used: dict[str, Used] = defaultdict(Used)

    def instrument(self, recorded: Recorded) -> Instrument | None:
        """An instrument; None if its source is absent."""
        if self.table.source_of(recorded.folder) in self.absent:
            return None
        found = find_notes(recorded, self.sources / recorded.folder)
        zones = []
        bounds = sorted({played.softest for played in found})
        for low, high in zip([0, *bounds[1:]], [*(b - 1 for b in bounds[1:]), 127], strict=True):
            layer = [p for p in found if low <= p.softest <= high]
            taken = thin_out(layer, recorded.spacing)
            # Pitches in the table were measured; those in names are what the player meant.
            tuned = not recorded.pitches
            read = [
                read_note(
                    played.path,
                    played.pitch if tuned else None,
                    recorded.longest_s,
                    lasting=recorded.lasting,
                )
                for played in taken
            ]
            roots = [p.pitch + note.cents / 100 for p, note in zip(taken, read, strict=True)]
            for (first, last), played, note, root in zip(
                key_ranges(roots), taken, read, roots, strict=True
            ):
                self._count(recorded.folder, note, f"{recorded.program} {recorded.name}")
                generators: Generators = [
                    (KEY_RANGE, last << 8 | first),
                    (VELOCITY_RANGE, high << 8 | low),
                    (RELEASE, timecents(recorded.release_s)),
                    (SAMPLE_MODE, int(note.loop != (0, 0))),
                ]
                zones.append((generators, _tone(played.path, note, root)))
        return Instrument(recorded.name, 0, recorded.program, zones)

    def kit(self, kit: Kit) -> Instrument | None:
        """A drum kit of the parts that are there; None if there are none."""
        drums: dict[int, list[tuple[str, Path]]] = {}
        for folder, names in kit.parts.items():
            if self.table.source_of(folder) not in self.absent:
                for key, name in names.items():
                    layers = [name] if isinstance(name, str) else name
                    paths = [_recording(self.sources / folder, layer) for layer in layers]
                    drums[key] = [(folder, path) for path in paths]
        objects = self.table.objects
        if kit.objects is not None and self.table.source_of(objects.folder) not in self.absent:
            chosen = choose_objects(self.sources / objects.folder, objects.words, kit.objects)
            drums |= {key: [(objects.folder, path)] for key, path in chosen.items()}
        if not drums:
            return None
        tones = {
            path: self._drum(folder, path, f"kit {kit.program} {kit.name}")
            for layers in drums.values()
            for folder, path in layers
        }
        zones = []
        for key in range(27, 88):
            strokes = drums[stand_in(key, drums)]
            for number, (_, path) in enumerate(strokes):
                low, high = (128 * n // len(strokes) for n in (number, number + 1))
                generators: Generators = [
                    (KEY_RANGE, key << 8 | key),
                    (VELOCITY_RANGE, (high - 1) << 8 | low),
                    # Longer than the drum: a stroke is not damped when its key is let go.
                    (RELEASE, timecents(2.0)),
                    (SAMPLE_MODE, 0),
                    (ROOT_KEY, key),
                ]
                zones.append((generators, tones[path]))
        return Instrument(kit.name, DRUM_BANK, kit.program, zones)

    def _drum(self, folder: str, path: Path, preset: str) -> Tone:
        note = read_note(path, None, DRUM_S, lasting=False)
        self._count(folder, note, preset)
        return _tone(path, note, 60.0)

    def _count(self, folder: str, note: Note, preset: str) -> None:
        used = self.used[self.table.source_of(folder)]
        used.seconds += note.seconds
        used.recordings += 1
        used.presets = used.presets or []
        if preset not in used.presets:
            used.presets.append(preset)


def _tone(path: Path, note: Note, root: float) -> Tone:
    samples = np.rint(note.samples * 32_767).astype("<i2")
    return Tone(path.stem.encode("ascii", "replace").decode(), samples, RATE, root, note.loop)


def _recording(folder: Path, name: str) -> Path:
    """The recording of a name without ending."""
    for ending in ENDINGS:
        if (folder / f"{name}{ending}").is_file():
            return file_inside(folder, f"{name}{ending}")
    raise BankError(f"{folder / name}: no such recording; download the whole of its source")


def find_notes(recorded: Recorded, folder: Path) -> list[Played]:
    """Recordings of an instrument, lowest first.

    Raises:
        BankError: there are none, or one lies outside of the folder.
    """
    if recorded.sfz:
        regions = read_regions(file_inside(folder, recorded.sfz))
        found = [Played(file_inside(folder, r.sample), r.pitch, r.low_velocity) for r in regions]
    elif recorded.pitches:
        found = [Played(_recording(folder, name), p) for name, p in recorded.pitches.items()]
    else:
        found = []
        for path in sorted(folder.iterdir()):
            if matched := re.fullmatch(recorded.files, path.name):
                told = matched.groupdict()
                layer = told.get("layer")
                if layer is not None and layer not in recorded.layers:
                    continue
                pitch = int(told["midi"]) if told.get("midi") else midi_pitch(told["note"])
                softest = 0
                if layer is not None:
                    softest = 128 * recorded.layers.index(layer) // len(recorded.layers)
                inside = file_inside(folder, path.name)
                found.append(Played(inside, pitch + recorded.transpose, softest))
    if not found:
        raise BankError(f"{folder}: has no recordings of {recorded.name}; download it whole")
    return sorted(found, key=lambda played: (played.pitch, played.softest))


def thin_out(notes: Sequence[Played], spacing: float) -> list[Played]:
    """The lowest of some notes, and from there on every one that is far enough from the last.

    >>> notes = [Played(Path(), pitch) for pitch in (40, 42, 45, 46, 50)]
    >>> [note.pitch for note in thin_out(notes, 4)]
    [40, 45, 50]
    """
    taken: list[Played] = []
    for note in notes:
        if not taken or note.pitch - taken[-1].pitch >= spacing:
            taken.append(note)
    return taken


def key_ranges(roots: Sequence[float]) -> list[tuple[int, int]]:
    """First and last key of each of some notes, ascending: halfway to the neighbours, all keys.

    >>> key_ranges([40.0, 45.1, 52.0])
    [(0, 42), (43, 48), (49, 127)]
    """
    tops = [int((low + high) // 2) for low, high in pairwise(roots)]
    return list(zip([0, *(top + 1 for top in tops)], [*tops, 127], strict=True))


def stand_in(key: int, drums: Sequence[int] | Mapping[int, object]) -> int:
    """The drum of a kit that is most like a key's.

    >>> stand_in(36, {36: "kick", 42: "hat"}), stand_in(46, {36: "kick", 42: "hat"})
    (36, 42)
    """

    def place(other: int) -> tuple[int, int]:
        for number, family in enumerate(FAMILIES):
            if other in family:
                return number, family.index(other)
        return len(FAMILIES), other

    family, position = place(key)

    def unlikeness(other: int) -> tuple[bool, int, int, int]:
        number, its = place(other)
        return other != key, abs(number - family), abs(its - position), other

    return min(drums, key=unlikeness)


def describe(table: Table, bank: Bank) -> str:
    """What a bank took of which source, under which licence, as Markdown."""
    lines = [
        "| source | state | licence | attribution | recordings | seconds | becomes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, used in bank.used.items():
        source = table.sources[name]
        lines.append(
            f"| {source.address} (`{name}`) | {source.commit} | {source.licence} | "
            f"{source.attribution} | {used.recordings} | {used.seconds:.1f} | "
            f"{'; '.join(used.presets or ())} |"
        )
    total = sum(used.seconds for used in bank.used.values())
    return "\n".join([*lines, "", f"{total:.0f} seconds in all.", ""])


def write_bank(path: Path, sources: Path, table: Table | None = None) -> Bank:
    """Write a soundfont of recorded notes, and beside it what it took from where (`.md`).

    Args:
        path: of the new file: `.sf2`, or `.sf3` with compressed samples, a sixth as large.
        sources: folder of the downloaded sources, each in its place as the table says.
        table: which sources; None for the one beside this module.

    Raises:
        BankError: a source is there in part, or cannot be read; or none is there.
    """
    table = read_table() if table is None else table
    bank = make_bank(table, sources)
    with replacing(path) as partial:
        compressed = path.suffix.lower() == ".sf3"
        partial.write_bytes(soundfont_file(bank.instruments, TITLE, compressed=compressed))
    write_text(path.with_suffix(".md"), describe(table, bank))
    return bank


@click.command("recorded_bank", cls=ToldCommand, help=__doc__)
@click.argument("path", metavar="OUT", type=FILE)
@click.option("--sources", type=FOLDER, required=True, help="Folder of the downloaded sources.")
def main(path: Path, sources: Path) -> None:
    bank = write_bank(path, sources)
    for name in bank.absent:
        click.echo(f"{sources / name}: not there, left out")
    seconds = sum(used.seconds for used in bank.used.values())
    size = path.stat().st_size / 1e6
    click.echo(f"{path}: {len(bank.instruments)} presets, {seconds:.0f} s, {size:.1f} MB")


if __name__ == "__main__":
    main()
