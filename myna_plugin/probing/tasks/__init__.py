"""The probe tasks: what they are, where their clips lie, how they are scored.

>>> from myna_plugin.probing.tasks import TASKS, check, load_items
>>> task = TASKS["gtzan"]
>>> items = load_items(task, Path("data/gtzan"))        # doctest: +SKIP
>>> print(check(task, items).text())                    # doctest: +SKIP
"""

from pathlib import Path

from myna_plugin.common.plugins import PluginTable
from myna_plugin.probing.tasks import (
    ballroom,
    emomusic,
    emotify,
    fma,
    giantsteps,
    gtzan,
    guitarset,
    hear_format,
    jamendo,
    loading,
    magnatagatune,
    medley_solos,
    mridangam,
    nsynth,
    openmic,
    tinysol,
    vocalset,
)
from myna_plugin.probing.tasks.checking import CheckReport, check, usable_items
from myna_plugin.probing.tasks.loading import LAYOUTS, Layout, load_items
from myna_plugin.probing.tasks.task import Item, Task, TaskError, encode_targets, validate_items

BUILT_IN: dict[str, Task] = {
    "magnatagatune": magnatagatune.TASK,
    "gtzan": gtzan.TASK,
    "giantsteps": giantsteps.TASK,
    "emomusic": emomusic.TASK,
    "emotify_genre": emotify.GENRE,
    "emotify_emotion": emotify.EMOTION,
    "mridangam_stroke": mridangam.STROKE,
    "mridangam_tonic": mridangam.TONIC,
    "nsynth_instrument": nsynth.INSTRUMENT,
    "nsynth_pitch": nsynth.PITCH,
    "medley_solos_db": medley_solos.TASK,
    "tinysol_instrument": tinysol.INSTRUMENT,
    "tinysol_pitch": tinysol.PITCH,
    "vocalset_technique": vocalset.TECHNIQUE,
    "vocalset_singer": vocalset.SINGER,
    "fma_small": fma.TASK,
    "openmic": openmic.TASK,
    "jamendo_top50": jamendo.TOP_50_TAGS,
    "jamendo_genre": jamendo.GENRE,
    "jamendo_instrument": jamendo.INSTRUMENT,
    "jamendo_moodtheme": jamendo.MOOD,
    "ballroom_beats": ballroom.TASK,
    "guitarset_notes": guitarset.TASK,
}
"""The paper's four tasks (§4.2), and tasks on recordings that anyone can get, by name."""

TASKS: PluginTable[Task] = PluginTable("myna_plugin.tasks", Task, BUILT_IN, TaskError)
"""These, and the tasks that other distributions add in the entry-point group of that name."""

HEAR = "hear"
"""The name under which any scene task in HEAR's format is loaded."""


def load_task(
    name: str,
    root: Path,
    layout: Layout = "auto",
    metadata: Path | None = None,
    split_file: Path | None = None,
    test_fold: int = 0,
) -> tuple[Task, list[Item]]:
    """A task and its clips.

    Args:
        name: a key of `TASKS`, or "hear" for a HEAR task folder.
        root: the data folder; for "hear" the task folder.
        layout: see `load_items`.
        metadata: see `load_items`.
        split_file: see `load_items`.
        test_fold: which fold of a k-fold task tests, from 0.

    Raises:
        TaskError: an unknown name, or data that cannot be used; the message says which.
    """
    task, folds = load_folds(name, root, layout, metadata, split_file, test_fold)
    return task, folds[test_fold]


def load_folds(
    name: str,
    root: Path,
    layout: Layout = "auto",
    metadata: Path | None = None,
    split_file: Path | None = None,
    test_fold: int | None = None,
) -> tuple[Task, dict[int, list[Item]]]:
    """As `load_task`, for every fold that can test, or one of them; the data are read once."""
    if name == HEAR:
        task, folds = hear_format.read_folds(root, test_fold)
        for items in folds.values():
            validate_items(task, items)
        return task, folds
    if name not in TASKS:
        raise TaskError(f"no task {name!r}; there are {', '.join((*TASKS, HEAR))}")
    task = TASKS[name]
    return task, loading.load_folds(task, root, layout, metadata, split_file, test_fold)


__all__ = [
    "HEAR",
    "LAYOUTS",
    "TASKS",
    "CheckReport",
    "Item",
    "Layout",
    "Task",
    "TaskError",
    "check",
    "encode_targets",
    "load_folds",
    "load_items",
    "load_task",
    "usable_items",
]
