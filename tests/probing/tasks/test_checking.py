"""Every kind of fault is found, counted and named."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from task_layouts import RATE, encoded_tone

from myna_plugin.probing.tasks import TASKS, TaskError, check, load_items, usable_items

pytest_plugins = ("tiny_data_sets",)

TASK = TASKS["gtzan"]


@pytest.fixture
def gtzan(built, tmp_path):
    """A GTZAN of one's own: its items, with files that may be spoilt."""
    shutil.copytree(built("gtzan", "folder") / "genres", tmp_path / "genres")
    return load_items(TASK, tmp_path)


def path_of(items, clip):
    return next(item.path for item in items if item.clip_id == clip)


def test_a_whole_set_is_complete(gtzan):
    report = check(TASK, gtzan)
    assert report.complete
    assert report.text().startswith("gtzan: 24 of 24 clips present (24 files), 0 missing")
    assert usable_items(TASK, gtzan, report) == gtzan


def not_audio(path):
    path.write_bytes(b"not audio " * 500)


def empty(path):
    path.write_bytes(b"")


def silent_header(path):
    soundfile.write(path, np.zeros(0, dtype=np.float32), RATE)


def cut_mp3(path):
    """A file cut off in transfer: the header still promises all of it."""
    path.write_bytes(encoded_tone(".mp3", 0, 30.0)[:6000])


def nan(path):
    soundfile.write(path, np.full(30 * RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")


@pytest.mark.parametrize("spoil", [not_audio, empty, silent_header, cut_mp3, nan])
def test_unreadable_files_are_found(gtzan, spoil):
    spoil(path_of(gtzan, "rock.00003"))
    report = check(TASK, gtzan)
    assert [fault.clip_id for fault in report.unreadable] == ["rock.00003"]
    assert "rock.00003.wav" in report.unreadable[0].reason
    assert not report.complete


def test_missing_and_short_files_are_found(gtzan):
    path_of(gtzan, "rock.00003").unlink()
    path_of(gtzan, "rock.00004").write_bytes(encoded_tone(".wav", 0, 25.0))
    report = check(TASK, gtzan)
    assert [fault.clip_id for fault in report.missing] == ["rock.00003"]
    assert [fault.clip_id for fault in report.wrong_length] == ["rock.00004"]
    assert "lasts 25.00 s, expected 30 s" in report.wrong_length[0].reason
    text = report.text()
    assert "22 of 24 clips present" in text
    assert f"missing: {path_of(gtzan, 'rock.00003')}: no such file" in text
    assert report.as_dict()["missing"][0]["clip_id"] == "rock.00003"


def test_an_incomplete_set_is_refused_unless_allowed(gtzan):
    path_of(gtzan, "rock.00003").unlink()
    report = check(TASK, gtzan)
    with pytest.raises(TaskError, match=r"rock\.00003(.|\n)*--allow-missing"):
        usable_items(TASK, gtzan, report)
    left = usable_items(TASK, gtzan, report, allow_missing=True)
    assert len(left) == 23
    assert "rock.00003" not in {item.clip_id for item in left}


def test_a_known_fault_is_passed_over_by_name(gtzan):
    not_audio(path_of(gtzan, "jazz.00054"))
    report = check(TASK, gtzan)
    assert report.complete
    assert [fault.clip_id for fault in report.known] == ["jazz.00054"]
    assert "Kaggle" in report.text()
    left = usable_items(TASK, gtzan, report)
    assert len(left) == 23
    assert "jazz.00054" not in {item.clip_id for item in left}


def test_what_is_left_must_be_scorable(gtzan):
    for clip in ("rock.00003", "rock.00004", "blues.00003", "blues.00004"):
        path_of(gtzan, clip).unlink()
    with pytest.raises(TaskError, match="split 'valid': all 2 clips are of class 'jazz'"):
        usable_items(TASK, gtzan, check(TASK, gtzan), allow_missing=True)


def test_clips_beyond_the_end_of_their_track_are_found(built):
    task = TASKS["giantsteps"]
    items = load_items(task, built("giantsteps", "folder"))
    late = [replace(item, end_s=item.end_s + 0.2) for item in items]
    report = check(task, late)
    assert {fault.clip_id[-2:] for fault in report.wrong_length} == {"-3"}
    # 50 ms is within what decoders disagree by.
    assert check(task, [replace(item, end_s=item.end_s + 0.05) for item in items]).complete


def test_a_missing_file_is_listed_once_and_lists_are_short(built, tmp_path):
    task = TASKS["giantsteps"]
    items = load_items(task, built("giantsteps", "folder"))
    lost = [replace(i, path=tmp_path / f"{i.track_id}.mp3") for i in items if i.split != "test"]
    report = check(task, lost)
    assert len(report.missing) == len(lost) == 18
    assert report.text().count("no such file") == 5
    many = [replace(i, path=tmp_path / f"{i.clip_id}.mp3") for i in lost]
    text = check(task, many).text()
    assert text.count("no such file") == 10
    assert text.endswith("missing: and 8 more files")
