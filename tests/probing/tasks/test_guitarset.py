"""GuitarSet in its real layout: notes of all strings, a fold a player, faults named."""

import json
from itertools import chain

import pytest
from task_layouts import ONE_LAYOUT, write_jams, write_text

from myna_plugin.common.errors import InputError
from myna_plugin.probing.tasks import check, hear_format, load_folds
from myna_plugin.probing.tasks.guitarset import read_folder, read_notes
from myna_plugin.probing.tasks.hear_folder import read_folder as read_hear
from myna_plugin.probing.tasks.task import Note

NAME = "00_BN1-129-Eb_comp"


@pytest.fixture
def root(tmp_path):
    ONE_LAYOUT["guitarset_notes"][0](tmp_path / "data")
    return tmp_path / "data"


def literal_notes(path):
    """All `note_midi` of a file as it stands, and nothing of its other annotations."""
    data = [
        own["data"]
        for own in json.loads(path.read_text())["annotations"]
        if own["namespace"] == "note_midi"
    ]
    return sorted(
        (note["time"], note["time"] + note["duration"], str(round(note["value"])))
        for note in chain.from_iterable(data)
    )


def test_notes_are_those_of_all_strings(root):
    for path in (root / "annotation").iterdir():
        notes = read_notes(path)
        assert list(notes) == literal_notes(path)
        assert {note.label for note in notes} == {"45", "69", "81"}


def test_pitches_are_rounded_and_early_onsets_moved(tmp_path):
    values = [(-0.25, 0.5, 59.5), (1, 0, 60.49), (0.5, 0.25, 58.5)]
    notes = [dict(zip(("time", "duration", "value"), own, strict=True)) for own in values]
    write_jams(tmp_path / "a.jams", [[], notes, [], [], [], []])
    expected = (Note(0.0, 0.25, "60"), Note(0.5, 0.75, "59"), Note(1.0, 1.0, "60"))
    assert read_notes(tmp_path / "a.jams") == expected


def test_each_player_tests_and_the_next_validates(root):
    task, folds = load_folds("guitarset_notes", root)
    assert (task.folds, list(folds)) == (6, [0, 1, 2, 3, 4, 5])
    for number, items in folds.items():
        players = {split: set() for split in ("train", "valid", "test")}
        for item in items:
            players[item.split].add(int(item.path.name[:2]))
        following = (number + 1) % 6
        assert (players["test"], players["valid"]) == ({number}, {following})
        assert players["train"] == set(range(6)) - {number, following}


def test_archives_unpacked_into_one_folder_are_read_too(root):
    items = read_folder(root)
    for file in [*root.glob("*/*")]:
        file.rename(root / file.name)
    for folder in ("annotation", "audio_mono-mic"):
        (root / folder).rmdir()
    again = read_folder(root)
    assert [(i.clip_id, i.target) for i in again] == [(i.clip_id, i.target) for i in items]
    assert all(item.path.is_file() for item in again)


def test_written_folds_are_heareval_s(root, tmp_path):
    task, folds = load_folds("guitarset_notes", root)
    items = hear_format.by_fold(folds)
    assert len(items) == 12
    hear_format.write_task(task, items, tmp_path / "hear", sample_rate=8_000)
    written = read_hear(tmp_path / "hear")
    assert (written.embedding_type, written.prediction_type) == ("event", "multilabel")
    assert written.metrics == ("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms")
    assert list(written.splits) == [f"fold0{player}" for player in range(6)]
    for fold, way in zip(folds.values(), written.ways, strict=True):
        for split, names in way.items():
            files = {file for name in names for file in written.splits[name]}
            assert files == {f"{i.clip_id}.wav" for i in fold if i.split == split}
    events = {name: found for own in written.splits.values() for name, found in own.items()}
    for item in items:
        assert [
            (event["start"], event["end"], event["label"])
            for event in events[f"{item.clip_id}.wav"]
        ] == [
            (pytest.approx(1000 * on, abs=1e-3), pytest.approx(1000 * off, abs=1e-3), label)
            for on, off, label in item.target
        ]


def edited(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    write_text(path, json.dumps(content))


def first_note(**fields):
    def edit(content):
        string = next(own for own in content["annotations"] if own["namespace"] == "note_midi")
        string["data"].insert(0, {"time": 1.0, "duration": 0.1, "value": 45.0} | fields)

    return edit


CASES = [
    (lambda content: content.pop("annotations"), "no list 'annotations'"),
    (lambda content: content["annotations"].pop(1), "not 6 lists of notes"),
    (lambda content: content["annotations"][3].update(data={"time": []}), "not 6 lists of notes"),
    (first_note(time="1.0"), "string 0: note 1 is no time, duration and MIDI pitch"),
    (first_note(time=float("nan")), "string 0: note 1 is no time"),
    (first_note(time=-1.0), "string 0: note 1 is no time"),
    (first_note(duration=float("inf")), "string 0: note 1 is no time"),
    (first_note(duration=None), "string 0: note 1 is no time"),
    (first_note(duration=-0.1), "string 0: note 1 is no time"),
    (first_note(value=128), "string 0: note 1 is no time"),
    (first_note(value=True), "string 0: note 1 is no time"),
    (first_note(value=-0.6), "string 0: note 1 is no time"),
    (lambda content: [own.update(data=[]) for own in content["annotations"]], "no notes"),
]


@pytest.mark.parametrize(("edit", "message"), CASES)
def test_a_bad_annotation_is_one_clear_line(root, edit, message):
    path = root / f"annotation/{NAME}.jams"
    edited(path, edit)
    with pytest.raises(InputError) as error:
        read_folder(root)
    assert f"{path}: {message}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "must hold a JSON object"), (401 * "[" + 401 * "]", "not JSON")],
)
def test_a_file_that_is_no_jams_is_one_clear_line(root, text, message):
    path = root / f"annotation/{NAME}.jams"
    write_text(path, text)
    with pytest.raises(InputError, match=f"{NAME}.jams: {message}") as error:
        read_folder(root)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_told(root, tmp_path):
    task, folds = load_folds("guitarset_notes", root)
    folds[0][0].path.unlink()
    report = check(task, folds[0])
    assert [fault.clip_id for fault in report.missing] == [NAME]
    with pytest.raises(InputError, match=r"no files like annotation/00_BN1-129-Eb_comp\.jams"):
        read_folder(tmp_path / "audio")
    for path in (root / "annotation").glob("05_*"):
        path.unlink()
    with pytest.raises(InputError, match="guitarset_notes: no clips in split"):
        load_folds("guitarset_notes", root)


def test_no_name_leads_out_of_the_folder(root):
    """Names are those of files that are there; what a file says of itself names none."""
    path = root / f"annotation/{NAME}.jams"
    edited(path, lambda content: content["file_metadata"].update(title="../../x"))
    path.rename(root / "annotation/.._.._x_comp.jams")
    items = read_folder(root)
    assert len(items) == 11
    assert all(root in item.path.parents for item in items)
