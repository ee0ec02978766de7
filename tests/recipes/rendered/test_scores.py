import json

import numpy as np
import pytest

from recipes.rendered.scores import (
    DRUMS,
    Score,
    ScoreError,
    read_midi_folder,
    read_scores,
    split_of,
)

WORK = {
    "corpus": "c",
    "work": "w",
    "style": "chorale",
    "unit": "qb",
    "mm": 60,
    "keys": [[0, 7, 0], [2, 4, 1]],
    "group": "g",
    "split": "valid",
    "licence": "CC0",
    "names": ["Voice"],
}


def write_folder(folder, works, lengths):
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(work) + "\n" for work in works)
    (folder / "works.jsonl").write_text(lines, encoding="utf-8")
    notes = np.array([[1, 0.5, 62, 0, 0], [0, 2, 60, 90, 1]] * sum(lengths), np.float32)
    np.savez(folder / "notes.npz", notes=notes[: sum(lengths)], lens=np.array(lengths))
    return folder


def test_quarter_notes_become_seconds_by_the_metronome_mark(tmp_path):
    slow = {**WORK, "mm": 60}
    fast = {**WORK, "mm": 120}
    plain = {**WORK, "unit": "sec", "mm": 120}
    scores = read_scores(write_folder(tmp_path, [slow, fast, plain], [2, 2, 2]))
    assert [score.duration_s for score in scores] == [2.0, 1.0, 2.0]
    assert [score.keys[1][0] for score in scores] == [2.0, 1.0, 2.0]
    assert [score.beat_s for score in scores] == [1.0, 0.5, 0.5]
    assert scores[0].notes.tolist() == [[0, 2, 60, 90, 1], [1, 0.5, 62, 0, 0]]
    assert (scores[0].n_parts, scores[0].parts) == (2, ("Voice",))


def test_one_notated_key_holds_where_the_work_ends(tmp_path, monkeypatch):
    """A chorale's first phrases may be in any key; shortened here, since the works are."""
    monkeypatch.setattr("recipes.rendered.scores.NOTATED_KEY_S", 0.5)
    chorale = {**WORK, "corpus": "bach-370-chorales", "keys": [[0.0, 7, 1]], "mm": 60}
    dance = {**chorale, "corpus": "nottingham"}
    ended, whole = read_scores(write_folder(tmp_path, [chorale, dance], [2, 2]))
    assert ended.duration_s == whole.duration_s == 2.0
    assert ended.keys == ((1.5, 7, 1),)
    assert ended.key_during(0.0, 2.0) is None
    assert ended.key_during(1.5, 2.0) == whole.key_during(0.0, 2.0) == (7, 1)


def test_keys_that_do_not_last_are_not_taken(tmp_path):
    rag = {**WORK, "corpus": "joplin", "keys": [[0.0, 10, 0]]}
    (score,) = read_scores(write_folder(tmp_path, [rag], [2]))
    assert score.keys == ()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ScoreError, match=r"works\.jsonl: no such file"):
        read_scores(tmp_path)


def test_files_that_do_not_fit_each_other_are_refused(tmp_path):
    with pytest.raises(ScoreError, match=r"1 works .* 2 with"):
        read_scores(write_folder(tmp_path, [WORK], [1, 1]))


def test_a_line_that_lacks_something_is_refused(tmp_path):
    lacking = {key: value for key, value in WORK.items() if key != "group"}
    with pytest.raises(ScoreError, match="group"):
        read_scores(write_folder(tmp_path, [lacking], [1]))


def test_a_damaged_archive_is_refused(tmp_path):
    write_folder(tmp_path, [WORK], [1])
    (tmp_path / "notes.npz").write_bytes(b"not an archive")
    with pytest.raises(ScoreError, match="cannot be read"):
        read_scores(tmp_path)


def test_splits_have_their_shares_and_follow_the_name_alone():
    drawn = [split_of(f"group {i}") for i in range(4000)]
    assert drawn == [split_of(f"group {i}") for i in range(4000)]
    shares = {split: drawn.count(split) / len(drawn) for split in ("train", "valid", "test")}
    assert shares == pytest.approx({"train": 0.7, "valid": 0.1, "test": 0.2}, abs=0.03)


def test_key_during_knows_nothing_before_the_first_key():
    score = Score(np.zeros((0, 5), np.float32), "w", keys=((4.0, 0, 0),))
    assert score.key_during(0.0, 8.0) is None
    assert score.key_during(4.0, 8.0) == (0, 0)
    assert Score(score.notes, "w").key_during(0.0, 8.0) is None


class TestMidi:
    @pytest.fixture
    def folder(self, tmp_path):
        pretty_midi = pytest.importorskip("pretty_midi", reason="reads MIDI files")
        for name in ("sonata/first.mid", "sonata/second.mid", "alone.midi"):
            midi = pretty_midi.PrettyMIDI(initial_tempo=90)
            melody = pretty_midi.Instrument(40, name="Violin ")
            melody.notes.append(pretty_midi.Note(64, 67, start=1.0, end=2.0))
            melody.notes.append(pretty_midi.Note(80, 60, start=0.0, end=0.5))
            drums = pretty_midi.Instrument(0, is_drum=True)
            drums.notes.append(pretty_midi.Note(100, 36, start=0.0, end=0.1))
            midi.instruments += [melody, drums]
            midi.key_signature_changes.append(pretty_midi.KeySignature(12 + 9, 0.0))
            midi.time_signature_changes.append(pretty_midi.TimeSignature(6, 8, 0.0))
            (tmp_path / name).parent.mkdir(exist_ok=True)
            midi.write(str(tmp_path / name))
        return tmp_path

    def test_notes_keys_meter_and_groups(self, folder):
        scores = read_midi_folder(folder)
        assert [s.work for s in scores] == ["alone.midi", "sonata/first.mid", "sonata/second.mid"]
        assert [s.group for s in scores] == ["alone", "sonata", "sonata"]
        assert scores[1].split == scores[2].split == split_of("sonata")
        first = scores[0]
        assert first.keys == ((0.0, 9, 1),)
        assert first.parts == ("Violin", DRUMS)
        assert first.beats_per_bar == 3
        assert first.beat_s == pytest.approx(60 / 90, rel=1e-3)
        assert first.notes[:, 2:].tolist() == [[36, 100, 1], [60, 80, 0], [67, 64, 0]]
        assert first.notes[:, 0] == pytest.approx([0, 0, 1], abs=0.01)

    def test_a_damaged_file_is_named(self, folder):
        (folder / "broken.mid").write_bytes(b"MThd nonsense")
        with pytest.raises(ScoreError, match=r"broken\.mid: cannot be read"):
            read_midi_folder(folder)

    def test_a_folder_without_midi_is_refused(self, tmp_path):
        with pytest.raises(ScoreError, match="no MIDI files"):
            read_midi_folder(tmp_path)
