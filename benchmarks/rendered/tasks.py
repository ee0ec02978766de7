"""Render four probe tasks in HEAR's format from scores: key, style, instruments and notes.

\b
    python -m benchmarks.rendered.tasks out/rendered --composed 300 \\
        --train 400 --valid 100 --test 200
    python -m benchmarks.rendered.tasks out/rendered --scores data/scores --workers 16
    python -m benchmarks.rendered.tasks out/rendered --midi ~/midi \\
        --soundfonts fluid.sf2 --test-soundfonts other.sf2

One set of clips serves all tasks: OUT/rendered_key, OUT/rendered_style, OUT/rendered_instruments
and OUT/rendered_notes share their audio. Works are split by group, so no work is in two splits, and
the test split alone is played with the held-out soundfont. Every clip has a transposition, tempo,
instruments, tuning, room, microphone, noise and level of its own; half have percussion. Clips of
works whose keys are known come from spans in which the key does not change.

`recipes.probe --task hear` and `hear-eval` run the tasks, `benchmarks.rendered.table` compares
models on them. OUT/provenance.json says what went in, OUT/clips.jsonl what every clip is.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from benchmarks.rendered.clips import NOTE_PITCHES, Rendered, render_clips
from benchmarks.rendered.rows import KEY_TASK, NOTES_TASK, SCENE_TASKS, STYLE_TASK, TAGS_TASK
from myna_plugin.common.cores import available_cores
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.files import write_json, write_text
from myna_plugin.common.options import FILE, FOLDER, NON_NEGATIVE_INT, SEED, WORKERS, Number
from myna_plugin.common.provenance import now, versions
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.probing.tasks import Item, Task, TaskError, validate_items
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.hear_format import write_task
from myna_plugin.probing.tasks.task import SPLITS, ClipRule
from recipes.rendered.instruments import TAGS
from recipes.rendered.performance import PROGRAMS
from recipes.rendered.scores import Score, ScoreError
from recipes.rendered.soundfont_writer import write_soundfont
from recipes.rendered.soundfonts import (
    HELD_OUT,
    SoundfontError,
    digest_soundfonts,
    find_soundfonts,
    find_training_soundfonts,
    programs_of,
    soundfont_digest,
)
from recipes.rendered.sources import Sources

SIZES = (8000, 1500, 3000)
"""Clips to train, validate and test with."""

NOTES_SIZES = (600, 100, 200)
"""How many of them the notes task takes."""

CLIP_SECONDS = 10.0

SELF_MADE = 2
"""Self-made soundfonts to train with where no other is found."""


def scene_task(name: str, clips: Sequence[Rendered], seconds: float) -> tuple[Task, list[Rendered]]:
    """One of the scene tasks, and the clips that it can use.

    Raises:
        TaskError: the clips do not make such a task; the message says why.
    """
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    loss: Literal["cross_entropy", "bce"]
    if name == KEY_TASK:
        loss = "cross_entropy"
        labels, metrics = KEYS, ("weighted_key_score", "weighted_key_score_both_fifths", "accuracy")
        used = [clip for clip in clips if clip.key is not None]
    elif name == STYLE_TASK:
        labels, metrics, loss = _classes_everywhere(clips), ("accuracy",), "cross_entropy"
        used = [clip for clip in clips if clip.style in labels]
    else:
        labels, metrics = _tags_everywhere(clips), ("roc_auc_macro", "average_precision_macro")
        loss, used = "bce", list(clips)
    task = Task(
        name=name,
        title=name.replace("_", " ").capitalize(),
        source="rendered scores",
        labels=labels,
        loss=loss,
        metrics=metrics,
        primary=metrics[0],
        reported_as={},
        split_rule="by group of works; the test split has a soundfont of its own",
        clip_rule=ClipRule(f"whole files, {seconds:g} s", duration_s=seconds),
    )
    if len(labels) < 2:
        raise TaskError(f"{name}: fewer than two classes are in every split")
    return task, used


def _classes_everywhere(clips: Iterable[Rendered]) -> tuple[str, ...]:
    """Styles that every split has, in alphabetical order."""
    by_split = [{clip.style for clip in clips if clip.split == split} for split in SPLITS]
    return tuple(sorted(set.intersection(*by_split) - {""}))


def _tags_everywhere(clips: Sequence[Rendered]) -> tuple[str, ...]:
    """Tags that some but not all clips of every split have: only these can be scored."""

    def varies(tag: str, split: str) -> bool:
        return len({tag in clip.tags for clip in clips if clip.split == split}) == 2

    return tuple(tag for tag in TAGS if all(varies(tag, split) for split in SPLITS))


def _target(name: str, clip: Rendered, labels: Sequence[str]) -> str | tuple[str, ...]:
    if name == TAGS_TASK:
        return tuple(tag for tag in clip.tags if tag in labels)
    return str(clip.key) if name == KEY_TASK else clip.style


def write_scene_task(
    name: str, clips: Sequence[Rendered], out: Path, seconds: float, workers: int
) -> str:
    """Write one of the scene tasks from the audio in OUT/audio.

    Returns:
        What was written or why it was not, for the reader.
    """
    try:
        task, used = scene_task(name, clips, seconds)
        folder = out / name
        paths = link_audio(used, out / "audio", folder)
        items = [
            Item(clip.name, clip.facts["work"], path, _target(name, clip, task.labels), clip.split)
            for clip, path in zip(used, paths, strict=True)
        ]
        validate_items(task, items)
    except TaskError as error:
        shutil.rmtree(out / name, ignore_errors=True)
        return f"{name}: left out ({error})"
    write_task(task, items, folder, jobs=workers)
    return describe(name, used, len(task.labels))


def link_audio(clips: Iterable[Rendered], audio: Path, folder: Path) -> list[Path]:
    """Link clips into a task folder as 16000/SPLIT/NAME.wav; the paths of the links.

    Hard links: the task folder can be moved or packed alone, and takes no further space here.
    """
    paths = []
    for split in SPLITS:
        (folder / str(SAMPLE_RATE) / split).mkdir(parents=True, exist_ok=True)
    for clip in clips:
        source = audio / clip.split / f"{clip.name}.wav"
        path = folder / str(SAMPLE_RATE) / clip.split / source.name
        try:
            os.link(source, path)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, path)
        paths.append(path)
    return paths


def write_notes_task(
    clips: Sequence[Rendered], sizes: Mapping[str, int], out: Path, seconds: float
) -> str:
    """Write the events task from the first clips of each split.

    Args:
        clips: all clips.
        sizes: clips of each split at most; classes of style follow one another, so they stay even.
        out: the folder that has `audio`.
        seconds: length of a clip.

    Returns:
        What was written, for the reader.
    """
    folder = out / NOTES_TASK
    used = []
    for split in SPLITS:
        chosen = [clip for clip in clips if clip.split == split][: sizes[split]]
        used += chosen
        folder.mkdir(parents=True, exist_ok=True)
        events = {f"{clip.name}.wav": _as_events(clip) for clip in chosen}
        write_text(folder / f"{split}.json", json.dumps(events) + "\n")
    link_audio(used, out / "audio", folder)
    text = io.StringIO()
    rows = [("idx", "label"), *((i, str(pitch)) for i, pitch in enumerate(NOTE_PITCHES))]
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder / "labelvocabulary.csv", text.getvalue())
    metadata = {
        "task_name": NOTES_TASK,
        "version": "1.0.0",
        "embedding_type": "event",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "sample_duration": seconds,
        "evaluation": ["event_onset_50ms_fms", "segment_1s_er"],
        "evaluation_params": {
            "event_postprocessing_grid": {"median_filter_ms": [0, 150], "min_duration": [50, 100]}
        },
        "splits": list(SPLITS),
    }
    write_json(folder / "task_metadata.json", metadata)
    return describe(NOTES_TASK, used, len(NOTE_PITCHES))


def _as_events(clip: Rendered) -> list[dict[str, Any]]:
    return [{"label": str(pitch), "start": on, "end": off} for on, off, pitch in clip.events]


def describe(name: str, clips: Sequence[Rendered], n_labels: int) -> str:
    """A line about a task: its labels, and the clips of each split."""
    sizes = Counter(clip.split for clip in clips)
    return f"{name}: {n_labels} labels, " + ", ".join(f"{sizes[s]} {s}" for s in SPLITS)


def check_groups(scores: Iterable[Score]) -> None:
    """Refuse scores in which one group of works is in two splits.

    Raises:
        ScoreError: names the group.
    """
    splits: dict[str, str] = {}
    for score in scores:
        if splits.setdefault(score.group, score.split) != score.split:
            raise ScoreError(
                f"group {score.group!r} is in {splits[score.group]} and {score.split}: a work "
                "would be tested that was trained on"
            )


def make_tasks(
    scores: Sequence[Score],
    out: Path,
    *,
    sizes: Mapping[str, int],
    notes_sizes: Mapping[str, int],
    soundfonts: Mapping[str, Sequence[str]],
    seconds: float,
    seed: int,
    workers: int,
    command: str = "",
) -> list[str]:
    """Render the clips and write all tasks; OUT appears whole or not at all.

    Args:
        scores: works of all splits.
        out: folder to make.
        sizes: clips of each split.
        notes_sizes: clips of each split that the notes task takes at most.
        soundfonts: paths, by split.
        seconds: length of a clip.
        seed: of everything; the number of workers changes nothing.
        workers: processes.
        command: for the record.

    Returns:
        A line about each task.

    Raises:
        ScoreError: scores without works in some split, or with a group in two.
        TaskError: `out` is there already.
    """
    if out.exists():
        raise TaskError(f"{out}: exists; remove it or write elsewhere")
    check_groups(scores)
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
    clips = render_clips(
        scores, sizes, soundfonts, part / "audio", seconds=seconds, seed=seed, workers=workers
    )
    lines = [write_scene_task(name, clips, part, seconds, workers) for name in SCENE_TASKS]
    lines.append(write_notes_task(clips, notes_sizes, part, seconds))
    # Every task has links of its own, and hear-eval takes each folder here for a task.
    shutil.rmtree(part / "audio")
    facts = "".join(json.dumps(clip.facts, ensure_ascii=False) + "\n" for clip in clips)
    write_text(part / "clips.jsonl", facts)
    provenance = {
        "command": command,
        "date": now(),
        "versions": versions(("numpy", "scipy", "tinysoundfont", "pretty_midi")),
        "seed": seed,
        "clip_seconds": seconds,
        "tasks": lines,
        "clips": dict(sizes),
        "works": count_works(scores),
        "soundfonts": {split: digest_soundfonts(paths) for split, paths in soundfonts.items()},
    }
    write_json(part / "provenance.json", provenance)
    os.replace(part, out)
    return lines


def count_works(scores: Iterable[Score]) -> dict[str, int]:
    """How many works there are of each corpus and licence."""
    counts = Counter((score.corpus, score.licence) for score in scores)
    return {
        f"{corpus} ({licence or 'licence not stated'})": n
        for (corpus, licence), n in sorted(counts.items())
    }


def choose_soundfonts(
    train: Sequence[Path], test: Sequence[Path], own: Path
) -> dict[str, tuple[str, ...]]:
    """Soundfonts by split: one never trained with tests.

    Args:
        train: to train and validate with; empty for those found on this machine, or self-made
            ones where there are none.
        test: to test with; empty for `HELD_OUT`.
        own: folder for self-made soundfonts.

    Raises:
        SoundfontError: none to test with, or one is in both or lacks programs.
    """
    found = [path for path in find_soundfonts() if path.name == HELD_OUT]
    if not test and not found:
        raise SoundfontError(
            f"no {HELD_OUT} to test with; install pretty_midi, which brings it, or name another "
            "soundfont with --test-soundfonts"
        )
    test = list(test) or found[:1]
    if not train:
        train = find_training_soundfonts()
    if not train:
        own.mkdir(parents=True, exist_ok=True)
        train = [own / f"own-{seed}.sf2" for seed in range(SELF_MADE)]
        for seed, path in enumerate(train):
            write_soundfont(path, seed)
    held_out = {soundfont_digest(str(path)) for path in test}
    for path in train:
        if soundfont_digest(str(path)) in held_out:
            raise SoundfontError(f"{path}: is to be trained and tested with; name another")
    for path in (*train, *test):
        if len(programs_of(str(path))) < len(PROGRAMS):
            raise SoundfontError(f"{path}: lacks programs that labels would name; name another")
    training, testing = tuple(map(str, train)), tuple(map(str, test))
    return {"train": training, "valid": training, "test": testing}


SIZE = Number(int, 1, 99_999)  # names have five digits


@click.command("benchmarks.rendered.tasks", cls=ToldCommand, help=__doc__)
@click.argument("out", type=FOLDER)
@click.option("--scores", multiple=True, type=FOLDER, help="Folder with works.jsonl and notes.npz.")
@click.option("--midi", multiple=True, type=FOLDER, help="Folder of MIDI files.")
@click.option("--composed", type=NON_NEGATIVE_INT, default=0, help="Works to compose.")
@click.option("--train", type=SIZE, default=SIZES[0], show_default=True, help="Clips.")
@click.option("--valid", type=SIZE, default=SIZES[1], show_default=True, help="Clips.")
@click.option("--test", type=SIZE, default=SIZES[2], show_default=True, help="Clips.")
@click.option(
    "--notes",
    type=(SIZE, SIZE, SIZE),
    default=NOTES_SIZES,
    show_default=True,
    help="Clips of the notes task, by split: heareval keeps every frame in memory.",
)
@click.option(
    "--clip-seconds", type=Number(float, 1, 3600), default=CLIP_SECONDS, show_default=True
)
@click.option("--soundfonts", multiple=True, type=FILE, help="To train and validate with.")
@click.option("--test-soundfonts", multiple=True, type=FILE, help="To test with alone.")
@SEED
@WORKERS
def main(
    out: Path,
    scores: tuple[Path, ...],
    midi: tuple[Path, ...],
    composed: int,
    train: int,
    valid: int,
    test: int,
    notes: tuple[int, int, int],
    clip_seconds: float,
    soundfonts: tuple[Path, ...],
    test_soundfonts: tuple[Path, ...],
    seed: int,
    workers: int | None,
) -> None:
    sources = Sources(tuple(map(str, scores)), tuple(map(str, midi)), composed, seed=seed)
    own = out.with_name(f"{out.name}.soundfonts")
    lines = make_tasks(
        sources.load(),
        out,
        sizes=dict(zip(SPLITS, (train, valid, test), strict=True)),
        notes_sizes=dict(zip(SPLITS, notes, strict=True)),
        soundfonts=choose_soundfonts(soundfonts, test_soundfonts, own),
        seconds=clip_seconds,
        seed=seed,
        workers=workers or available_cores(),
        command=shlex.join(["python", "-m", "benchmarks.rendered.tasks", *sys.argv[1:]]),
    )
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
