"""The pretrain command: settings from files and arguments, exit statuses, and whole runs."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from commands import run_command
from hear_eval.generate_tasks import scene_task
from tiny_store import write_store

from myna_plugin import load_model
from myna_plugin.cli.pretrain import pretrain, read_settings
from myna_plugin.cli.recipe_files import FILES
from myna_plugin.pretraining.run.configuration import to_yaml
from myna_plugin.pretraining.run.run_files import RunFolder, read_table
from myna_plugin.pretraining.run.settings import PretrainSettings

RECIPES = FILES / "pretrain"

TINY = ["size=vit-ti", "depth=1", "batch_size=4", "device=cpu", "tensorboard=false"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "store"
    write_store(folder)
    return str(folder)


def test_settings_round_trip_through_yaml(tmp_path):
    for settings in (
        PretrainSettings(),
        PretrainSettings(projector=(), tile_rows=None, learning_rate=1e-5),
    ):
        path = tmp_path / "config.yaml"
        path.write_text(to_yaml(settings))
        assert read_settings(path, []) == settings


def test_arguments_override_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("mask_ratio: 0.5\nseed: 3\nlearning_rate: 1e-4\n")
    settings = read_settings(path, ["seed=4", "patchings=[vertical]", "depth=null"])
    assert (settings.mask_ratio, settings.seed, settings.learning_rate) == (0.5, 4, 1e-4)
    assert settings.patchings == ("vertical",)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid_and_headed(path):
    settings = read_settings(path, [])
    head = path.read_text().splitlines()[:4]
    labels = [line.split(":")[0] for line in head]
    assert labels == ["# Command", "# Hardware", "# Duration", "# Score"]
    assert head[0].split("initial_weights")[0].rstrip().endswith(f"--config {path.stem}")
    if path.stem in ("base", "vertical", "hybrid"):
        wanted = {"base": ("square",), "vertical": ("vertical",), "hybrid": ("square", "vertical")}
        paper = PretrainSettings(patchings=wanted[path.stem], held_out_clips=1024)
        assert settings == paper


def test_the_recipes_are_those_promised():
    names = {path.stem for path in RECIPES.glob("*.yaml")}
    assert names == {
        *("base", "vertical", "hybrid", "mae", "hybrid_85m"),
        *("default", "default_last", "rendered", "smoke", "speedrun"),
    }
    assert read_settings(RECIPES / "mae.yaml", []).objective == "mae"
    assert read_settings(RECIPES / "hybrid_85m.yaml", []).encoder_config().embed_dim == 768


def test_print_config():
    status, said, _ = run_command(pretrain, "--print-config", "seed=9")
    assert status == 0
    assert yaml.safe_load(said) == PretrainSettings(seed=9).to_mapping()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batch_sise=8"], "batch_sise: unknown setting; did you mean batch_size?"),
        (["seed=1", "--resume", "batch_size"], "batch_size: settings are given as key=value"),
        (["batch_size=[1"], "batch_size: '[1': not YAML ("),
        (["--config", "absent.yaml"], "absent.yaml: cannot be read (no such file)"),
        (["batch_size=4096"], "there are 24 clips to train on, fewer than one batch of 4096"),
        ([*TINY, "crop_frames=400"], "shorter than a crop of 400 frames"),
        (["--store", "nowhere"], "nowhere: not a store"),
    ],
)
def test_bad_input_is_one_line_and_status_2(store, tmp_path, arguments, message):
    out = str(tmp_path / "run")
    status, _, error = run_command(pretrain, "--store", store, "--out", out, *arguments)
    assert status == 2
    assert error.startswith("pretrain: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_file_with_a_wrong_setting_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mask_ration: 0.5\n")
    status, _, error = run_command(pretrain, "--config", path, "--print-config")
    assert status == 2
    assert f"{path}: mask_ration: unknown setting; did you mean mask_ratio?" in error
    path.write_text("- 1\n")
    status, _, error = run_command(pretrain, "--config", path, "--print-config")
    assert status == 2
    assert "holds a list" in error


def test_smoke_recipe_trains_a_model_that_loads_and_learns(store, tmp_path):
    out = tmp_path / "run"
    arguments = ["--store", store, "--out", str(out)]
    changes = ["--config", str(RECIPES / "smoke.yaml"), "depth=1", "max_steps=60"]
    status, said, _ = run_command(pretrain, *arguments, *changes)
    assert status == 0
    assert f"myna_plugin.load_model('{out / 'final.safetensors'}')" in said
    rows = read_table(out / "train.csv")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.5
    assert load_model(out / "final.safetensors").scene_embedding_size == 384
    # Its config.yaml trains the same run.
    assert read_settings(out / "config.yaml", []) == read_settings(
        RECIPES / "smoke.yaml", ["depth=1", "max_steps=60"]
    )
    status, _, error = run_command(pretrain, *arguments, *changes)
    assert status == 2
    assert "already holds a run" in error
    # Without --config a resumed run keeps its settings.
    assert run_command(pretrain, *arguments, "--resume", "max_steps=62")[0] == 0
    assert read_table(out / "train.csv")[-1]["step"] == "62"
    status, _, error = run_command(pretrain, *arguments, "--resume", "seed=1")
    assert status == 2
    assert "begun with seed=0 (now 1)" in error


def test_a_run_is_probed_on_the_way(store, tmp_path):
    task, out = scene_task(tmp_path / "pitches"), tmp_path / "run"
    arguments = ["--store", store, "--out", str(out), *TINY, "max_steps=4", "log_every=3"]
    arguments += [f"probe_tasks=[{task}]", "probe_every=2"]
    status, said, _ = run_command(pretrain, *arguments)
    assert status == 0
    told = said.splitlines()
    rows = read_table(out / "train.csv")
    assert [row["step"] for row in rows] == ["2", "3", "4"]
    scores = [row["probe_pitches"] for row in rows]
    assert scores[1] == ""
    assert all(0.5 <= float(score) <= 1 for score in (scores[0], scores[2]))
    assert f"step 2: probes on validation: pitches {float(scores[0]):.3f}" in told
    best = load_model(out / "best_probe.safetensors")
    assert best.scene_embedding_size == 384


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to use")
def test_a_gpu_that_is_not_there_is_refused_with_probes_too(store, tmp_path):
    task, out = scene_task(tmp_path / "pitches"), tmp_path / "run"
    arguments = ["--store", store, "--out", str(out), *TINY, "device=cuda"]
    for probes in ([], [f"probe_tasks=[{task}]"]):
        status, _, error = run_command(pretrain, *arguments, *probes)
        assert status == 2
        assert error.startswith("pretrain: device cuda: ")
    assert not out.exists()


def test_a_task_that_is_not_there_is_refused_before_training(store, tmp_path):
    out = tmp_path / "run"
    arguments = ["--store", store, "--out", str(out), *TINY, "probe_tasks=[gtzan=nowhere]"]
    told = "pretrain: probe_tasks: nowhere: no such folder\n"
    assert run_command(pretrain, *arguments) == (2, "", told)
    assert not out.exists()


def test_divergence_is_status_1(store, tmp_path):
    arguments = ["--store", store, "--out", str(tmp_path / "run"), *TINY, "max_steps=4"]
    status, _, error = run_command(pretrain, *arguments, "learning_rate=1e30")
    assert status == 1
    assert "the loss is nan in steps 1 to 4" in error.splitlines()[-1]


def test_of_two_runs_in_one_folder_the_second_is_refused(store, tmp_path):
    out = tmp_path / "run"
    arguments = ["--store", store, "--out", str(out), *TINY, "max_steps=2", "--resume"]
    with RunFolder(out).writing():
        status, _, errors = run_command(pretrain, *arguments)
    assert status == 2
    assert errors == f"pretrain: {out}: another process is training there; wait for its end\n"
    assert not out.exists()
    assert run_command(pretrain, *arguments)[0] == 0


def test_sigterm_saves_and_exits_0(store, tmp_path):
    out = tmp_path / "run"
    arguments = ["--store", store, "--out", str(out), *TINY, "log_every=1", "epochs=1000000"]
    # Checkpoints only when asked: what is found afterwards is the signal's.
    arguments += ["checkpoint_every=1000000", "keep_every=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "myna_plugin.recipes.pretrain", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while not read_table(out / "train.csv"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    (saved,) = (out / "checkpoints").iterdir()
    step = int(read_table(out / "train.csv")[-1]["step"])
    assert saved.name == f"step-{step:08d}.pt"
    assert f"stopped after step {step:,}; --resume goes on" in told
