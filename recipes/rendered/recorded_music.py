"""Make a store of whole recordings in the blocks of a rendered one, to be merged with it.

A block is a few sounds of a few versions each, in consecutive rows. A sound is one recording,
played at one of a few speeds; its versions are passages of it. Every clip goes through rooms,
microphones and noise of its own, as rendered ones do.

\b
Examples:
  python -m recipes.rendered.recorded_music music --audio FOLDER --hours 150 --device cuda
  myna prepare --merge both rendered music

The table of what may be used, recorded_music.tsv, says for each recording where it is found, who
made it, under which licence, and where that is said. FOLDER holds them as NUMBER.ogg, NUMBER.mp3 or
the like; nothing is downloaded, and what is missing is told.

A run that was stopped, even killed, goes on where it was when the same command is given again.
Exit status: 0 done, 1 failed (disk full, ...), 2 bad input or too little disk, 130 interrupted.
"""

from __future__ import annotations

import functools
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.common.files import digest_path, read_rows
from myna_plugin.common.options import (
    DEVICE,
    FILE,
    FOLDER,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    SEED,
    WORKERS,
)
from myna_plugin.model.audio import SAMPLE_RATE, load_audio, resample
from myna_plugin.pretraining.store.reading import Index, StoreError
from recipes.rendered.recording import draw_recording
from recipes.rendered.recording_chain import apply_recordings, tabulate
from recipes.rendered.render import run_in_workers
from recipes.rendered.shards import (
    Attempt,
    ClipFacts,
    Rendered,
    ShardJob,
    as_stored,
    fill_from_draws,
)
from recipes.rendered.store import summarise, write_blocks

TABLE = Path(__file__).with_suffix(".tsv")

COLUMNS = ("number", "title", "artist", "licence", "evidence", "source")

LICENCE = re.compile(r"(CC0|PD|MIT|CC BY)( 2\.5| [34]\.0)?( \(.*\))?")
"""What a recording must have: public domain, attribution alone, or MIT's."""

SPEEDS = ((1, 1), (16, 15), (15, 16), (9, 8), (8, 9))
"""How much longer a recording is played: as it is, a semitone or a tone lower or higher."""

LONGEST_S = 240.0
"""Longer recordings are drawn as often as those of this length."""

FULL_SCALE = 32767

Played = list[np.ndarray]
"""A recording at every speed, int16."""


@dataclass(frozen=True)
class Track:
    """A recording: who made it, and under which licence it may be used."""

    title: str
    artist: str
    licence: str
    source: str
    path: Path


@dataclass(frozen=True)
class MusicPlan:
    """What decides every block, beside the recordings.

    Attributes:
        sounds: of a block, each of another recording.
        versions: passages of each.
        clip_seconds: length of a clip.
        seed: of everything.
    """

    sounds: int = 4
    versions: int = 4
    clip_seconds: float = 15.0
    seed: int = 0

    @property
    def clips_per_block(self) -> int:
        """Clips of a block."""
        return self.sounds * self.versions

    @property
    def clip_samples(self) -> int:
        """Samples of a clip."""
        return round(SAMPLE_RATE * self.clip_seconds)


@dataclass(frozen=True, eq=False)
class DrawnMusic:
    """Clips of some blocks, everything about them drawn.

    Attributes:
        facts: of each clip.
        places: recording, speed and first sample of each, int64 (clips, 3).
        pieces: of the recording chain.
    """

    facts: list[ClipFacts]
    places: np.ndarray
    pieces: np.ndarray


def read_tracks(table: Path, folder: Path) -> list[Track]:
    """The recordings of a table, found in a folder.

    Raises:
        InputError: the table has other columns, a licence does not match `LICENCE`, or a file is
            missing.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.*"), reverse=True)}
    tracks = []
    for place, row in read_rows(table, "\t"):
        if tuple(row) == COLUMNS:
            continue
        if len(row) != len(COLUMNS):
            raise InputError(
                f"{place}: the columns must be {', '.join(COLUMNS)}, with tabs between"
            )
        number, title, artist, licence, _, source = row
        if not LICENCE.fullmatch(licence):
            raise InputError(f"{place}: {licence} is not CC0, PD, CC BY or MIT")
        if number not in files:
            raise InputError(f"{folder}: has no {number}.*, which is {title} by {artist}: {source}")
        tracks.append(Track(title, artist, licence, source, files[number]))
    return tracks


def play(track: Track, least: int) -> Played:
    """A recording at every speed, repeated until it has so many samples."""
    sound = load_audio(track.path).numpy()
    played = []
    for up, down in SPEEDS:
        other = sound if up == down else resample(sound, 1000 * down, 1000 * up)
        other = other / max(float(np.abs(other).max(initial=0)), 1e-9) * FULL_SCALE
        whole = np.round(other).astype(np.int16)
        played.append(np.tile(whole, math.ceil(least / len(whole))))
    return played


def draw_music(
    attempts: Sequence[Attempt], plan: MusicPlan, tracks: Sequence[Track], lengths: np.ndarray
) -> DrawnMusic:
    """Draw all clips of some blocks.

    Args:
        attempts: numbers of the blocks, and how often each was drawn before.
        plan: of the store.
        tracks: the recordings.
        lengths: samples of each at every speed, (recordings, speeds).
    """
    facts, places, recordings = [], [], []
    weights = np.minimum(lengths[:, 0], LONGEST_S * SAMPLE_RATE)
    weights = weights / weights.sum()
    for block, attempt in attempts:
        rng = np.random.default_rng([plan.seed, block, attempt])
        for one in rng.choice(len(tracks), plan.sounds, replace=False, p=weights).tolist():
            track, speed = tracks[one], int(rng.integers(len(SPEEDS)))
            up, down = SPEEDS[speed]
            for version in range(plan.versions):
                start = int(rng.integers(lengths[one, speed] - plan.clip_samples + 1))
                places.append((one, speed, start))
                recordings.append(draw_recording(rng, plan.clip_seconds, changing=True))
                name = (
                    f"{plan.seed}/{block:07d}/{track.path.stem} {track.title} from "
                    f"{start * down / up / SAMPLE_RATE:.2f} s/{version}/{up}:{down}"
                )
                facts.append(ClipFacts(name, f"{track.artist}/{track.title}", track.licence))
    return DrawnMusic(facts, np.array(places), tabulate(recordings, plan.clip_samples))


@torch.inference_mode()
def record(drawn: DrawnMusic, bank: Sequence[Sequence[Tensor]], n_samples: int) -> Rendered:
    """Cut clips from recordings on a device, and record them."""
    places = drawn.places.tolist()
    cut = [bank[one][speed][start : start + n_samples] for one, speed, start in places]
    sound = torch.stack(cut).float()
    sound *= 0.5 / sound.abs().amax(1, keepdim=True).clamp(min=1)
    return Rendered(drawn.facts, *as_stored(apply_recordings(sound, drawn.pieces)))


def write_music(
    store: Path,
    plan: MusicPlan,
    tracks: Sequence[Track],
    hours: float,
    workers: int,
    command: Sequence[str] = (),
    device: str = "cpu",
) -> Index:
    """Make a store of recordings, or go on with one that was interrupted.

    Args:
        store: its folder.
        plan: what decides the clips, with the recordings; they do not depend on `workers`.
        tracks: the recordings.
        hours: least length of audio; whole blocks are made.
        workers: processes, one thread each.
        command: for the record.
        device: where clips are cut and recorded; it holds all recordings at all speeds.

    Returns:
        The index of the complete store.

    Raises:
        StoreError: there are fewer recordings than sounds in a block, one is silent, the folder
            holds something, was begun with another plan, or its disk is too small.
    """
    if len(tracks) < plan.sounds:
        raise StoreError(f"a block needs {plan.sounds} recordings, and there are {len(tracks)}")

    def fill(jobs: Sequence[ShardJob]) -> Iterator[None]:
        decode = functools.partial(play, least=plan.clip_samples)
        played = run_in_workers(
            decode, tracks, workers, total=len(tracks), description="decode", unit="track"
        )
        bank = [[torch.from_numpy(sound).to(device) for sound in one] for one in played]
        lengths = np.array([[len(sound) for sound in one] for one in bank])
        draw = functools.partial(draw_music, plan=plan, tracks=tracks, lengths=lengths)
        render = functools.partial(record, bank=bank, n_samples=plan.clip_samples)
        silence = StoreError("passages of these recordings are silent; leave silent ones out")
        yield from fill_from_draws(jobs, plan, store, workers, draw, render, silence)

    decides = {**asdict(plan), "recordings": [digest_path(track.path) for track in tracks]}
    told = [f"{t.title}, {t.artist} ({t.licence}), {t.source}" for t in tracks]
    made_of = {"command": list(command), "plan": asdict(plan), "recordings": told}
    return write_blocks(store, plan, hours, decides, fill, made_of)


@click.command("recorded_music", cls=ToldCommand, help=__doc__)
@click.argument("store", metavar="STORE", type=FOLDER)
@click.option("--audio", type=FOLDER, required=True, help="Folder of NUMBER.ogg, NUMBER.mp3, …")
@click.option("--tracks", type=FILE, default=TABLE, help="Another table than recorded_music.tsv.")
@click.option("--hours", type=POSITIVE_FLOAT, required=True, help="Length of all clips together.")
@click.option("--clip-seconds", type=POSITIVE_FLOAT, default=15.0, show_default=True)
@click.option("--sounds", type=POSITIVE_INT, default=4, show_default=True, help="Of a block.")
@click.option("--versions", type=POSITIVE_INT, default=4, show_default=True, help="Of a sound.")
@SEED
@WORKERS
@DEVICE
def main(
    store: Path,
    audio: Path,
    tracks: Path,
    hours: float,
    clip_seconds: float,
    sounds: int,
    versions: int,
    seed: int,
    workers: int | None,
    device: str,
) -> None:
    began = time.perf_counter()
    plan = MusicPlan(sounds, versions, clip_seconds, seed)
    command = ["python", "-m", "recipes.rendered.recorded_music", *sys.argv[1:]]
    index = write_music(
        store,
        plan,
        read_tracks(tracks, audio),
        hours,
        workers or available_cores(),
        command,
        choose_device(device),
    )
    summarise(store, index, time.perf_counter() - began)


if __name__ == "__main__":
    main()
