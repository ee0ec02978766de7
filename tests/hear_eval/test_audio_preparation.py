"""Audio that cannot be used is found before anything is written, each file by name."""

import shutil

import numpy as np
import pytest
import soundfile

from myna_plugin.common.errors import InputError
from myna_plugin.hear_eval import audio_check
from myna_plugin.hear_eval.audio_check import AudioCheck
from myna_plugin.hear_eval.audio_preparation import heareval_batch_size, prepare_audio
from myna_plugin.probing.tasks.hear_folder import read_folder

from .generate_tasks import event_task, scene_task

RATE = 16_000


def prepare(*folders, cache=None, allow_silent=False):
    checks = {
        read_folder(folder): AudioCheck(cache or folder.parent / "cache.json") for folder in folders
    }
    return [*prepare_audio(checks, RATE, allow_silent).values()]


def spoil(path, how):
    samples = np.full(24_000, 0.1, np.float32)
    if how == "nan":
        samples[7] = np.nan
    elif how == "infinite":
        samples[7] = np.inf
    elif how == "silent":
        samples[:] = 0
    elif how == "empty":
        samples = samples[:0]
    soundfile.write(path, samples, 48_000, "FLOAT", format="WAV")
    if how == "no audio":
        path.write_bytes(b"this is a text")
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:20])
    elif how == "zero bytes":
        path.write_bytes(b"")


FAULTS = {
    "nan": "NaN",
    "infinite": "infinite",
    "silent": "is silent",
    "empty": "no samples",
    "no audio": "cannot be decoded",
    "cut short": "cannot be decoded",
    "zero bytes": "cannot be decoded",
}


@pytest.mark.parametrize("rate", [48_000, RATE], ids=["to be resampled", "at the model's rate"])
@pytest.mark.parametrize("how", FAULTS)
def test_unusable_file_is_named_and_nothing_is_written(tmp_path, how, rate):
    good = scene_task(tmp_path / "tasks" / "a")
    folder = scene_task(tmp_path / "tasks" / "b", rate=rate)
    path = folder / str(rate) / "test" / "test3.wav"
    spoil(path, how)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        prepare(good, folder)
    (line,) = [line for line in caught.value.lines if FAULTS[how] in line]
    assert line.startswith(f"{path}: ")
    assert "test.json" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_all_bad_files_are_reported_at_once(tmp_path):
    folders = [scene_task(tmp_path / "tasks" / name) for name in "ab"]
    for folder in folders:
        spoil(folder / "48000" / "train" / "train0.wav", "nan")
        spoil(folder / "48000" / "test" / "test0.wav", "silent")
    with pytest.raises(InputError) as caught:
        prepare(*folders)
    assert len(caught.value.lines) == 4


def test_silence_can_be_allowed(tmp_path):
    folder = scene_task(tmp_path / "task")
    spoil(folder / "48000" / "test" / "test3.wav", "silent")
    assert len(prepare(folder, allow_silent=True)) == 1


def test_wrong_rate_and_stereo_in_the_models_folder_are_bad_input(tmp_path):
    folder = scene_task(tmp_path / "task", rate=RATE)
    soundfile.write(folder / f"{RATE}/test/test0.wav", 0.1 * np.ones(8_000), 8_000)
    soundfile.write(folder / f"{RATE}/test/test1.wav", 0.1 * np.ones((8_000, 2)), RATE)
    with pytest.raises(InputError) as caught:
        prepare(folder)
    assert "test0.wav: its sample rate is 8000 Hz" in caught.value.lines[0]
    assert "test1.wav: has 2 channels" in caught.value.lines[1]


@pytest.mark.parametrize("rate", [48_000, RATE])
def test_unequal_lengths_in_a_batch_are_bad_input(tmp_path, rate):
    folder = scene_task(tmp_path / "task", rate=rate)
    path = folder / str(rate) / "train" / "train4.wav"
    soundfile.write(path, 0.1 * np.ones(rate), rate)
    with pytest.raises(InputError, match=r"train4\.wav: lasts 1\.000 s and others 0\.500 s"):
        prepare(folder)
    assert not (folder / f".{RATE}.part").exists()


def test_unequal_lengths_are_fine_without_a_duration(tmp_path):
    folder = scene_task(tmp_path / "task", rate=RATE)
    soundfile.write(folder / f"{RATE}/train/train4.wav", 0.1 * np.ones(RATE), RATE)
    metadata = folder / "task_metadata.json"
    metadata.write_text(metadata.read_text().replace("0.5", "null"))
    assert len(prepare(folder)) == 1


def test_batch_size_is_that_of_heareval(tmp_path, monkeypatch):
    # run heareval's own function up to the point where it builds its DataLoader
    from myna_plugin.hear_eval import compatibility

    compatibility.embeddings_command()
    from heareval.embeddings import task_embeddings

    class Stop(Exception):
        pass

    seen = []

    def note(_data, _audio_dir, _embedding, batch_size):
        seen.append(batch_size)
        raise Stop

    monkeypatch.setattr(task_embeddings, "get_dataloader_for_embedding", note)
    folder = scene_task(tmp_path / "task", rate=RATE)
    metadata = folder / "task_metadata.json"
    text = metadata.read_text()
    expected = []
    for duration in ("null", "0.33", "1.0", "4.0", "84", "500"):
        for rate in (16_000, 22_050, 48_000):
            metadata.write_text(text.replace("0.5", duration))
            embedding = type("Embedding", (), {"sample_rate": rate})
            with pytest.raises(Stop):
                task_embeddings.task_embeddings(embedding, folder, tmp_path / "out")
            sample_duration = None if duration == "null" else float(duration)
            expected.append(heareval_batch_size(sample_duration, rate))
    assert seen == expected
    assert len(set(seen)) > 4


def test_digest_depends_on_sounds_and_labels_alone(tmp_path):
    folder = scene_task(tmp_path / "one" / "task")
    (first,) = prepare(folder)
    copy = tmp_path / "two" / "task"
    shutil.copytree(folder, copy)  # other place, other times
    assert prepare(copy) == [first]
    shutil.rmtree(copy / str(RATE))  # made once more
    assert prepare(copy) == [first]
    labels = copy / "test.json"
    labels.write_text(labels.read_text().replace('["low"]', '["high"]', 1))
    (relabelled,) = prepare(copy)
    assert relabelled != first
    soundfile.write(folder / "48000" / "test" / "test0.wav", 0.1 * np.ones(24_000), 48_000)
    assert prepare(folder) != [first]


def test_unchanged_files_are_not_decoded_again(tmp_path, monkeypatch):
    folder = event_task(tmp_path / "task")
    cache = tmp_path / "cache.json"
    first = prepare(folder, cache=cache)
    monkeypatch.setattr(audio_check, "inspect_file", lambda path: pytest.fail(f"decoded {path}"))
    assert prepare(folder, cache=cache) == first
    monkeypatch.undo()
    soundfile.write(folder / f"{RATE}/test/test0.wav", 0.1 * np.ones(2 * RATE), RATE)
    assert prepare(folder, cache=cache) != first
