"""Key syntax, and the rule that splits the MTG set by artist."""

import pytest
from task_layouts import KEY, MTG, giantsteps_folder

from myna_plugin.probing.tasks import TASKS, TaskError, load_items
from myna_plugin.probing.tasks.giantsteps import KEYS, artist_splits, parse_key, parse_key_file


def test_every_key_is_known_in_every_spelling():
    sharps = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}
    assert len(set(KEYS)) == 24
    for key in KEYS:
        tonic, mode = key.split()
        for spelling in (tonic, tonic.lower(), sharps.get(tonic, tonic)):
            assert parse_key(f"{spelling} {mode}") == key


@pytest.mark.parametrize(
    "text", ["", "-", "C", "H major", "C dorian", "f minor / c minor", "Cb major"]
)
def test_what_is_not_one_key_is_refused(text):
    with pytest.raises(TaskError, match="is not a key"):
        parse_key(text)


@pytest.mark.parametrize(
    ("text", "key", "confidence"),
    [
        ("D major", "D major", "2"),  # the Key set's key/
        ("#@format: key\ttimestamp(float)\tkey(string)\nkey 0 D major\n", "D major", "2"),
        ("d# minor\t2\t\n", "d# minor", "2"),  # the MTG set's key/
        ("a minor\t1\tdifficult to decide between relatives\n", "a minor", "1"),
        ("#@format: key\ttimestamp(float)\tkey(string)\nkey\t0\td# minor\t2\t\n", "d# minor", "2"),
        ("-\t0\t\n", "-", "0"),
        (" \t0\t\n", "", "0"),
        ("g minor / c# minor\t2\tlocrian mode\n", "g minor / c# minor", "2"),
        ("", "", "2"),
    ],
)
def test_key_files(text, key, confidence):
    assert parse_key_file(text) == (key, confidence)


def test_artists_are_split_as_in_jukemir():
    """Names from its metadata whose hashes lie next to the boundary, 97 … 101 of 116."""
    train = ["Nu-Tone", "Phantom", "Black Motion", "Kai Acid"]
    valid = ["Kato", "Last Hope", "Pole Folder", "Original Sin"]
    splits = artist_splits([*train, *valid])
    assert splits == dict.fromkeys(train, "train") | dict.fromkeys(valid, "valid")


def test_collaborators_follow_over_two_steps():
    # The table's order counts: each pass goes down it once.
    splits = artist_splits(
        ["Black Motion, Nu-Tone", "Nu-Tone, Phantom", "Phantom, Kato", "Kai Acid"]
    )
    assert splits == {
        "Black Motion": "train",
        "Nu-Tone": "valid",
        "Phantom": "valid",
        "Kato": "valid",
        "Kai Acid": "train",
    }


def test_key_files_stand_in_for_the_table(tmp_path):
    giantsteps_folder(tmp_path)
    items = load_items(TASKS["giantsteps"], tmp_path)
    (tmp_path / MTG / "annotations" / "annotations.txt").unlink()
    assert sorted(map(str, load_items(TASKS["giantsteps"], tmp_path))) == sorted(map(str, items))


def test_missing_audio_is_expected_in_its_own_repository(tmp_path):
    giantsteps_folder(tmp_path)
    for path in tmp_path.rglob("*.mp3"):
        path.unlink()
    for item in load_items(TASKS["giantsteps"], tmp_path):
        repository = KEY if item.split == "test" else MTG
        assert item.path.parent == tmp_path / repository / "audio"
