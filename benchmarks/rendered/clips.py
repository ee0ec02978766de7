"""Clips of the rendered benchmark: audio from scores, and what is true about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.probing.tasks.clips import write_wav
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.task import SPLITS
from recipes.rendered.instruments import draw_programs, sounding_tags
from recipes.rendered.performance import draw_performance
from recipes.rendered.recording import draw_recording
from recipes.rendered.render import render_clip, run_in_workers
from recipes.rendered.scores import Score, ScoreError

PIANISTS_STYLES = {
    "dcml_chopin_mazurkas": "mazurka",
    "dcml_grieg_lyric_pieces": "lyric_piece",
}
"""Corpora whose style is narrower than the one that they are filed under."""

NOTE_PITCHES = range(21, 109)
"""MIDI pitches that are labels of the notes task: the piano's 88."""

SAME_ONSET_S = 0.05
"""Notes of one pitch that begin this close together are one event: nobody could tell them apart."""

WORKS_FOR_WORKERS = 32
"""Works from which on processes are started."""

Class = tuple[str, str]
"""Split and style."""


@dataclass(frozen=True)
class Order:
    """A clip to be rendered.

    Attributes:
        name: of the clip.
        split: train, valid or test.
        seed: of all that is drawn for it.
        soundfonts: one of these plays it.
    """

    name: str
    split: str
    seed: tuple[int, ...]
    soundfonts: tuple[str, ...]


@dataclass(frozen=True)
class WorkOrders:
    """Clips to be rendered from one work.

    Attributes:
        score: the work.
        orders: the clips.
        seconds: length of a clip.
        folder: where their audio goes, as SPLIT/NAME.wav.
    """

    score: Score
    orders: tuple[Order, ...]
    seconds: float
    folder: Path


@dataclass(frozen=True)
class Rendered:
    """What is true about a clip.

    Attributes:
        name: of the clip.
        split: train, valid or test.
        key: one of `KEYS`; None if unknown.
        style: class, "" if unknown.
        tags: instrument families, in the order of `TAGS`.
        events: (onset in ms, offset in ms, MIDI pitch) of every note.
        facts: how it was made.
    """

    name: str
    split: str
    key: str | None
    style: str
    tags: tuple[str, ...]
    events: tuple[tuple[float, float, int], ...]
    facts: dict[str, Any]


def style_of(score: Score) -> str:
    """Class of a work in the style task, "" if unknown."""
    return PIANISTS_STYLES.get(score.corpus, score.style)


def note_events(notes: np.ndarray, seconds: float) -> tuple[tuple[float, float, int], ...]:
    """Notes of a clip as events.

    Args:
        notes: of a `render.Clip`: onset and offset in seconds, pitch, program; shape (n, 4).
        seconds: length of the clip.

    Returns:
        (onset in ms, offset in ms, MIDI pitch) within the clip, by onset. Notes of one pitch that
        begin together are one event, as long as the longest; pitches beyond the piano's are left
        out.

    >>> notes = np.array([[-1, 0.5, 60, 0], [2.0, 2.5, 64, 0], [2.01, 2.8, 64, 40], [9, 12, 60, 0]])
    >>> note_events(notes, 10.0)
    ((0.0, 500.0, 60), (2000.0, 2800.0, 64), (9000.0, 10000.0, 60))
    """
    events: list[tuple[float, float, int]] = []
    last: dict[int, int] = {}
    for onset, offset, pitch in sorted(
        (max(onset, 0.0), min(offset, seconds), int(pitch))
        for onset, offset, pitch, _ in notes.tolist()
    ):
        if pitch not in NOTE_PITCHES or offset <= onset:
            continue
        before = last.get(pitch)
        if before is not None and onset - events[before][0] < SAME_ONSET_S:
            events[before] = (events[before][0], max(offset, events[before][1]), pitch)
            continue
        last[pitch] = len(events)
        events.append((onset, offset, pitch))
    return tuple((round(1000 * on, 1), round(1000 * off, 1), pitch) for on, off, pitch in events)


def render_order(score: Score, order: Order, seconds: float, folder: Path) -> Rendered | None:
    """Render a clip and write its audio; None if the work has no passage for it."""
    rng = np.random.default_rng(order.seed)
    performance = draw_performance(score, seconds, rng, constant_key=bool(score.keys))
    if performance is None:
        return None
    performance = replace(performance, programs=draw_programs(rng))
    soundfont = order.soundfonts[int(rng.integers(len(order.soundfonts)))]
    recording = draw_recording(rng, seconds)
    clip = render_clip(score, performance, soundfont, seconds, recording)
    write_wav(folder / order.split / f"{order.name}.wav", clip.waveform, SAMPLE_RATE)
    drums = performance.drums
    facts = {
        "name": order.name,
        "split": order.split,
        "corpus": score.corpus,
        "work": score.work,
        "group": score.group,
        "licence": score.licence,
        "start_s": round(performance.start_s, 3),
        "transposition": performance.transposition,
        "tempo": round(performance.tempo, 4),
        "programs": list(clip.programs),
        "percussion": None if drums is None else drums.pattern,
        "soundfont": Path(soundfont).name,
    }
    key = None if clip.key is None else KEYS[12 * clip.key[1] + clip.key[0]]
    return Rendered(
        order.name,
        order.split,
        key,
        style_of(score),
        sounding_tags(clip.notes, seconds),
        note_events(clip.notes, seconds),
        facts,
    )


def render_work(work: WorkOrders) -> list[Rendered | None]:
    """Render all clips that are ordered from one work, in order."""
    return [render_order(work.score, order, work.seconds, work.folder) for order in work.orders]


def share_out(sizes: Mapping[str, int], classes: Iterable[Class]) -> dict[Class, list[str]]:
    """Names of clips by class, the classes of a split in equal numbers.

    Raises:
        ScoreError: a split has no class.

    >>> share_out({"test": 3}, [("test", "lied"), ("test", "rag")])
    {('test', 'lied'): ['test-00000', 'test-00002'], ('test', 'rag'): ['test-00001']}
    """
    clips: dict[Class, list[str]] = {}
    known = sorted(classes)
    for split, size in sizes.items():
        of_split = [label for label in known if label[0] == split]
        if not of_split:
            raise ScoreError(f"no work is in split {split!r}: give more works")
        for i, label in enumerate(of_split[:size]):
            clips[label] = [f"{split}-{number:05d}" for number in range(i, size, len(of_split))]
    return clips


def order_clips(
    works: Mapping[Class, Sequence[int]],
    missing: Mapping[Class, Sequence[str]],
    soundfonts: Mapping[str, Sequence[str]],
    seed: tuple[int, ...],
) -> dict[int, tuple[Order, ...]]:
    """Deal out the clips of each class evenly to the works of that class.

    Args:
        works: numbers of works, by class.
        missing: names of clips, by class.
        soundfonts: paths, by split.
        seed: what each clip's own seed begins with.

    Returns:
        Orders by work.

    >>> works, clips = {("test", "rag"): [4, 7]}, {("test", "rag"): ["test-0", "test-1", "test-2"]}
    >>> orders = order_clips(works, clips, {"test": ["a.sf2"]}, (5,))
    >>> {work: [order.name for order in of_work] for work, of_work in orders.items()}
    {4: ['test-0', 'test-2'], 7: ['test-1']}
    """
    orders: dict[int, tuple[Order, ...]] = defaultdict(tuple)
    for label, names in missing.items():
        split = label[0]
        for place, name in enumerate(names):
            own = (*seed, SPLITS.index(split), int(name.rpartition("-")[2]))
            order = Order(name, split, own, tuple(soundfonts[split]))
            orders[works[label][place % len(works[label])]] += (order,)
    return dict(orders)


def render_clips(
    scores: Sequence[Score],
    sizes: Mapping[str, int],
    soundfonts: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    seconds: float,
    seed: int,
    workers: int,
) -> list[Rendered]:
    """Render the clips of all splits, the styles of a split in equal numbers.

    A work in which no passage is found (too sparse, or its key changes too often) gives its clips
    to the other works of its style.

    Args:
        scores: works of all splits.
        sizes: clips of each split.
        soundfonts: paths, by split.
        folder: where audio goes, as SPLIT/NAME.wav.
        seconds: length of a clip.
        seed: of everything.
        workers: processes.

    Returns:
        By name, which starts with the split.

    Raises:
        ScoreError: a style has no work with a passage.
    """
    works: dict[Class, list[int]] = defaultdict(list)
    for number in np.random.default_rng(seed).permutation(len(scores)).tolist():
        works[scores[number].split, style_of(scores[number])].append(number)
    missing = share_out(sizes, works)
    for split in sizes:
        (folder / split).mkdir(parents=True)
    done: dict[str, Rendered] = {}
    attempt = 0
    while missing:
        orders = order_clips(works, missing, soundfonts, (seed, attempt))
        jobs = [WorkOrders(scores[work], own, seconds, folder) for work, own in orders.items()]
        # Starting processes takes longer than the few clips that a second attempt is about.
        processes = workers if len(jobs) > WORKS_FOR_WORKERS else 1
        results = run_in_workers(render_work, jobs, processes, total=len(jobs), unit="work")
        failed = set()
        for work, rendered in zip(orders, results, strict=True):
            done |= {clip.name: clip for clip in rendered if clip is not None}
            if None in rendered:
                failed.add(work)
        left = {label: [n for n in names if n not in done] for label, names in missing.items()}
        missing = {label: names for label, names in left.items() if names}
        for split, style in missing:
            works[split, style] = [work for work in works[split, style] if work not in failed]
            if not works[split, style]:
                raise ScoreError(
                    f"{split}: no work of style {style!r} has a passage of {seconds:g} s "
                    "that sounds and stays in one key; give shorter clips or more works"
                )
        attempt += 1
    return [done[name] for name in sorted(done)]
