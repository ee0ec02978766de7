"""The rule that splits EmoMusic's development set, and its z-scores."""

import numpy as np
import pytest
from task_layouts import emomusic_folder

from myna_plugin.probing.tasks import TASKS, load_items
from myna_plugin.probing.tasks.emomusic import OFFICIAL_SET, artist_split


@pytest.mark.parametrize(
    ("artist", "split"),
    [
        # From JukeMIR's metadata; hashes 7 and 8 of 10.
        ("Jason Shaw", "train"),
        ("Advent Chamber Orchestra-Dvorak", "train"),
        ("Big Bill Broonzy", "valid"),
        ("Paul  Wine  Jones", "valid"),
    ],
)
def test_artists_are_split_as_in_jukemir(artist, split):
    assert artist_split(artist) == split


def test_only_ascii_letters_of_a_name_count():
    assert artist_split("Sláinte 2") == artist_split("SLINTE") == artist_split("  sl-inte")


def test_z_scores_are_of_the_development_set(tmp_path):
    emomusic_folder(tmp_path)
    items = load_items(TASKS["emomusic"], tmp_path)
    known = np.array([item.target for item in items if item.split != "test"])
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(known.std(axis=0), 1, atol=1e-12)
    everything = np.array([item.target for item in items])
    assert abs(everything.mean()) > 1e-3


def test_without_the_official_set_a_split_is_made_by_artist(tmp_path):
    emomusic_folder(tmp_path)
    songs = tmp_path / "songs_info.csv"
    songs.write_text(songs.read_text().replace(OFFICIAL_SET, "another column"))
    items = load_items(TASKS["emomusic"], tmp_path)
    artists = {s: {i.artist for i in items if i.split == s} for s in ("train", "valid", "test")}
    assert all(artists.values())
    assert not artists["train"] & artists["test"]
    assert not artists["train"] & artists["valid"]
    assert "disjoint by artist" in (tmp_path / "emomusic.splits.json").read_text()
