"""Resampling beside the task: right samples, same names, whole or not at all, and only once."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from full_disk import full_disk

from myna_plugin.common.errors import InputError
from myna_plugin.common.locks import locked
from myna_plugin.hear_eval import resampling
from myna_plugin.hear_eval.audio_check import inspect_file
from myna_plugin.hear_eval.resampling import plan_audio, resample_file, resample_task
from myna_plugin.probing.tasks.hear_folder import read_folder

from .generate_tasks import scene_task

RATE = 16_000


def make(folder, rate=RATE):
    """Plan and resample; what was made anew."""
    task = read_folder(folder)
    plan = plan_audio(task, rate)
    facts = {path: inspect_file(path) for path in plan.sources.values()}
    if plan.sources:
        resample_task(task, plan.sources, facts, rate)
    return sorted("/".join(key) for key in plan.sources)


def files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.fixture
def calls(monkeypatch):
    """Counts the files that are really resampled."""
    counter = Counter()

    def counted(source, target, *rest):
        counter[target.name] += 1
        return resample_file(source, target, *rest)

    monkeypatch.setattr(resampling, "resample_file", counted)
    return counter


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_every_format_becomes_mono_wav_of_the_same_sound(tmp_path, suffix, rate):
    folder = scene_task(tmp_path / "task", rate=rate, suffix=suffix)
    make(folder)
    for split, name in read_folder(folder).files():
        made, made_rate = soundfile.read(folder / str(RATE) / split / name)
        source = folder / str(rate) / split / Path(name).with_suffix(suffix)
        samples, _ = soundfile.read(source, frames=rate // 2)  # an MP3 is a little longer
        expected = soxr.resample(samples, rate, RATE, quality="HQ")
        assert (made_rate, made.shape) == (RATE, (RATE // 2,))
        # one step of 16 bits; where the MP3 is cut the filter rings differently
        assert np.abs(made - expected)[:-50].max() <= 1.1 / 2**15  # two decoders round differently


def test_names_and_labels_stay(tmp_path):
    folder = scene_task(tmp_path / "task", suffix=".flac")
    before = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}
    make(folder)
    assert {name: (folder / name).read_bytes() for name in before} == before
    made = {path.relative_to(folder / str(RATE)).as_posix() for path in files(folder / str(RATE))}
    listed = {f"{split}/{name}" for split, name in read_folder(folder).files()}
    assert made == listed | {resampling.RECORD}


def test_listed_mp3_keeps_its_name_and_is_readable(tmp_path):
    folder = scene_task(tmp_path / "task", suffix=".mp3")
    for split in ("train", "valid", "test"):
        path = folder / f"{split}.json"
        path.write_text(path.read_text().replace(".wav", ".mp3"))
    make(folder)
    assert soundfile.info(folder / str(RATE) / "test" / "test0.mp3").format == "WAV"
    assert soundfile.read(folder / str(RATE) / "test" / "test0.mp3")[1] == RATE


def test_deep_audio_stays_deep(tmp_path):
    loud = 1.5 * np.sin(np.arange(4_800) / 20).astype(np.float32)  # would be clipped in 16 bits
    soundfile.write(tmp_path / "deep.wav", loud, 48_000, "FLOAT")
    resample_file(tmp_path / "deep.wav", tmp_path / "made.wav", RATE, 1_600)
    assert soundfile.info(tmp_path / "made.wav").subtype == "FLOAT"
    assert np.abs(soundfile.read(tmp_path / "made.wav")[0]).max() > 1.4


def test_durations_near_the_tasks_become_it_and_others_stay(tmp_path):
    folder = scene_task(tmp_path / "task")
    test = folder / "48000" / "test"
    for name, duration_s in (("test0", 0.47), ("test1", 0.55), ("test2", 0.8)):
        soundfile.write(test / f"{name}.wav", 0.1 * np.ones(round(48_000 * duration_s)), 48_000)
    make(folder)
    lengths = [soundfile.info(folder / f"{RATE}/test/test{i}.wav").frames for i in range(3)]
    assert lengths == [8_000, 8_000, 12_800]


def test_goes_on_where_it_was_stopped(tmp_path, monkeypatch, calls):
    folder = scene_task(tmp_path / "task")
    monkeypatch.setattr("myna_plugin.common.parallel.available_cores", lambda: 1)
    counted = resampling.resample_file

    def stopped(source, target, *rest):
        if len(calls) == 5:
            raise KeyboardInterrupt
        counted(source, target, *rest)

    monkeypatch.setattr(resampling, "resample_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        make(folder)
    assert not (folder / str(RATE)).exists()
    monkeypatch.setattr(resampling, "resample_file", counted)
    make(folder)
    assert len(calls) == 18
    assert sum(calls.values()) <= 19  # at most the one whose record was not written is repeated
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_half_written_file_of_a_stopped_run_is_not_taken_for_whole(tmp_path):
    folder = scene_task(tmp_path / "task")
    staged = folder / f".{RATE}.part" / "test"
    staged.mkdir(parents=True)
    (staged / "test0.wav.99.tmp").write_bytes(b"RIFF")
    (staged / "test1.wav").write_bytes(b"RIFF")  # without a record: of unknown origin
    (staged.parent / resampling.RECORD).write_text('{"split": "te')
    make(folder)
    made = folder / str(RATE)
    assert not list(made.rglob("*.tmp"))
    assert soundfile.info(made / "test" / "test1.wav").frames == 8_000


def test_missing_files_are_added_to_a_folder_that_is_there(tmp_path, calls):
    folder = scene_task(tmp_path / "task", rate=RATE)
    soundfile_bytes = (folder / str(RATE) / "test" / "test0.wav").read_bytes()
    scene_task(tmp_path / "other", rate=48_000)
    (tmp_path / "other" / "48000").rename(folder / "48000")
    (folder / str(RATE) / "test" / "test1.wav").unlink()
    assert make(folder) == ["test/test1.wav"]
    assert (folder / str(RATE) / "test" / "test0.wav").read_bytes() == soundfile_bytes
    assert make(folder) == []


def test_changed_source_is_resampled_again(tmp_path, calls):
    folder = scene_task(tmp_path / "task")
    make(folder)
    soundfile.write(folder / "48000" / "test" / "test3.wav", 0.25 * np.ones(24_000), 48_000)
    assert make(folder) == ["test/test3.wav"]
    made, _ = soundfile.read(folder / str(RATE) / "test" / "test3.wav")
    np.testing.assert_allclose(made[1_000:-1_000], 0.25, atol=1e-3)
    assert make(folder) == []


def test_highest_rate_is_the_source(tmp_path):
    folder = scene_task(tmp_path / "task", rate=44_100)
    for rate in (8_000, 48_000):
        scene_task(tmp_path / str(rate), rate=rate)
        (tmp_path / str(rate) / str(rate)).rename(folder / str(rate))
    plan = plan_audio(read_folder(folder), RATE)
    assert {path.parents[1].name for path in plan.sources.values()} == {"48000"}


def sources(folder, rate):
    """Names of the folders that a task's files would be made from at a rate."""
    plan = plan_audio(read_folder(folder), rate)
    return {path.parents[1].name for path in plan.sources.values()}


def test_what_was_resampled_is_the_source_of_nothing(tmp_path):
    """A rate above the task's own would else be taken for the best there is."""
    folder = scene_task(tmp_path / "task", rate=RATE)
    make(folder, 44_100)
    assert sources(folder, 32_000) == {"16000"}
    straight = scene_task(tmp_path / "other", rate=RATE)
    for each in (folder, straight):
        make(each, 32_000)
    first, second = (files(each / "32000" / "test") for each in (folder, straight))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_an_original_among_what_was_resampled_is_a_source(tmp_path):
    folder = scene_task(tmp_path / "task", rate=RATE)
    soundfile.write(tmp_path / "test0.wav", 0.1 * np.ones(24_000), 48_000)
    (folder / "48000" / "test").mkdir(parents=True)
    (folder / str(RATE) / "test" / "test0.wav").unlink()
    (tmp_path / "test0.wav").rename(folder / "48000" / "test" / "test0.wav")
    assert make(folder) == ["test/test0.wav"]
    plan = plan_audio(read_folder(folder), 8_000)
    folders = {name: path.parents[1].name for (_, name), path in plan.sources.items()}
    assert folders.pop("test0.wav") == "48000"
    assert set(folders.values()) == {"16000"}


def test_what_was_made_of_resampled_audio_is_made_again(tmp_path):
    folder = scene_task(tmp_path / "task", rate=RATE)
    make(folder, 44_100)
    hidden = folder / "44100" / resampling.RECORD
    record = hidden.read_text()
    hidden.unlink()
    make(folder, 32_000)  # as from an original
    assert sources(folder, 32_000) == set()
    hidden.write_text(record)
    assert sources(folder, 32_000) == {"16000"}
    assert len(make(folder, 32_000)) == 18
    assert sources(folder, 32_000) == set()


def test_without_an_original_there_is_no_other_rate(tmp_path):
    folder = scene_task(tmp_path / "task", rate=RATE)
    make(folder, 44_100)
    (folder / str(RATE) / "test" / "test0.wav").unlink()
    message = r"32000/test/test0\.wav is missing, and its original at another rate too"
    with pytest.raises(InputError, match=message):
        plan_audio(read_folder(folder), 32_000)
    shutil.rmtree(folder / str(RATE))
    with pytest.raises(InputError, match="has no audio but what was resampled"):
        plan_audio(read_folder(folder), 32_000)
    assert make(folder, 44_100) == []


@pytest.mark.parametrize("place", ["audio", "."])
def test_any_audio_folder_will_do(tmp_path, place):
    folder = scene_task(tmp_path / "task", suffix=".flac")
    if place == ".":
        for split in ("train", "valid", "test"):
            (folder / "48000" / split).rename(folder / split)
    else:
        (folder / "48000").rename(folder / place)
    make(folder)
    assert soundfile.info(folder / f"{RATE}/test/test0.wav").samplerate == RATE


def test_missing_audio_is_bad_input_and_named(tmp_path):
    folder = scene_task(tmp_path / "task")
    (folder / "48000" / "valid" / "valid2.wav").unlink()
    with pytest.raises(InputError, match=r"16000/valid/valid2\.wav is missing.*valid\.json"):
        plan_audio(read_folder(folder), RATE)
    for path in files(folder / "48000"):
        path.unlink()
    with pytest.raises(InputError, match="has no audio"):
        plan_audio(read_folder(folder), RATE)


def test_full_disk_is_bad_input_and_leaves_no_part_of_a_file(tmp_path):
    folder = scene_task(tmp_path / "task")
    message = r"task: cannot be written to \(File too large"
    with pytest.raises(InputError, match=message), full_disk():
        make(folder)
    assert not (folder / str(RATE)).exists()
    assert not list((folder / f".{RATE}.part").rglob("*.tmp"))
    assert not list((folder / f".{RATE}.part").rglob("*.wav"))


def test_of_two_runs_that_resample_a_task_the_second_is_refused(tmp_path):
    folder = scene_task(tmp_path / "task")
    staging = folder / f".{RATE}.part"
    staging.mkdir()
    with (
        locked(staging / resampling.LOCK, "busy"),
        pytest.raises(InputError, match="task: another run is resampling it to 16000 Hz"),
    ):
        make(folder)
    assert len(make(folder)) == 18


def test_resampled_folder_outlives_its_source(tmp_path):
    folder = scene_task(tmp_path / "task")
    make(folder)
    for path in files(folder / "48000"):
        path.unlink()
    assert make(folder) == []
