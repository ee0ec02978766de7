"""The real, unmodified heareval on tiny tasks with a module that is not ours."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import importlib_metadata
import numpy as np
import pytest
import soundfile
import soxr
import torch

from .conftest import install_tiny_module
from .generate_tasks import event_task, scene_task

COMMAND = "import sys; from myna_plugin.hear_eval.cli import main; sys.exit(main())"
QUICK = ["--grid", "faster", "--grid-points", "1"]


def start(folder, *arguments, module="tiny_hear"):
    temporary = folder.with_name(f"{folder.name}-temporary")
    temporary.mkdir(exist_ok=True)
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(temporary)}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--module", module, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, *arguments, module="tiny_hear"):
    process = start(folder, *arguments, module=module)
    out, err = process.communicate(timeout=300)
    return SimpleNamespace(status=process.returncode, out=out, err=err)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A folder where a scene, an event and a k-fold task have been scored, stray files beside."""
    folder = tmp_path_factory.mktemp("scored")
    install_tiny_module(folder)
    scene_task(folder / "tasks" / "scene", rate=48_000, suffix=".flac")
    event_task(folder / "tasks" / "event", rate=44_100, suffix=".ogg")
    scene_task(folder / "tasks" / "folds", rate=22_050, folds=3)
    (folder / "tasks" / ".DS_Store").touch()
    (folder / "tasks" / "notes.txt").touch()
    outcome = run(folder, *QUICK, "--results", "scores/all.json", "--device", "cpu")
    return SimpleNamespace(
        folder=folder, embeddings=folder / "embeddings" / "tiny_hear", **vars(outcome)
    )


def heareval_report(scored, task):
    return json.loads((scored.embeddings / task / "test.predicted-scores.json").read_text())


def test_every_task_is_scored(scored):
    assert scored.status == 0, scored.err
    lines = [line.split() for line in scored.out.splitlines()]
    assert lines[0] == ["task", "metric", "score", "seconds"]
    assert [line[:2] for line in lines[1:]] == [
        ["event", "segment_1s_er"],
        ["event", "event_onset_200ms_fms"],
        ["folds", "top1_acc"],
        ["folds", "mAP"],
        ["scene", "top1_acc"],
        ["scene", "mAP"],
    ]


def test_table_and_json_say_what_heareval_wrote(scored):
    document = json.loads((scored.folder / "scores" / "all.json").read_text())
    tasks = {task["task"]: task for task in document["tasks"]}
    event = heareval_report(scored, "event")["test"]
    folds = heareval_report(scored, "folds")["aggregated_scores"]
    scene = heareval_report(scored, "scene")["test"]
    expected = {
        ("event", 0): (event["test_segment_1s_er"], None),
        ("event", 1): (event["test_event_onset_200ms_fms"], None),
        ("folds", 0): (folds["test_top1_acc_mean"], folds["test_top1_acc_std"]),
        ("folds", 1): (folds["test_mAP_mean"], folds["test_mAP_std"]),
        ("scene", 0): (scene["test_top1_acc"], None),
        ("scene", 1): (scene["test_mAP"], None),
    }
    for (task, place), (value, std) in expected.items():
        score = tasks[task]["scores"][place]
        assert (score["value"], score["std"]) == (value, std)
        shown = f"{value:.4f}" + (f" ± {std:.4f}" if std is not None else "")
        (line,) = [
            row for row in scored.out.splitlines() if row.split()[:2] == [task, score["metric"]]
        ]
        assert shown in line
    assert document["versions"]["heareval"] == "2021.1.3"
    assert document["versions"]["torch"] == importlib_metadata.version("torch")
    assert document["module"]["import_path"] == "tiny_hear"
    assert document["settings"]["grid_points"] == 1
    assert tasks["scene"]["made"]["predictions"]["device"] == "cpu"


def test_tones_are_told_apart(scored):
    # two tones three octaves apart: whatever the luck of one quick grid point, well above chance
    assert heareval_report(scored, "scene")["test"]["test_mAP"] > 0.9


def test_embeddings_are_the_modules_own_on_the_resampled_sounds(scored):
    sys.path.insert(0, str(scored.folder))
    try:
        import tiny_hear
    finally:
        sys.path.remove(str(scored.folder))
    model = tiny_hear.load_model()
    for path in sorted((scored.folder / "tasks/scene/48000/test").iterdir()):
        samples, rate = soundfile.read(path, dtype="float32")
        resampled = soxr.resample(samples, rate, tiny_hear.SAMPLE_RATE, quality="HQ")
        expected = tiny_hear.get_scene_embeddings(torch.from_numpy(resampled)[None], model)[0]
        found = np.load(scored.embeddings / "scene" / "test" / f"{path.stem}.wav.embedding.npy")
        np.testing.assert_allclose(found, expected, atol=2e-3)  # 16 bits on the way


def test_folder_is_kept_clean(scored):
    assert {path.name for path in scored.folder.iterdir()} == {
        "tasks",
        "tiny_hear",
        "embeddings",
        "scores",
    }
    assert {path.name for path in scored.embeddings.iterdir()} == {
        ".hear-eval",
        "results.json",
        "event",
        "folds",
        "scene",
    }


def test_noise_is_in_the_logs_and_not_on_the_terminal(scored):
    log = scored.embeddings / ".hear-eval" / "logs" / "event.predictions.log"
    assert "BEST POSTPROCESSING" in log.read_text()
    # the module twice, 2 tasks resampled, 3 + 3 stages, the JSON
    assert len(scored.err.splitlines()) == 11, scored.err


def test_second_run_reuses_everything(scored):
    before = {
        path: path.stat().st_mtime_ns
        for path in (scored.folder / "embeddings").rglob("*")
        if path.is_file() and ".hear-eval" not in path.parts and path.name != "results.json"
    }
    again = run(scored.folder, *QUICK)
    assert (again.status, again.out) == (0, scored.out)
    assert again.err.count("nothing changed") == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_baseline_of_ours_is_scored(tmp_path):
    scene_task(tmp_path / "tasks" / "scene", rate=16_000)
    outcome = run(tmp_path, *QUICK, "--device", "cpu", module="myna_plugin.peers.mfcc")
    assert outcome.status == 0, outcome.err
    scores = dict(line.split()[1:3] for line in outcome.out.splitlines()[1:])
    assert float(scores["mAP"]) > 0.9  # the two tones


@pytest.fixture
def workplace(tmp_path):
    """A folder with the tiny module and two scene tasks at its sample rate."""
    file = install_tiny_module(tmp_path)
    for name in ("a", "b"):
        scene_task(tmp_path / "tasks" / name, rate=22_050)
    return SimpleNamespace(folder=tmp_path, module=file)


def test_task_that_fails_is_named_and_the_other_is_embedded(workplace):
    path = workplace.folder / "tasks" / "a" / "22050" / "valid" / "valid5.wav"
    soundfile.write(path, np.full(22_050 // 2, 0.999), 22_050)
    with workplace.module.open("a") as stream:
        stream.write(
            "\n_get = get_scene_embeddings\ndef get_scene_embeddings(audio, model):\n"
            "    if (audio.mean(1) > 0.9).any():\n        raise RuntimeError('too loud')\n"
            "    return _get(audio, model)\n"
        )
    outcome = run(workplace.folder, "--skip-predictions")
    assert outcome.status == 1
    assert [line.split() for line in outcome.out.splitlines()][1][:3] == ["a", "-", "failed"]
    assert [line.split() for line in outcome.out.splitlines()][2][:3] == ["b", "-", "embedded"]
    assert "a has no score. embeddings: RuntimeError: too loud" in outcome.err
    assert "a.embeddings.log" in outcome.err
    embeddings = workplace.folder / "embeddings" / "tiny_hear"
    assert not (embeddings / "a").exists()
    assert (embeddings / "b" / ".done.embeddings").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_stopped_run_goes_on(workplace):
    with workplace.module.open("a") as stream:
        stream.write(
            "\nimport os, time\n_get = get_scene_embeddings\n"
            "def get_scene_embeddings(audio, model):\n"
            "    time.sleep(60 if os.environ.get('SLOW') and len(audio) != 3 else 0)\n"
            "    return _get(audio, model)\n"
        )
    os.environ["SLOW"] = "1"
    try:
        process = start(workplace.folder, "--skip-predictions", "--task", "a")
    finally:
        del os.environ["SLOW"]
    begun = workplace.folder / "embeddings" / "tiny_hear" / "a" / "train"
    wait_for(begun.exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    outcome = run(workplace.folder, "--skip-predictions", "--task", "a")
    assert outcome.status == 0
    assert (begun.parent / ".done.embeddings").exists()


def wait_for(condition, limit_s=60):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_device_is_the_one_asked_for(workplace, device):
    event_task(workplace.folder / "tasks" / "event", rate=22_050, suffix=".wav")
    outcome = run(workplace.folder, *QUICK, "--device", device, "--results", "scores.json")
    assert outcome.status == 0, outcome.err
    document = json.loads((workplace.folder / "scores.json").read_text())
    assert document["module"]["device"] == device
    embeddings = Path(workplace.folder / "embeddings" / "tiny_hear" / "event")
    profile = json.loads((embeddings / "profile.embeddings.json").read_text())
    assert (profile["gpu_device_name"] == "cpu") == (device == "cpu")
    gpus = json.loads((embeddings / "prediction-done.json").read_text())["gpus"]
    assert gpus == ([0] if device == "cuda" else None)
