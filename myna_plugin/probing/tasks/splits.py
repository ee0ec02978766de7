"""Splits of our own, for clips that no public list splits: artist-disjoint, seeded, saved."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from myna_plugin.common.errors import reason
from myna_plugin.common.files import read_json_object, write_json
from myna_plugin.probing.tasks.task import SPLITS, UNSPLIT, Item, TaskError

SEED = 0

FRACTIONS: dict[str, float] = {"train": 0.8, "valid": 0.1, "test": 0.1}
"""Shares of the clips where nothing is split yet."""

FRACTIONS_BESIDE_TEST: dict[str, float] = {"train": 0.8, "valid": 0.2}
"""Shares of the rest where the test clips are given."""


PUBLISHED_FOLD_RULE = "published folds: one tests, the next validates, the rest train"

FOLD_RULE = f"cross-validated: one fold tests, the next validates, the rest train; seed {SEED}"


def assign_folds(
    items: Sequence[Item], n_folds: int, test_fold: int, seed: int = SEED
) -> list[Item]:
    """Split items by cross-validation, so that no artist is in two folds.

    Artists are shuffled by the seed, then each goes to the fold that has fewest clips. A clip
    without an artist counts as its track. The result does not depend on the order of the items.
    Clips whose split is a fold's number already, as published, keep it.

    Args:
        items: clips, unsplit or of a fold.
        n_folds: number of folds, at least 3.
        test_fold: which one tests, from 0; the next one validates, the rest train.
        seed: of the shuffle.

    Returns:
        The items in their order, all with a split.
    """
    share = {str(fold): 1 / n_folds for fold in range(n_folds)}
    dealt = assign_splits(items, share, seed)
    splits = {str(test_fold): "test", str((test_fold + 1) % n_folds): "valid"}
    return [replace(item, split=splits.get(item.split, "train")) for item in dealt]


def assign_splits(
    items: Sequence[Item], fractions: Mapping[str, float], seed: int = SEED
) -> list[Item]:
    """Give every unsplit item a split, so that no artist is in two of them.

    Artists are shuffled by the seed, then each goes to the split that lacks most clips. A clip
    without an artist counts as its track. The result does not depend on the order of the items.

    Args:
        items: clips; those with a split keep it.
        fractions: share of the unsplit clips for each split, adding up to 1.
        seed: of the shuffle.

    Returns:
        The items in their order, all with a split.
    """
    groups: dict[str, int] = defaultdict(int)
    for item in items:
        if item.split == UNSPLIT:
            groups[_group(item)] += 1
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    lacking = {split: share * sum(groups.values()) for split, share in fractions.items()}
    chosen: dict[str, str] = {}
    for name in names:
        chosen[name] = max(lacking, key=lambda split: lacking[split])
        lacking[chosen[name]] -= groups[name]
    return [
        replace(item, split=chosen[_group(item)]) if item.split == UNSPLIT else item
        for item in items
    ]


def _group(item: Item) -> str:
    return f"artist {item.artist}" if item.artist else f"track {item.track_id}"


def save_splits(path: Path, items: Sequence[Item], rule: str) -> None:
    """Write the split of every track, with the rule that made it.

    Raises:
        TaskError: the file cannot be written.
    """
    splits = {item.track_id: item.split for item in items}
    try:
        write_json(path, {"rule": rule, "splits": dict(sorted(splits.items()))})
    except OSError as error:
        raise TaskError(
            f"{path}: the split cannot be saved ({reason(error)}); name another file"
        ) from error


def apply_splits(path: Path, items: Sequence[Item]) -> list[Item]:
    """Items with the splits of a file that `save_splits` wrote.

    Raises:
        TaskError: the file cannot be read, lacks a track, or has a split that is not one.
    """
    splits = read_json_object(path).get("splits")
    if not isinstance(splits, dict):
        raise TaskError(f"{path}: no 'splits', a mapping from track to split")
    for item in items:
        if splits.get(item.track_id) not in SPLITS:
            raise TaskError(
                f"{path}: track {item.track_id!r}: expected one of {', '.join(SPLITS)}, "
                f"got {splits.get(item.track_id)!r}"
            )
    return [replace(item, split=splits[item.track_id]) for item in items]
