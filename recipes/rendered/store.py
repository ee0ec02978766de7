"""Render scores straight into a store for pre-training, in factorial blocks.

A block is a few passages, each with each of a few instrumentations, each in each of a few
transpositions, in consecutive rows of the store. Tempo, tuning, the players' manner and the
percussion are common to a block. So within a block some clips differ in key alone, some in
instruments alone, some in the notes alone.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from myna_plugin.common.devices import DeviceError, choose_device
from myna_plugin.common.worker_pool import WorkerDiedError
from myna_plugin.pretraining.store.preparation import (
    FRAMES_PER_HOUR,
    INDEX_BYTES_PER_FILE,
    RejectedError,
    cut_clips,
    settings_of,
)
from myna_plugin.pretraining.store.reading import (
    CLIP,
    FILE,
    FRAME_BYTES,
    Index,
    StoreError,
    StoreSettings,
    Texts,
    read_arrays,
)
from myna_plugin.pretraining.store.writing import (
    WORK,
    check_disk,
    publish,
    replacing,
    write_arrays,
    write_settings,
    write_shard_file,
    writing,
)
from recipes.rendered.blocks import RECORDINGS, ClipPlan, Plan, Sources, draw_block
from recipes.rendered.render import render_clip, run_in_workers
from recipes.rendered.sampled_blocks import (
    ClipFacts,
    Drawn,
    RenderedClips,
    draw_blocks,
    render_drawn,
)
from recipes.rendered.sampler import NoteBank, NoteIndex, instruments_of, make_bank
from recipes.rendered.scores import ScoreError
from recipes.rendered.soundfont_writer import write_soundfont
from recipes.rendered.soundfonts import (
    SoundfontError,
    find_training_soundfonts,
    load_soundfont,
    soundfont_digest,
)

BAD_INPUT = 2
INTERRUPTED = 130
FAILED = 1

RECORD = "rendered.json"
MOST_ATTEMPTS = 10
"""Times that a block with a silent clip is drawn before the soundfonts are called unusable."""

LEAST_SHARDS = 400
"""Not a function of the workers, so that a store is the same with any number of them."""

COMMAND = "python -m recipes.rendered.store"

EXAMPLES = f"""\
examples:
  {COMMAND} store --composed 500 --hours 1
  {COMMAND} store --scores scores --licence CC0 --split train --hours 200 --workers 16 \\
      --soundfonts FluidR3Mono_GM.sf3
  {COMMAND} store --midi my_midi_files --split all --hours 10 --transpositions 12

A run that was stopped, even killed, goes on where it was when the same command is given again.

exit status: 0 done, 1 failed (disk full, ...), 2 bad input or too little disk, 130 interrupted"""


@dataclass(frozen=True)
class ShardJob:
    """Blocks `first` to `stop` (exclusive), which become shard `number`."""

    number: int
    first: int
    stop: int


def fill_shard(job: ShardJob, plan: Plan, store: Path) -> None:
    """Render some blocks and write them and, last, what they are made of: the work of a worker."""
    began = time.perf_counter()
    settings = store_settings(plan)
    mels: list[np.ndarray] = []
    facts: list[ClipFacts] = []
    clamped: list[int] = []
    for block in range(job.first, job.stop):
        for clip, mel, n_clamped in render_block(plan, block, settings):
            mels.append(mel)
            clamped.append(n_clamped)
            facts.append(ClipFacts.of(clip))
    _write_shard(store, job, mels, facts, clamped, began)


def _write_shard(
    store: Path,
    job: ShardJob,
    mels: Sequence[np.ndarray],
    facts: Sequence[ClipFacts],
    clamped: Sequence[int],
    began: float,
) -> None:
    columns = {
        "row": write_shard_file(store, job.number, mels),
        "names": np.array([os.fsencode(clip.name) for clip in facts]),
        "clamped": np.array(clamped),
        "works": np.array([clip.work for clip in facts]),
        "licences": np.array([clip.licence for clip in facts]),
        "seconds": np.array([time.perf_counter() - began]),
    }
    write_arrays(_columns_path(store, job), columns)


def _columns_path(store: Path, job: ShardJob) -> Path:
    """What is there when a shard is finished."""
    return store / WORK / f"{job.number:06d}.npz"


def render_block(
    plan: Plan, number: int, settings: StoreSettings
) -> list[tuple[ClipPlan, np.ndarray, int]]:
    """Render a block: for each clip its plan, its mel power (float16), and values clamped.

    A block with a silent clip, where a soundfont lacks what was asked for, is drawn anew.

    Raises:
        SoundfontError: blocks come out silent again and again.
    """
    for attempt in range(MOST_ATTEMPTS):
        rendered = []
        try:
            for clip in draw_block(plan, number, attempt):
                sound = render_clip(
                    clip.score, clip.performance, clip.soundfont, plan.clip_seconds, clip.recording
                )
                cut = cut_clips(torch.from_numpy(sound.waveform), settings)
                rendered.append((clip, cut.mels[0], cut.clamped))
        except RejectedError:
            continue
        return rendered
    raise _renders_silence(plan)


def _renders_silence(plan: Plan) -> SoundfontError:
    fonts = ", ".join(dict.fromkeys(plan.soundfonts))
    return SoundfontError(f"{fonts}: renders silence; give a General MIDI soundfont")


def fill_shards_by_samples(
    jobs: Sequence[ShardJob], plan: Plan, store: Path, workers: int, device: str
) -> Iterator[None]:
    """Render shards from samples of the soundfonts' notes: workers draw, a device renders.

    Yields after every shard.
    """
    bank = make_bank(instruments_of(plan.soundfonts), workers, device)
    draw = functools.partial(_draw_shard, plan=plan, index=bank.index)
    drawn = run_in_workers(draw, jobs, workers, total=len(jobs), unit="shard")
    with ThreadPoolExecutor(1) as writer:
        written = None
        for job, shard in zip(jobs, drawn, strict=True):
            began = time.perf_counter()
            facts, rendered = _render_until_heard(job, shard, bank, plan)
            if written is not None:
                written.result()
            written = writer.submit(
                _write_shard, store, job, rendered.mels, facts, rendered.clamped, began
            )
            yield
        if written is not None:
            written.result()


def _draw_shard(job: ShardJob, plan: Plan, index: NoteIndex) -> Drawn:
    return draw_blocks([(block, 0) for block in range(job.first, job.stop)], plan, index)


def _render_until_heard(
    job: ShardJob, drawn: Drawn, bank: NoteBank, plan: Plan
) -> tuple[list[ClipFacts], RenderedClips]:
    """Render a shard, and blocks that have a silent clip anew from other chance."""
    facts, rendered = drawn.clips, render_drawn(drawn, bank, plan.clip_seconds)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        blocks = np.unique(np.flatnonzero(rendered.silent) // plan.clips_per_block)
        if not len(blocks):
            return facts, rendered
        again = draw_blocks([(job.first + int(b), attempt) for b in blocks], plan, bank.index)
        new = render_drawn(again, bank, plan.clip_seconds)
        rows = (blocks[:, None] * plan.clips_per_block + np.arange(plan.clips_per_block)).ravel()
        for row, clip in zip(rows, again.clips, strict=True):
            facts[row] = clip
        rendered.mels[rows], rendered.clamped[rows] = new.mels, new.clamped
        rendered.silent[rows] = new.silent
    raise _renders_silence(plan)


def store_settings(plan: Plan) -> StoreSettings:
    """How the store is cut: every clip is full."""
    return settings_of(clip_seconds=plan.clip_seconds, min_seconds=plan.clip_seconds)


def shard_jobs(plan: Plan, n_blocks: int) -> list[ShardJob]:
    """Blocks dealt out to shards of the usual size, or to smaller ones that keep workers busy."""
    settings = store_settings(plan)
    usual = settings.shard_frames // (settings.clip_frames * plan.clips_per_block)
    size = max(1, min(usual, math.ceil(n_blocks / LEAST_SHARDS)))
    starts = range(0, n_blocks, size)
    return [ShardJob(i, first, min(first + size, n_blocks)) for i, first in enumerate(starts)]


def write_store(
    store: Path,
    plan: Plan,
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
    settings = store_settings(plan)
    n_blocks = math.ceil(hours * 3600 / (plan.clip_seconds * plan.clips_per_block))
    for soundfont in plan.soundfonts:
        load_soundfont(soundfont)
    decided = _what_decides(plan, n_blocks)
    plan_path = store / WORK / "plan.npz"
    with writing(store):
        begun = plan_path.exists()
        if begun:
            _refuse_another_plan(store, read_arrays(plan_path), decided)
        elif (store / "index.npz").exists():
            raise StoreError(f"{store}: is a complete store; give another folder for a new one")
        jobs = shard_jobs(plan, n_blocks)
        unfinished = [job for job in jobs if not _columns_path(store, job).exists()]
        n_clips = plan.clips_per_block * sum(job.stop - job.first for job in unfinished)
        check_disk(store, n_clips * (settings.clip_frames * FRAME_BYTES + INDEX_BYTES_PER_FILE))
        if begun:
            print(f"{store}: going on, {len(unfinished)} of {len(jobs)} shards are left")
        else:
            write_settings(store, settings)
            for left_over in (store / "shards").glob("*.npy"):
                left_over.unlink()
            write_arrays(plan_path, decided)
        if plan.sampled:
            filled = fill_shards_by_samples(unfinished, plan, store, workers, device)
        else:
            fill = functools.partial(fill_shard, plan=plan, store=store)
            filled = run_in_workers(fill, unfinished, workers, total=len(unfinished), unit="shard")
        for _ in filled:
            pass
        parts = [read_arrays(_columns_path(store, job)) for job in jobs]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        index = _index_of(columns, settings)
        with replacing(store / RECORD) as file:
            file.write(_record(plan, columns, command).encode())
        publish(store, index)
        plan_path.unlink()
    return index


def _what_decides(plan: Plan, n_blocks: int) -> dict[str, np.ndarray]:
    """All that a store's bytes depend on, by name, as JSON."""
    digest = hashlib.sha256()
    for score in plan.sources.load():
        digest.update(ascii((len(score.notes), replace(score, notes=score.notes[:0]))).encode())
        digest.update(score.notes.tobytes())
    decided = {
        **asdict(plan),
        "scores": digest.hexdigest(),
        "soundfonts": [(path, soundfont_digest(path)) for path in plan.soundfonts],
        "hours": n_blocks * plan.clips_per_block * plan.clip_seconds / 3600,
        "versions": _versions(),
    }
    return {name: np.array(json.dumps(value)) for name, value in decided.items()}


def _refuse_another_plan(
    store: Path, begun: dict[str, np.ndarray], decided: dict[str, np.ndarray]
) -> None:
    differing = [name for name, value in decided.items() if begun.get(name) != value]
    if differing:
        raise StoreError(
            f"{store}: was begun with other {', '.join(differing)}; go on with the same options "
            "and files, delete the folder to begin anew, or give another one"
        )


def _index_of(columns: dict[str, np.ndarray], settings: StoreSettings) -> Index:
    names = columns["names"].tolist()
    clips = np.zeros(len(names), CLIP)
    clips["file"], clips["frames"] = np.arange(len(names)), settings.clip_frames
    files = np.zeros(len(names), FILE)
    files["clips"] = 1
    files["clamped"] = columns["clamped"]
    return Index(clips, columns["row"], files, Texts.of(names), Texts.of(b"" for _ in names), 1)


def _record(plan: Plan, columns: dict[str, np.ndarray], command: Sequence[str]) -> str:
    told = {
        "command": list(command),
        "plan": asdict(plan),
        "soundfonts": {Path(p).name: soundfont_digest(p) for p in plan.soundfonts},
        "versions": _versions(),
        "worker_seconds": round(float(columns["seconds"].sum()), 3),
        "clips_by_licence": Counter(columns["licences"].tolist()),
        "clips_by_work": dict(sorted(Counter(columns["works"].tolist()).items())),
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scipy", "tinysoundfont", "torch")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    command = [*COMMAND.split(), *(sys.argv[1:] if arguments is None else arguments)]
    began = time.perf_counter()
    try:
        plan = _plan_of(options)
        device = choose_device(options.sampled or "cpu")
        index = write_store(options.store, plan, options.hours, options.workers, command, device)
        _summarise(options.store, index, time.perf_counter() - began)
    except (DeviceError, ScoreError, SoundfontError, StoreError) as error:
        return _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on", INTERRUPTED)
    except torch.OutOfMemoryError:
        remedy = "name fewer soundfonts, or begin another store without --sampled"
        return _fail(f"the GPU has too little memory; {remedy}", FAILED)
    except (OSError, WorkerDiedError) as error:
        return _fail(f"{error}; the same command goes on", FAILED)
    return 0


def _plan_of(options: argparse.Namespace) -> Plan:
    if options.hours <= 0 or options.workers < 1:
        raise StoreError("--hours must be above 0 and --workers at least 1")
    any_source = options.scores or options.midi or options.composed
    sources = Sources(
        scores=tuple(options.scores),
        midi=tuple(options.midi),
        composed=options.composed if any_source else 300,
        split=None if options.split == "all" else options.split,
        licence=options.licence,
        seed=options.seed,
    )
    return Plan(
        sources=sources,
        soundfonts=_choose_soundfonts(options),
        passages=options.passages,
        instrumentations=options.instrumentations,
        transpositions=options.transpositions,
        clip_seconds=options.clip_seconds,
        recording=options.recording,
        percussion=options.percussion,
        seed=options.seed,
        sampled=options.sampled is not None,
    )


def _choose_soundfonts(options: argparse.Namespace) -> tuple[str, ...]:
    """Those named, or else one found on this machine; and drawn ones, at least where none is."""
    chosen = options.soundfonts or []
    if not chosen:
        chosen = [str(path) for path in find_training_soundfonts()[:1]]
    n_drawn = options.drawn_soundfonts or (0 if chosen else 1)
    folder = options.store.with_name(f"{options.store.name}.soundfonts")
    for number in range(n_drawn):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"drawn-{options.seed}-{number}.sf2"
        if not path.exists():
            write_soundfont(path, seed=1000 * options.seed + number)
        chosen = [*chosen, str(path)]
    return tuple(chosen)


def _summarise(store: Path, index: Index, seconds: float) -> None:
    worked = json.loads((store / RECORD).read_text(encoding="utf-8"))["worker_seconds"]
    hours = int(index.shards["frames"].sum()) / FRAMES_PER_HOUR
    print(
        f"{store}: {len(index.clips):,} clips, {hours:,.2f} hours, {seconds:,.0f} s; "
        f"{worked:,.0f} s of work in all, {hours * 3600 / worked:,.0f} times real time a worker"
    )
    if clamped := int(index.files["clamped"].sum()):
        print(f"values clamped to float16's range: {clamped:,}")


def _fail(message: str, status: int) -> int:
    print(f"store: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("store", metavar="STORE", type=Path, help="folder of the new store")
    add("--scores", metavar="DIR", nargs="+", default=[], help="folders of works.jsonl + notes.npz")
    add("--midi", metavar="DIR", nargs="+", default=[], help="folders of MIDI files")
    add("--composed", metavar="N", type=int, default=0, help="works composed by the program itself")
    add("--split", choices=["train", "valid", "test", "all"], default="train")
    add("--licence", metavar="NAME", help="take works of this licence alone, such as CC0")
    add("--soundfonts", metavar="FILE", nargs="+", help="General MIDI soundfonts (.sf2, .sf3)")
    add(
        "--drawn-soundfonts",
        metavar="N",
        type=int,
        default=0,
        help="make N soundfonts of drawn instruments beside STORE and use them as well; "
        "1 if none is named or found",
    )
    add("--hours", type=float, required=True, help="length of all clips together")
    add("--clip-seconds", metavar="S", type=float, default=15.0, help="default %(default)s")
    add("--passages", metavar="N", type=int, default=2, help="of a block; default %(default)s")
    add("--instrumentations", metavar="N", type=int, default=2, help="default %(default)s")
    add("--transpositions", metavar="N", type=int, default=4, help="default %(default)s")
    add(
        "--recording",
        choices=RECORDINGS,
        default="changing",
        help="when rooms, microphones and noise are drawn anew; changing: within clips, too",
    )
    add(
        "--fixed-recording",
        dest="recording",
        action="store_const",
        const="clip",
        help="the same as --recording clip",
    )
    add("--percussion", metavar="SHARE", type=float, default=0.5, help="default %(default)s")
    add(
        "--sampled",
        metavar="DEVICE",
        help="put clips together, on this device (auto, cpu, cuda, cuda:N), from notes that the "
        "soundfonts play once, instead of playing every clip: nearly the same sound, with a GPU "
        "many times faster",
    )
    add("--seed", type=int, default=0)
    add("--workers", metavar="N", type=int, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
