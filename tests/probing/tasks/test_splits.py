"""Splits of our own: no artist twice, the same for a seed, kept in a file."""

import json
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from task_layouts import MTG, giantsteps_folder

from myna_plugin.common.errors import InputError
from myna_plugin.probing.tasks import TASKS, Item, load_items
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.splits import (
    FRACTIONS,
    FRACTIONS_BESIDE_TEST,
    apply_splits,
    assign_splits,
    save_splits,
)
from myna_plugin.probing.tasks.task import UNSPLIT

pytest_plugins = ("tiny_data_sets",)


def catalogue(n_artists: int = 60, seed: int = 1) -> list[Item]:
    """Artists with 1 to 6 tracks of 2 clips."""
    generator = random.Random(seed)
    return [
        Item(f"{a}-{t}-{c}", f"{a}-{t}", Path("x.wav"), "rock", UNSPLIT, artist=f"Artist {a}")
        for a in range(n_artists)
        for t in range(generator.randint(1, 6))
        for c in range(2)
    ]


def test_no_artist_is_in_two_splits_and_shares_are_kept():
    items = assign_splits(catalogue(), FRACTIONS)
    splits = defaultdict(set)
    for item in items:
        splits[item.artist].add(item.split)
    assert all(len(of_artist) == 1 for of_artist in splits.values())
    sizes = Counter(item.split for item in items)
    largest = max(Counter(item.artist for item in items).values())
    for split, share in FRACTIONS.items():
        assert abs(sizes[split] - share * len(items)) <= largest


def test_order_of_items_does_not_matter_but_the_seed_does():
    items = catalogue()
    splits = {item.clip_id: item.split for item in assign_splits(items, FRACTIONS)}
    shuffled = random.Random(5).sample(items, len(items))
    assert splits == {item.clip_id: item.split for item in assign_splits(shuffled, FRACTIONS)}
    assert splits != {item.clip_id: item.split for item in assign_splits(items, FRACTIONS, seed=1)}


def test_given_splits_stay_and_tracks_stand_in_for_unknown_artists():
    items = [replace(item, artist=None) for item in catalogue()]
    items[:10] = [replace(item, split="test") for item in items[:10]]
    done = assign_splits(items, FRACTIONS_BESIDE_TEST)
    assert {item.split for item in done[:10]} == {"test"}
    assert {item.split for item in done[10:]} == {"train", "valid"}
    of_track = defaultdict(set)
    for item in done[10:]:
        of_track[item.track_id].add(item.split)
    assert all(len(splits) == 1 for splits in of_track.values())


def test_saved_splits_come_back(tmp_path):
    items = assign_splits(catalogue(), FRACTIONS)
    save_splits(tmp_path / "splits.json", items, "a rule")
    assert apply_splits(tmp_path / "splits.json", catalogue()) == items


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "no 'splits'"), ('{"splits": {"0-0": "dev"}}', "track '0-0': .*'dev'"), ("[", "JSON")],
)
def test_bad_split_files_are_named(tmp_path, content, message):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError, match=f"splits.json.*{message}"):
        apply_splits(tmp_path / "splits.json", catalogue())


@pytest.fixture
def without_artists(tmp_path) -> Path:
    """GiantSteps with 24 more tracks, without the table that names artists."""
    giantsteps_folder(tmp_path)
    (tmp_path / MTG / "annotations" / "beatport_metadata.txt").unlink()
    with (tmp_path / MTG / "annotations" / "annotations.txt").open("a") as table:
        table.writelines(f"{7_000_000 + i}\t{key}\t2\n" for i, key in enumerate(KEYS))
    return tmp_path


def test_a_made_split_is_saved_and_used_again(without_artists):
    task, path = TASKS["giantsteps"], without_artists / "giantsteps.splits.json"
    items = load_items(task, without_artists)
    saved = json.loads(path.read_text())
    assert "seed 0" in saved["rule"]
    assert "no artists are known" in saved["rule"]
    assert {item.track_id: item.split for item in items} == saved["splits"]
    moved = next(track for track, split in saved["splits"].items() if split == "train")
    saved["splits"][moved] = "valid"
    path.write_text(json.dumps(saved))
    again = load_items(task, without_artists)
    assert {i.split for i in again if i.track_id == moved} == {"valid"}


def test_a_named_split_file_overrides_any_list(built, tmp_path):
    task, root = TASKS["giantsteps"], built("giantsteps", "folder")
    other = {"train": "valid", "valid": "test", "test": "train"}
    items = [replace(item, split=other[item.split]) for item in load_items(task, root)]
    save_splits(tmp_path / "mine.json", items, "turned round")
    assert load_items(task, root, split_file=tmp_path / "mine.json") == items
    with pytest.raises(InputError, match=r"nowhere\.json: no such file"):
        load_items(task, root, split_file=tmp_path / "nowhere.json")
