"""Every task in every layout: the same clips, splits and targets, whole and checked."""

import gzip
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from task_layouts import BUILDERS, KEY, MTG, SIZES, write_text

from myna_plugin.common.errors import InputError
from myna_plugin.probing.tasks import TASKS, check, encode_targets, gtzan, load_items, load_task
from myna_plugin.probing.tasks.loading import find_source
from myna_plugin.probing.tasks.metrics import METRICS, score_outputs
from myna_plugin.probing.tasks.published import COLUMNS
from myna_plugin.probing.tasks.task import SPLITS

pytest_plugins = ("tiny_data_sets",)

CASES = [(task, layout) for task in BUILDERS for layout in BUILDERS[task]]


@pytest.mark.parametrize("name", BUILDERS)
def test_contract(name):
    task = TASKS[name]
    assert task.name == name
    assert len(set(task.labels)) == len(task.labels) >= 2
    assert task.loss in ("cross_entropy", "bce", "mse")
    assert task.primary == task.metrics[0]
    assert set(task.metrics) <= set(METRICS)
    assert set(task.reported_as) <= set(task.metrics)
    assert set(task.split_sizes) == set(SPLITS)
    assert task.clip_rule.duration_s > 0
    assert None not in (task.public, task.jukemir, task.marble)
    assert [task.parse_label(label) for label in task.labels] == list(task.labels)
    assert task.marble.monitor.removeprefix("val/") in task.marble.metrics


def test_every_column_of_the_paper_is_reported():
    reported = {
        column: task.name for task in TASKS.values() for column in task.reported_as.values()
    }
    assert reported == COLUMNS


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_layout_is_recognised_read_and_whole(built, name, layout):
    task, root = TASKS[name], built(name, layout)
    assert find_source(task, root).layout == layout
    items = load_items(task, root)
    assert Counter(item.split for item in items) == SIZES[name]
    report = check(task, items)
    assert report.complete, report.text()
    assert not report.known
    targets = encode_targets(task, items)
    perfect = np.eye(len(task.labels))[targets] if targets.ndim == 1 else targets
    for split in ("valid", "test"):
        rows = [item.split == split for item in items]
        scores = score_outputs(task, perfect[rows], targets[rows])
        assert scores == pytest.approx(dict.fromkeys(task.metrics, 1.0))


@pytest.mark.parametrize("name", BUILDERS)
def test_layouts_agree(built, name):
    """The public annotations, JukeMIR's and MARBLE's say the same of every clip."""
    task = TASKS[name]
    views = {}
    for layout in BUILDERS[name]:
        items = load_items(task, built(name, layout))
        # MARBLE's MagnaTagATune knows clips by their files only.
        key = (lambda i: i.path.name) if name == "magnatagatune" else (lambda i: i.clip_id)
        views[layout] = {key(i): (i.split, np.array(encode_targets(task, [i]))) for i in items}
    assert views["folder"].keys() == views["jukemir"].keys() == views["marble"].keys()
    for clip, (split, target) in views["folder"].items():
        for other in ("jukemir", "marble"):
            assert views[other][clip][0] == split
            np.testing.assert_allclose(views[other][clip][1], target, atol=1e-6)


@pytest.mark.parametrize("name", ["magnatagatune", "emomusic", "giantsteps"])
def test_artists_and_tracks_agree(built, name):
    task = TASKS[name]
    views = [
        {i.clip_id: (i.track_id, i.artist, i.path.name) for i in load_items(task, built(name, k))}
        for k in ("folder", "jukemir")
    ]
    assert views[0] == views[1]


def test_metadata_may_lie_elsewhere_and_be_compressed(built, tmp_path):
    metadata = tmp_path / "gtzan_ff.json.gz"
    metadata.write_bytes(gzip.compress((built("gtzan", "jukemir") / "gtzan_ff.json").read_bytes()))
    items = load_items(TASKS["gtzan"], built("gtzan", "folder"), metadata=metadata)
    assert check(TASKS["gtzan"], items).complete


def test_jukemir_audio_is_preferred_and_whole(built, tmp_path):
    """Where JukeMIR's own clips are, they are the clips: no offset into them."""
    root = tmp_path / "giantsteps_clips"
    content = json.loads((built("giantsteps", "jukemir") / "giantsteps_clips.json").read_text())
    write_text(root / "meta.json", json.dumps(content))
    for clip in content:
        write_text(root / "wav" / f"{clip}.wav", "")
    items = load_items(TASKS["giantsteps"], root)
    assert all(item.path == root / "wav" / f"{item.clip_id}.wav" for item in items)
    assert {(item.start_s, item.end_s) for item in items} == {(0.0, None)}


def test_clips_are_in_the_song_only_where_the_public_file_is_the_song(built):
    """JukeMIR's offsets are in the song; EmoMusic's and MagnaTagATune's files are clips."""
    for name in ("emomusic", "magnatagatune"):
        items = load_items(TASKS[name], built(name, "jukemir"))
        assert {(item.start_s, item.end_s) for item in items} == {(0.0, None)}
    ends = {
        i.clip_id: i.end_s for i in load_items(TASKS["giantsteps"], built("giantsteps", "jukemir"))
    }
    assert ends["0005061-3"] == 120.0
    assert ends["0010089-3"] == pytest.approx(119.9815)


def test_short_tracks_have_fewer_clips(built):
    items = load_items(TASKS["giantsteps"], built("giantsteps", "folder"))
    clips = Counter(item.track_id for item in items)
    assert clips["0297010"] == 2
    assert clips["0005061"] == 4


def test_unconfident_and_changing_keys_are_left_out(built):
    tracks = {i.track_id for i in load_items(TASKS["giantsteps"], built("giantsteps", "folder"))}
    assert not tracks & {"0010981", "0016484", "0019999", "4311630"}


def test_a_fifth_task_needs_no_other_change(built, monkeypatch):
    """A task that only the table knows is loaded and checked like the four."""
    fifth = replace(TASKS["gtzan"], name="fifth", jukemir=None, marble=None, known_faults={})
    monkeypatch.setitem(TASKS.built_in, "fifth", fifth)
    task, items = load_task("fifth", built("gtzan", "folder"))
    assert task is fifth
    assert check(task, items).complete


# --- What goes wrong


def copy_of(built, name: str, layout: str, tmp_path: Path) -> Path:
    """A layout's annotations, to be spoilt; its audio is not copied."""
    for path in built(name, layout).rglob("*"):
        if path.suffix not in (".wav", ".mp3") and path.is_file():
            copy = tmp_path / path.relative_to(built(name, layout))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path


GTZAN_VALID = "data/GTZAN/GTZANGenre.val.jsonl"
GTZAN_TEST = "data/GTZAN/GTZANGenre.test.jsonl"
MTG_TABLE = f"{MTG}/annotations/annotations.txt"
KEY_FILE = f"{KEY}/annotations/key/10089.LOFI.key"

SPOILT = {
    ("gtzan", "jukemir", "gtzan_ff.json"): [
        ('"y": "jazz"', '"y": "jaz"', r"gtzan_ff.json: clip .*'jaz'"),
        ('"split"', '"splt"', r"gtzan_ff.json: clip .*split"),
        ('"valid"', '"val"', r"gtzan_ff.json: clip .*'val'"),
        ('"valid"', "null", r"gtzan: no clips in split 'valid'"),
        ('"id": "', f'"id": "{"x" * 300}', r"gtzan_ff.json: clip .*File name too long"),
        ("{", "", r"gtzan_ff.json: not JSON"),
    ],
    ("gtzan", "marble", GTZAN_VALID): [
        ('"label": "rock"', '"lab": ""', r"val.jsonl: line 5: no field 'label'"),
        ('"label": "rock"', '"label": "polka"', r"val.jsonl: line 5: label 'polka'"),
        ('"label": "rock"', '"label": ["rock"]', r"line 5: expected a label, got \['rock'\]"),
        ('"data/GTZAN', '3, "data', r"val.jsonl: line 1: not JSON"),
        ('"audio_path": "', '"audio_path": 3, "path": "', r"val.jsonl: line 1: .*int"),
        ("{", "", r"val.jsonl: line 1: not JSON"),
        ("{", '["', r"val.jsonl: line 1: not JSON"),
        ("{", "[" * 100_000, r"val.jsonl: line 1: .*recursion"),
        ('"data/GTZAN', '"/data/GTZAN', r"val.jsonl: line 1: .*is outside"),
    ],
    ("gtzan", "marble", GTZAN_TEST): [("00006", "00005", r"'\w+.00005' is listed 2 times")],
    ("magnatagatune", "folder", "annotations_final.csv"): [
        ('"harpsichord"', '"harpsicord"', r"_final.csv: line 1: no column 'harpsichord'"),
        ('"guitar"', '"Slow"', r"annotations_final.csv: line 1: .* column"),
        ('"12"', '"twelve"', r"csv: line 2: clip_id: 'twelve' is not a number"),
        ('"12"', '"64"', r"csv: line 3: clip_id 64 is that of .*line 2 too"),
        ('"c/lvx', '"g/lvx', r"csv: line 5: clip 00014: mp3_path 'g/lvx"),
        ('"1"', '"yes"', r"csv: line 2: guitar: 'yes' is not a number"),
        ('"1"', '"2"', r"csv: line 2: guitar: 2 is neither 0 nor 1"),
        ('"1"', '""', r"csv: line 2: guitar: '' is not a number"),
    ],
    ("magnatagatune", "folder", "clip_info_final.csv"): [
        ('"12"', '"64"', r"clip_info_final.csv: line 3: clip_id 64 is that of .*line 2 too")
    ],
    ("magnatagatune", "jukemir", "magnatagatune.json"): [
        ('"harpsichord"', '"cembalo"', r"magnatagatune.json: clip '000\d\d': label 'cembalo'"),
        ('"choral", ', "", r"split 'valid': no clip has label 'choral'"),
        ('"mp3_path"', '"path"', r"magnatagatune.json: clip '00012': .*'mp3_path'"),
    ],
    ("emomusic", "folder", "songs_info.csv"): [
        ("\n13,", "\n../13,", r"songs_info.csv: line 11: song_id: '../13' is not a number"),
        ("\n13,", "\n12.0,", r"songs_info.csv: line 11: song_id 12 is that of .*line 10 too"),
        ("Artist", "Singer", r"songs_info.csv: line 1: no column 'Artist'"),
        ("evaluation", "testing", r"csv: line 3: Mediaeval 2013 set: 'testing' is not develop"),
        ("Phoephus", '"Phoephus', r"csv: line 8: not CSV \(a quote is not closed in its line"),
        ("Phoephus", "Phoe, Phus", r"csv: line 8: 9 fields, and the header has 8"),
    ],
    ("emomusic", "folder", "static_annotations.csv"): [
        ("3.1,", "loud,", r"csv: line 2: mean_arousal: 'loud' is not a rating"),
        ("3.1,", "nan,", r"csv: line 2: mean_arousal: 'nan' is not a rating"),
        ("3.1,", "3.1,9,", r"csv: line 2: 6 fields, and the header has 5"),
        ("\n13,", "\n14,", r"csv: no rating of song 13, which .*songs_info.csv: line 11 lists"),
    ],
    ("emomusic", "jukemir", "emomusic.json"): [
        ('"y": [', '"y": [NaN, ', r"emomusic.json: clip '0002'")
    ],
    ("giantsteps", "jukemir", "giantsteps_clips.json"): [
        (
            '"clip_offset": 30.0',
            '"clip_offset": -30.0',
            r"clip '\d{7}-1': no clip lasts from -30.0",
        ),
        ('"clip_offset": 30.0', '"clip_offset": NaN', r"clip '\d{7}-1': no clip lasts from nan"),
        ('"clip_duration": 30.0', '"clip_duration": 0', r"clip '\d{7}-0': no clip lasts from 0.0"),
        ('"audio_uid": ', '"audio_uid": 1, "x": ', r"clip '\d{7}-0': expected the name of a track"),
    ],
    ("giantsteps", "folder", MTG_TABLE): [
        ("D# minor", "D# dorian", r"annotations.txt: line 2: 'D# dorian' is not a key"),
        ("\tC", "\tConf", r"annotations.txt: line 1: no column 'C'"),
        ("5061", "track", r"annotations.txt: line 2: ID: 'track' is not a number"),
        ("5061", "5881", r"annotations.txt: line 3: ID 5881 is that of .*line 2 too"),
        ("\t2", "\t3", r"annotations.txt: line 2: confidence: 3 is not 0, 1 or 2"),
    ],
    ("giantsteps", "folder", KEY_FILE): [("D", "H", r"10089.LOFI.key: 'H major' is not a key")],
}
SPOILT_CASES = [(*place, *change) for place, changes in SPOILT.items() for change in changes]


@pytest.mark.parametrize(("name", "layout", "file", "old", "new", "message"), SPOILT_CASES)
def test_bad_annotations_name_the_place(built, tmp_path, name, layout, file, old, new, message):
    root = copy_of(built, name, layout, tmp_path)
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_items(TASKS[name], root)


def as_spelt(text):
    """What spreadsheets and Windows make of a text file."""
    return "\ufeff" + text.replace("\n", "\r\n") + " \r\n\r\n"


HARMLESS = [
    ("gtzan", "marble", GTZAN_VALID, [('"label": "rock"', '"label": "Rock "')]),
    ("gtzan", "jukemir", "gtzan_ff.json", [('"y": "jazz"', '"y": "JAZZ"'), ('"valid"', '"Valid"')]),
    ("magnatagatune", "jukemir", "magnatagatune.json", [('"choral"', '"Choral"')]),
    ("magnatagatune", "folder", "annotations_final.csv", [('"1"', '"1.0"'), ('"0"', '"0."')]),
    ("magnatagatune", "folder", "annotations_final.csv", [('"12"', '" 12.0 "')]),
    ("magnatagatune", "folder", "clip_info_final.csv", [('"artist"', '"Artist"')]),
    ("emomusic", "folder", "songs_info.csv", [("evaluation", "Evaluation "), ("2013 s", "2013 S")]),
    ("emomusic", "folder", "static_annotations.csv", [("\n13,", "\n013.0,")]),
    ("giantsteps", "folder", MTG_TABLE, [("\t2", "\t2.0"), ("minor", "Minor")]),
    ("giantsteps", "folder", f"{MTG}/annotations/beatport_metadata.txt", ()),
    ("giantsteps", "folder", KEY_FILE, [("D major", "d  MAJOR")]),
]


@pytest.mark.parametrize(("name", "layout", "file", "changes"), HARMLESS)
def test_other_spellings_are_read_as_what_they_are(built, tmp_path, name, layout, file, changes):
    def told(items):
        return [(i.clip_id, i.track_id, i.target, i.split, i.artist) for i in items]

    root = copy_of(built, name, layout, tmp_path)
    (root / KEY_FILE).parent.mkdir(parents=True, exist_ok=True)
    # What macOS leaves beside a file on a disk of another system.
    (root / KEY_FILE).with_name("._10089.LOFI.key").write_bytes(b"\0\5\x16\7")
    expected = told(load_items(TASKS[name], root))
    text = (root / file).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (root / file).write_text(as_spelt(text))
    assert told(load_items(TASKS[name], root)) == expected


@pytest.mark.parametrize("without_table", [False, True])
def test_a_track_with_two_key_files_is_refused(built, tmp_path, without_table):
    root = copy_of(built, "giantsteps", "folder", tmp_path)
    file = root / KEY_FILE
    if without_table:
        (root / MTG_TABLE).unlink()
        file = root / MTG / "annotations/key/5061.LOFI.key"
    copy = file.with_name(f"{file.stem} (1).key")
    copy.write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"LOFI.* of the same track as .*LOFI.*; remove one"):
        load_items(TASKS["giantsteps"], root)


@pytest.mark.parametrize(
    ("file", "name", "layout"),
    [
        ("data/GTZAN/GTZANGenre.val.jsonl", "gtzan", "marble"),
        ("annotations_final.csv", "magnatagatune", "folder"),
        ("static_annotations.csv", "emomusic", "folder"),
    ],
)
def test_a_lacking_file_is_named(built, tmp_path, file, name, layout):
    root = copy_of(built, name, layout, tmp_path)
    (root / file).unlink()
    with pytest.raises(InputError, match=Path(file).name.replace(".", r"\.")):
        load_items(TASKS[name], root)


def test_a_lacking_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_items(TASKS["gtzan"], tmp_path / "nowhere")
    with pytest.raises(InputError, match="no folder giantsteps-mtg-key-dataset"):
        load_items(TASKS["giantsteps"], tmp_path)
    with pytest.raises(InputError, match="layout 'jukemir'"):
        load_items(TASKS["gtzan"], tmp_path, layout="jukemir")
    with pytest.raises(InputError, match="no task 'gztan'"):
        load_task("gztan", tmp_path)


def test_gtzan_without_torchaudio_says_what_else_will_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "myna_plugin.common.torchaudio_bridge", None)
    with pytest.raises(InputError, match=r"torchaudio's.*gtzan_ff\.json\.gz"):
        gtzan.filtered_lists()


def test_one_class_in_validation_is_refused(built, tmp_path):
    root = copy_of(built, "gtzan", "marble", tmp_path)
    path = root / "data/GTZAN/GTZANGenre.val.jsonl"
    path.write_text("\n".join(line for line in path.read_text().split("\n") if '"jazz"' in line))
    with pytest.raises(InputError, match="split 'valid': all 2 clips are of class 'jazz'"):
        load_items(TASKS["gtzan"], root)
