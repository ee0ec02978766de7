"""Render scores straight into a store for pre-training, in factorial blocks.

A block is a few passages, each with each of a few instrumentations, each in each of a few
transpositions, in consecutive rows of the store. Tempo, tuning, the players' manner and the
percussion are common to a block. So within a block some clips differ in key alone, some in
instruments alone, some in the notes alone.

\b
Examples:
  python -m recipes.rendered.store store --composed 500 --hours 1
  python -m recipes.rendered.store store --scores scores --licence CC0 \\
      --split train --hours 200 --workers 16 --soundfonts FluidR3Mono_GM.sf3
  python -m recipes.rendered.store store --midi my_midi_files --split all \\
      --hours 10 --transpositions 12

A run that was stopped, even killed, goes on where it was when the same command is given again.
Exit status: 0 done, 1 failed (disk full, ...), 2 bad input or too little disk, 130 interrupted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np

from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import ToldCommand, say
from myna_plugin.common.files import check_disk, read_json, write_json
from myna_plugin.common.options import POSITIVE_FLOAT
from myna_plugin.pretraining.store.preparation import FRAMES_PER_HOUR, INDEX_BYTES_PER_FILE
from myna_plugin.pretraining.store.reading import (
    CLIP,
    FILE,
    FRAME_BYTES,
    MADE_OF,
    Index,
    StoreError,
    StoreSettings,
    read_arrays,
)
from myna_plugin.pretraining.store.texts import Texts
from myna_plugin.pretraining.store.writing import (
    WORK,
    publish,
    write_arrays,
    write_settings,
    writing,
)
from recipes.rendered.blocks import RECORDINGS, StorePlan
from recipes.rendered.shards import (
    Layout,
    ShardJob,
    columns_path,
    fill_shards,
    shard_jobs,
    store_settings,
)
from recipes.rendered.soundfont_writer import write_soundfont
from recipes.rendered.soundfonts import (
    digest_soundfonts,
    find_training_soundfonts,
    programs_of,
    soundfont_digest,
)
from recipes.rendered.sources import Sources


def write_store(
    store: Path,
    plan: StorePlan,
    hours: float,
    workers: int,
    command: Sequence[str] = (),
    device: str = "cpu",
) -> Index:
    """Make a store of rendered clips, or go on with one that was interrupted.

    Args:
        store: its folder.
        plan: what decides the clips; they do not depend on `workers`.
        hours: least length of audio; whole blocks are made.
        workers: processes, one thread each.
        command: for the record.
        device: where clips are put together if the plan is to do so from samples.

    Returns:
        The index of the complete store.

    Raises:
        StoreError: the folder holds something, was begun with another plan, or its disk is too
            small.
        ScoreError: the scores cannot be used.
        SoundfontError: a soundfont cannot be used.
    """
    for soundfont in plan.soundfonts:
        programs_of(soundfont)
    fill = functools.partial(fill_shards, plan=plan, store=store, workers=workers, device=device)
    record = {
        "command": list(command),
        "plan": asdict(plan),
        "soundfonts": digest_soundfonts(plan.soundfonts),
    }
    return write_blocks(store, plan, hours, _what_decides(plan), fill, record)


def write_blocks(
    store: Path,
    plan: Layout,
    hours: float,
    decides: Mapping[str, Any],
    fill: Callable[[Sequence[ShardJob]], Iterable[None]],
    record: Mapping[str, Any],
) -> Index:
    """Make a store of blocks, or go on with one that was interrupted.

    Args:
        store: its folder.
        plan: of its blocks.
        hours: least length of audio; whole blocks are made.
        decides: all that the bytes depend on, beside hours and versions.
        fill: writes shards by `write_shard`.
        record: what it is made of, for the reader.

    Returns:
        The index of the complete store.

    Raises:
        StoreError: the folder holds something, was begun with another plan, or its disk is too
            small.
    """
    n_blocks = math.ceil(hours * 3600 / (plan.clip_seconds * plan.clips_per_block))
    made = n_blocks * plan.clips_per_block * plan.clip_seconds / 3600
    everything = {**decides, "hours": made, "versions": _versions()}
    decided = {name: np.array(json.dumps(value)) for name, value in everything.items()}
    jobs = shard_jobs(plan, n_blocks)
    with writing(store):
        _begin(store, plan, decided)
        unfinished = [job for job in jobs if not columns_path(store, job).exists()]
        if len(unfinished) < len(jobs):
            say(f"{store}: going on, {len(unfinished)} of {len(jobs)} shards are left")
        n_clips = plan.clips_per_block * sum(job.stop - job.first for job in unfinished)
        clip_bytes = store_settings(plan).clip_frames * FRAME_BYTES
        check_disk(store, n_clips * (clip_bytes + INDEX_BYTES_PER_FILE), StoreError)
        for _ in fill(unfinished):
            pass
        parts = [read_arrays(columns_path(store, job)) for job in jobs]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        index = _index_of(columns, store_settings(plan))
        write_json(store / MADE_OF, {**record, **_counted(columns)}, indent=1)
        publish(store, index)
        (store / WORK / "plan.npz").unlink()
    return index


def _begin(store: Path, plan: Layout, decided: dict[str, np.ndarray]) -> None:
    """Make a folder a store that is begun, or see that it was begun alike."""
    plan_path = store / WORK / "plan.npz"
    if plan_path.exists():
        begun = read_arrays(plan_path)
        differing = [name for name, value in decided.items() if begun.get(name) != value]
        if differing:
            raise StoreError(
                f"{store}: was begun with other {', '.join(differing)}; go on with the same "
                "options and files, delete the folder to begin anew, or give another one"
            )
        return
    if (store / "index.npz").exists():
        raise StoreError(f"{store}: is a complete store; give another folder for a new one")
    write_settings(store, store_settings(plan))
    for left_over in (store / "shards").glob("*.npy"):
        left_over.unlink()
    write_arrays(plan_path, decided)


def _what_decides(plan: StorePlan) -> dict[str, Any]:
    """All that a rendered store's bytes depend on, by name, but for its hours."""
    digest = hashlib.sha256()
    for score in plan.sources.load():
        digest.update(ascii((len(score.notes), replace(score, notes=score.notes[:0]))).encode())
        digest.update(score.notes.tobytes())
    fonts = [(path, soundfont_digest(path)) for path in plan.soundfonts]
    return {**asdict(plan), "scores": digest.hexdigest(), "soundfonts": fonts}


def _index_of(columns: dict[str, np.ndarray], settings: StoreSettings) -> Index:
    names = columns["names"].tolist()
    clips = np.zeros(len(names), CLIP)
    clips["file"], clips["frames"] = np.arange(len(names)), settings.clip_frames
    files = np.zeros(len(names), FILE)
    files["clips"] = 1
    files["clamped"] = columns["clamped"]
    return Index(clips, columns["row"], files, Texts.of(names), Texts.of(b"" for _ in names), 1)


def _counted(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "versions": _versions(),
        "worker_seconds": round(float(columns["seconds"].sum()), 3),
        "clips_by_licence": Counter(columns["licences"].tolist()),
        "clips_by_work": dict(sorted(Counter(columns["works"].tolist()).items())),
    }


def _versions() -> dict[str, str]:
    """Of what decides the bytes; a store of recordings is made without the synthesiser."""
    names = ("numpy", "scipy", "tinysoundfont", "torch")
    return {name: version(name) for name in names if find_spec(name)}


COUNT = click.IntRange(min=1)


@click.command("store", cls=ToldCommand, help=__doc__)
@click.argument("store", metavar="STORE", type=click.Path(path_type=Path))
@click.option("--scores", multiple=True, metavar="DIR", help="Folder of works.jsonl + notes.npz.")
@click.option("--midi", multiple=True, metavar="DIR", help="Folder of MIDI files.")
@click.option(
    "--composed",
    type=click.IntRange(min=0),
    default=0,
    help="Works composed by the program itself. Default: 300 if nothing else is given.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    default="train",
    show_default=True,
)
@click.option("--licence", metavar="NAME", help="Take works of this licence alone, such as CC0.")
@click.option(
    "--soundfonts",
    multiple=True,
    metavar="FILE",
    help="General MIDI soundfont (.sf2, .sf3); given twice, it is drawn twice as often.",
)
@click.option(
    "--drawn-soundfonts",
    type=click.IntRange(min=0),
    default=0,
    help="Make so many soundfonts of drawn instruments beside STORE and use them as well; "
    "1 if none is named or found.",
)
@click.option("--hours", type=POSITIVE_FLOAT, required=True, help="Length of all clips together.")
@click.option("--clip-seconds", type=POSITIVE_FLOAT, default=15.0, show_default=True)
@click.option("--passages", type=COUNT, default=2, show_default=True, help="Of a block.")
@click.option("--instrumentations", type=COUNT, default=2, show_default=True, help="Likewise.")
@click.option("--transpositions", type=COUNT, default=4, show_default=True, help="Likewise.")
@click.option(
    "--recording",
    type=click.Choice(RECORDINGS),
    default="changing",
    show_default=True,
    help="When rooms, microphones and noise are drawn anew; changing: within clips, too.",
)
@click.option(
    "--percussion",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of blocks.",
)
@click.option(
    "--sampled",
    metavar="DEVICE",
    help="Put clips together, on this device (auto, cpu, cuda, cuda:N), from notes that the "
    "soundfonts play once, instead of playing every clip: nearly the same sound, with a GPU "
    "many times faster.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--workers", type=COUNT, help="Processes. Default: cores.")
def main(
    store: Path,
    scores: tuple[str, ...],
    midi: tuple[str, ...],
    composed: int,
    split: str,
    licence: str | None,
    soundfonts: tuple[str, ...],
    drawn_soundfonts: int,
    hours: float,
    sampled: str | None,
    seed: int,
    workers: int | None,
    **shape: Any,
) -> None:
    began = time.perf_counter()
    if not (scores or midi or composed):
        composed = 300
    sources = Sources(scores, midi, composed, None if split == "all" else split, licence, seed)
    fonts = _choose_soundfonts(store, soundfonts, drawn_soundfonts, seed)
    plan = StorePlan(sources, fonts, seed=seed, sampled=sampled is not None, **shape)
    device = choose_device(sampled or "cpu")
    command = ["python", "-m", "recipes.rendered.store", *sys.argv[1:]]
    index = write_store(store, plan, hours, workers or available_cores(), command, device)
    summarise(store, index, time.perf_counter() - began)


def _choose_soundfonts(
    store: Path, named: tuple[str, ...], n_drawn: int, seed: int
) -> tuple[str, ...]:
    """Those named, or else one found on this machine; and drawn ones, at least where none is."""
    chosen = list(named) or [str(path) for path in find_training_soundfonts()[:1]]
    folder = store.with_name(f"{store.name}.soundfonts")
    for number in range(n_drawn or (0 if chosen else 1)):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"drawn-{seed}-{number}.sf2"
        if not path.exists():
            write_soundfont(path, seed=1000 * seed + number)
        chosen.append(str(path))
    return tuple(chosen)


def summarise(store: Path, index: Index, seconds: float) -> None:
    worked = read_json(store / MADE_OF)["worker_seconds"]
    hours = int(index.shards["frames"].sum()) / FRAMES_PER_HOUR
    click.echo(
        f"{store}: {len(index.clips):,} clips, {hours:,.2f} hours, {seconds:,.0f} s; "
        f"{worked:,.0f} s of work in all, {hours * 3600 / worked:,.0f} times real time a worker"
    )
    if clamped := int(index.files["clamped"].sum()):
        click.echo(f"values clamped to float16's range: {clamped:,}")


if __name__ == "__main__":
    main()
