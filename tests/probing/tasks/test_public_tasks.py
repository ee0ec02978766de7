"""Tasks whose audio anyone can download, each in its real layout."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from task_layouts import BUILDERS, ONE_LAYOUT, write_strokes, write_text, write_tone

from myna_plugin.common.errors import InputError
from myna_plugin.probing.tasks import (
    TASKS,
    check,
    encode_targets,
    load_folds,
    load_task,
    usable_items,
    validate_items,
)
from myna_plugin.probing.tasks.ballroom import REPLICAS
from myna_plugin.probing.tasks.hear_folder import read_folder
from myna_plugin.probing.tasks.hear_format import write_task
from myna_plugin.probing.tasks.metrics import METRICS, class_mean_accuracy
from myna_plugin.probing.tasks.task import EVENTS, SPLITS, TaskError
from myna_plugin.probing.tasks.task_data import TaskData


@pytest.fixture
def built(tmp_path):
    def build(name):
        ONE_LAYOUT[name][0](tmp_path)
        return tmp_path

    return build


@pytest.mark.parametrize("name", [name for name in ONE_LAYOUT if TASKS[name].loss not in EVENTS])
def test_contract(name):
    task = TASKS[name]
    assert task.name == name
    assert len(set(task.labels)) == len(task.labels) >= 8
    assert task.primary == task.metrics[0]
    assert set(task.metrics) <= set(METRICS)
    assert set(task.split_sizes) in (set(), set(SPLITS))


@pytest.mark.parametrize("in_case", [str.upper, str.title])
@pytest.mark.parametrize("name", [*ONE_LAYOUT, *BUILDERS, "mridangam_stroke"])
def test_audio_may_have_its_ending_in_capitals(tmp_path, name, in_case):
    if name == "mridangam_stroke":
        write_strokes(tmp_path)
    else:
        build = ONE_LAYOUT[name][0] if name in ONE_LAYOUT else BUILDERS[name]["folder"]
        build(tmp_path)
    audio = [path for path in tmp_path.rglob("*.*") if path.suffix in (".wav", ".mp3", ".ogg")]
    before = check(*load_task(name, tmp_path)).missing  # GTZAN's list is longer than what is built
    for path in audio:
        path.rename(path.with_suffix(in_case(path.suffix)))
    report = check(*load_task(name, tmp_path))
    assert [fault.clip_id for fault in report.missing] == [fault.clip_id for fault in before]
    assert len(report.missing) < report.clips


@pytest.mark.parametrize("name", ONE_LAYOUT)
def test_layout_is_read_whole_and_no_group_is_in_two_splits(built, name):
    root, sizes = built(name), ONE_LAYOUT[name][1]
    task, items = load_task(name, root)
    found = Counter(item.split for item in items)
    assert tuple(found[split] for split in SPLITS) == sizes
    assert all(item.path.is_file() for item in items)
    report = check(task, items)
    assert report.complete, report.text()
    splits_of = defaultdict(set)
    for item in items:
        splits_of[item.artist or item.track_id].add(item.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert load_task(name, root)[1] == items  # the split that was made is kept


def by_clip(name, root):
    return {item.clip_id: item for item in load_task(name, root)[1]}


def test_nsynth_has_family_and_pitch(built):
    root, clip = built("nsynth_pitch"), "organ_acoustic_002-067-100"
    assert by_clip("nsynth_instrument", root)[clip].target == "organ"
    assert by_clip("nsynth_pitch", root)[clip].target == "67"
    assert TASKS["nsynth_pitch"].labels[67] == "67"


def test_medley_solos_are_found_in_one_folder_too(built):
    root = built("medley_solos_db")
    items = load_task("medley_solos_db", root)[1]
    assert {i.target for i in items} == {"flute", "violin"}
    for file in (root / "audio").iterdir():
        file.rename(root / file.name)
    (root / "annotation/Medley-solos-DB_metadata.csv").rename(root / "Medley-solos-DB_metadata.csv")
    (root / "audio").rmdir()
    assert [i.path.name for i in load_task("medley_solos_db", root)[1]] == [
        i.path.name for i in items
    ]


@pytest.mark.parametrize("name", ["tinysol_instrument", "tinysol_pitch"])
def test_tinysol_tests_on_each_published_fold(built, name):
    folds = load_folds(name, built(name))[1]
    assert list(folds) == [0, 1, 2, 3, 4]
    for number, items in folds.items():
        splits = defaultdict(set)
        for item in items:
            splits[item.split].add(int(item.clip_id.split("-")[-2]))  # so is the copy made
        assert splits["test"] == {number}
        assert splits["valid"] == {(number + 1) % 5}
        assert splits["train"] == set(range(5)) - {number, (number + 1) % 5}


def test_vocalset_tests_on_the_papers_singers(built):
    root = built("vocalset_technique")
    items = load_task("vocalset_technique", root)[1]
    assert {i.target for i in items} == {"belt", "vibrato"}
    tested = {i.artist for i in items if i.split == "test"}
    assert tested == {"female2", "female8", "male3", "male5", "male10"}
    clip = by_clip("vocalset_singer", root)["male11.scales.messa.scales_messa_a"]
    assert clip.target == "male11"
    assert (root / "vocalset_technique.splits.json").is_file()


def test_fma_knows_short_files_and_other_subsets(built):
    root = built("fma_small")
    task, items = load_task("fma_small", root)
    report = check(task, items)
    assert [fault.clip_id for fault in report.known] == ["098565"]
    assert len(usable_items(task, items, report)) == 12
    assert by_clip("fma_small", root)["000141"].target == "Folk"
    write_tone(root / "fma_small/000/000140.mp3", 0, 1.6)
    assert not check(task, items).complete


def test_jamendo_takes_small_files_and_orders_tags(built):
    clips = by_clip("jamendo_instrument", built("jamendo_instrument"))
    assert clips["track_0001000"].target == TASKS["jamendo_instrument"].labels
    assert clips["track_0001001"].path.name == "1001.low.mp3"
    assert clips["track_0001002"].target == ("instrument---accordion",)


def test_openmic_knows_what_nobody_knows(built, tmp_path):
    root = built("openmic")
    task, items = load_task("openmic", root)
    first, second, third = items[:3]
    assert first.target == task.labels[::2]
    assert second.target == task.labels[1::2]
    assert (third.target, third.known) == (("accordion",), ("accordion",))
    assert first.known == second.known == task.labels
    targets = encode_targets(task, items)
    np.testing.assert_array_equal(targets[0], [1, 0] * 10)
    np.testing.assert_array_equal(targets[2], [1] + [np.nan] * 19)
    with pytest.raises(TaskError, match="not known"):
        write_task(task, items, tmp_path / "hear")
    # A label that is decided on one way alone cannot be scored.
    alone = [replace(i, known=i.target) if i.split == "test" else i for i in items]
    with pytest.raises(TaskError, match="every clip has label 'accordion'"):
        validate_items(task, alone)
    undecided = [replace(items[0], known=()), *items[1:]]
    with pytest.raises(TaskError, match="is not of the task's"):
        validate_items(task, undecided)


def test_what_is_known_is_part_of_the_data(built):
    task, items = load_task("openmic", built("openmic"))
    digests = {item.path: "0f" for item in items}
    third = replace(items[2], known=task.labels)
    assert TaskData(task, {0: items}, digests).digest == TaskData(task, {0: items}, digests).digest
    other = TaskData(task, {0: [*items[:2], third, *items[3:]]}, digests)
    assert TaskData(task, {0: items}, digests).digest != other.digest


def test_ballroom_has_beats_and_no_replica(built):
    root = built("ballroom_beats")
    clips = by_clip("ballroom_beats", root)
    assert "Albums-Fire-09" not in clips
    assert len(REPLICAS) == 13
    assert clips["Albums-Fire-08"].target[:2] == pytest.approx((0.3, 0.6))
    assert clips["Albums-Fire-08"].artist == "Albums-Fire"
    assert clips["Media-100000"].artist is None
    assert clips["Media-100000"].path.parent.name == "Samba"


def test_beats_are_events_with_pauses(built, tmp_path):
    task, items = load_task("ballroom_beats", built("ballroom_beats"))
    write_task(task, items, tmp_path / "hear", sample_rate=8_000)
    written = read_folder(tmp_path / "hear")
    assert (written.embedding_type, written.prediction_type) == ("event", "multilabel")
    assert written.metrics == ("beat_f_measure_70ms",)
    events = {name: found for own in written.splits.values() for name, found in own.items()}
    assert len(events) == 12
    for item in items:
        found = events[f"{item.clip_id}.wav"]
        starts = [event["start"] for event in found]
        assert starts == pytest.approx([1000 * time for time in item.target], abs=1e-3)
        middles = [(a + b) / 2 for a, b in pairwise(starts)]
        assert [event["end"] for event in found[:-1]] == pytest.approx(middles, abs=1e-3)
        last = found[-1]["end"] - starts[-1]
        assert last == pytest.approx((starts[-1] - starts[-2]) / 2, abs=1e-3)


CASES = [
    ("ballroom_beats", "BallroomAnnotations", None, "no files like BallroomAnnotations/Albums-"),
    ("ballroom_beats", "*/Media-100000.beats", ("1.3", "0.3"), "is not after the beat before it"),
    ("ballroom_beats", "*/Media-100000.beats", (" 2\n", "\n"), "line 2: "),
    ("ballroom_beats", "*/Media-100000.beats", (" 2\n", " 2 2\n"), "line 2: "),
    ("ballroom_beats", "*/Media-100000.beats", ("0.9", "nan"), "is not a time and a place in the"),
    ("nsynth_pitch", "nsynth-valid/examples.json", None, "cannot be read (no such file)"),
    ("nsynth_pitch", "nsynth-test/examples.json", ('"pitch": 67', '"pitch": 128'), "'128' is not"),
    ("nsynth_pitch", "nsynth-test/examples.json", ('"pitch"', '"tone"'), "no field 'pitch'"),
    ("nsynth_instrument", "nsynth-test/examples.json", ('"organ"', '"lute"'), "'lute' is not"),
    ("medley_solos_db", "annotation/*.csv", None, "holds none of"),
    ("medley_solos_db", "annotation/*.csv", ("uuid4", "uuid"), "no column 'uuid4'"),
    ("medley_solos_db", "annotation/*.csv", ("\ntest,", "\nheld,"), "line 10: subset: 'held'"),
    ("medley_solos_db", "annotation/*.csv", ("flute", "lute"), "instrument: 'lute' is not one of"),
    ("tinysol_pitch", "annotation/*.csv", (",1,Winds", ",7,Winds"), "Fold: '7' is not one of 0, 1"),
    ("tinysol_instrument", "annotation/*.csv", (",Ob,", ",Lute,"), "'Lute' is not one of BTb"),
    ("tinysol_pitch", "annotation/*.csv", ("Winds/Flute", "../Flute"), "line 2: '../Flute/ord"),
    ("tinysol_pitch", "annotation/*.csv", ("Winds/Flute/ordinario/Fl-ord-A5-mf-0-N.wav", ""), "''"),
    ("tinysol_pitch", "annotation/*.csv", ("Winds/Fl", 5_000 * "a"), "line 2: 'aaaaaaaaa"),
    (
        "medley_solos_db",
        "annotation/*.csv",
        ("00000001-", "x/../00000001-"),
        "line 3: 'Medley-solos",
    ),
    ("nsynth_pitch", "nsynth-test/examples.json", ('{"guitar_', '{"../'), "json: ../acoustic_002"),
    ("vocalset_singer", "FULL", None, "no recordings like female1"),
    ("openmic", "openmic-2018-metadata.csv", None, "holds none of openmic-2018-metadata.csv"),
    ("openmic", "partitions/split01_test.csv", ("000501", "000999"), "is not in the tables"),
    (
        "openmic",
        "partitions/split01_test.csv",
        ("000500", "000400"),
        "'000400_3840' is listed 2 times",
    ),
    ("openmic", "openmic-2018-aggregated-labels.csv", (",0.49,", ",no,"), "relevance: 'no'"),
    ("openmic", "openmic-2018-aggregated-labels.csv", ("banjo", "lute"), "'lute' is not one of"),
    ("fma_small", "fma_metadata/tracks.csv", None, "holds none of fma_metadata/tracks.csv"),
    ("fma_small", "fma_metadata/tracks.csv", ("genre_top", "genre"), "column 'track genre_top'"),
    ("fma_small", "fma_metadata/tracks.csv", (",small,Folk", ",small,Polka"), "'Polka' is not"),
    ("fma_small", "fma_metadata/tracks.csv", (",small,Folk", ",small"), "6 fields"),
    ("jamendo_genre", "data/splits/split-0/*-test.tsv", None, "autotagging_genre-test.tsv"),
    ("jamendo_genre", "data/splits/split-0/*-test.tsv", ("PATH", "FILE"), "columns are"),
    ("jamendo_genre", "data/splits/split-0/*-test.tsv", ("---60s", "---50s"), "'genre---50s' is"),
    ("jamendo_genre", "data/splits/split-0/*-test.tsv", ("\t31.0", ""), "line 4: 5 fields"),
    ("jamendo_genre", "data/splits/split-0/*-test.tsv", ("20/1020", "../1020"), "line 2: '../1020"),
]


@pytest.mark.parametrize(("name", "place", "edit", "message"), CASES)
def test_bad_layout_is_one_clear_line(built, name, place, edit, message):
    root = built(name)
    path = next(root.glob(place))
    if edit is None:
        path.rename(root / "elsewhere")
    else:
        assert edit[0] in path.read_text()
        write_text(path, path.read_text().replace(*edit))
    with pytest.raises(InputError) as error:
        load_task(name, root)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["nsynth_pitch", "jamendo_genre", "fma_small"])
def test_missing_audio_is_told(built, name):
    root = built(name)
    task, items = load_task(name, root)
    items[3].path.unlink()
    report = check(task, items)
    assert [fault.clip_id for fault in report.missing] == [items[3].clip_id]
    with pytest.raises(TaskError, match="--allow-missing"):
        usable_items(task, items, report)


def test_accuracy_a_class_is_scikit_learns():
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(60, 5)), rng.integers(0, 4, 60)  # one class is nobody's
    targets[:30] = 0
    found = class_mean_accuracy(outputs, targets, "abcde")
    alone = [(outputs.argmax(1) == targets)[targets == c].mean() for c in range(4)]
    assert found == pytest.approx(np.mean(alone))
    known = outputs[:, :4]
    expected = balanced_accuracy_score(targets, known.argmax(1))
    assert class_mean_accuracy(known, targets, "abcd") == pytest.approx(expected)
