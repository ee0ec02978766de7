"""The export command: its files, its refusals, and the real heareval on what it wrote."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from task_layouts import BUILDERS

from myna_plugin.cli.export_task import export_task
from myna_plugin.cli.score_keys import score_keys
from myna_plugin.probing.tasks import TASKS, hear_predictions, key_scores

REPOSITORY = Path(__file__).parents[2]

SMALL_GRID = ("--grid", "faster", "--grid-points", "1")

TENSORFLOW = '''
"""Stands in for tensorflow, of which heareval uses these names."""
import contextlib

class Module:
    pass

class test:
    @staticmethod
    def is_gpu_available(**options):
        return True

float32 = "float32"
device = contextlib.nullcontext

def convert_to_tensor(value):
    return value
'''

SPECTRUM_MODULE = '''
"""A HEAR module: the spectrum of the first second, in 32 bands."""
import torch

class Spectrum(torch.nn.Module):
    sample_rate = 16000
    scene_embedding_size = timestamp_embedding_size = 32

def load_model(model_file_path=""):
    return Spectrum().eval()

def get_scene_embeddings(audio, model):
    bins = torch.fft.rfft(audio[:, :16000]).abs()[:, 100:900]
    return torch.log1p(bins.reshape(len(bins), 32, -1).mean(2))

def get_timestamp_embeddings(audio, model):
    return get_scene_embeddings(audio, model)[:, None], torch.zeros(len(audio), 1)
'''


def run(*arguments: object):
    return CliRunner().invoke(export_task, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """JukeMIR's GTZAN and the public layouts of the others."""
    root = tmp_path_factory.mktemp("data")
    for name in BUILDERS:
        (root / name).mkdir()
        BUILDERS[name]["jukemir" if name == "gtzan" else "folder"](root / name)
    return root


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory) -> Path:
    """HEAR tasks of everything that HEAR can express."""
    out = tmp_path_factory.mktemp("exported") / "tasks"
    for name in ("gtzan", "magnatagatune", "giantsteps"):
        result = run("--task", name, "--root", data / name, "--to", "hear", out)
        assert result.exit_code == 0, result.output
        assert "clips present" in result.output
    return out


def test_a_key_task_says_that_hear_has_no_weighted_score(exported):
    note = (exported / "giantsteps" / "README.md").read_text()
    assert "HEAR knows no weighted key score" in note
    assert "myna score-keys" in note
    assert not (exported / "gtzan" / "README.md").exists()
    assert {path.name for path in exported.iterdir()} == {"gtzan", "magnatagatune", "giantsteps"}


def test_what_is_written_is_said_and_needs_room(data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1_000))
    for runner in ("hear", "marble"):
        out = tmp_path / runner
        options = ("--to", runner, "--sample-rate", "11025", out)
        result = run("--task", "gtzan", "--root", data / "gtzan", *options)
        assert result.exit_code == 2
        (said,) = re.findall(r"(\d+) WAV files to write, (\S+)\n", result.stderr)
        assert result.stderr.endswith(
            f": {said[1]} are needed, and its disk has 1.00kB left; free some, or take another "
            "disk\n"
        )
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def call_python(folder: Path, *arguments: str) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(folder / "stand_in"), str(REPOSITORY)]),
        # heareval reads back the checkpoints it wrote, with its own classes in them.
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture
def workshop(tmp_path) -> Path:
    (tmp_path / "spectrum.py").write_text(SPECTRUM_MODULE)
    return tmp_path


def test_real_heareval_scores_the_exported_tasks(exported, workshop):
    """Unmodified runners; our reading of their predictions gives their own accuracy."""
    if importlib.util.find_spec("heareval") is None:
        pytest.skip("heareval is not installed")
    if importlib.util.find_spec("tensorflow") is None:
        (workshop / "stand_in" / "tensorflow").mkdir(parents=True)
        (workshop / "stand_in" / "tensorflow" / "__init__.py").write_text(TENSORFLOW)
    options = ("spectrum", "--tasks-dir", str(exported))
    call_python(workshop, "-m", "heareval.embeddings.runner", *options)
    embeddings = workshop / "embeddings" / "spectrum"
    tasks = sorted(str(path) for path in embeddings.iterdir())
    call_python(workshop, "-m", "heareval.predictions.runner", *SMALL_GRID, *tasks)
    scores = {
        Path(task).name: json.loads((Path(task) / "test.predicted-scores.json").read_text())["test"]
        for task in tasks
    }
    assert set(scores) == {"gtzan", "magnatagatune", "giantsteps"}
    assert 0 <= scores["gtzan"]["test_top1_acc"] <= 1
    assert 0 <= scores["magnatagatune"]["test_aucroc"] <= 1
    assert 0 <= scores["magnatagatune"]["test_mAP"] <= 1
    predictions = hear_predictions.read_test_predictions(embeddings / "giantsteps")
    ours = key_scores.score_keys(predictions)
    assert ours["clip"]["accuracy"] == pytest.approx(scores["giantsteps"]["test_top1_acc"])
    assert ours["track"]["weighted_key_score"] <= ours["track"]["weighted_key_score_both_fifths"]
    result = CliRunner().invoke(score_keys, [str(embeddings / "giantsteps")])
    assert result.exit_code == 0
    assert "| track |" in result.output


# --- MARBLE


@pytest.mark.parametrize("name", BUILDERS)
def test_marble_export(data, tmp_path, name):
    result = run("--task", name, "--root", data / name, "--to", "marble", tmp_path)
    assert result.exit_code == 0, result.output
    layout = TASKS[name].marble
    path = tmp_path / f"probe.Myna.{layout.stem}.yaml"
    settings = yaml.safe_load(path.read_text())
    assert f"--config {path}" in path.read_text()
    model, sets = settings["model"]["init_args"], settings["data"]["init_args"]
    for split in ("train", "val", "test"):
        assert Path(sets[split]["init_args"]["jsonl"]).is_file()
        assert sets[split]["init_args"]["sample_rate"] == model["sample_rate"] == 16_000
        assert layout.monitor.removeprefix("val/") in model["metrics"][split]
    assert model["decoders"][0]["init_args"]["out_dim"] == len(TASKS[name].labels)
    assert sets["num_workers"] >= 1
    checkpoint, _, stopping = settings["trainer"]["callbacks"]
    assert checkpoint["init_args"]["monitor"] == stopping["init_args"]["monitor"] == layout.monitor


def test_marble_encoder_can_be_another(data, tmp_path):
    options = ("--encoder", "mine.Encoder", "--encoder-options", '{"size": 3}', "--embed-dim", "12")
    result = run("--task", "gtzan", "--root", data / "gtzan", "--to", "marble", *options, tmp_path)
    assert result.exit_code == 0, result.output
    settings = yaml.safe_load((tmp_path / "probe.Myna.GTZANGenre.yaml").read_text())
    model = settings["model"]["init_args"]
    assert model["encoder"] == {"class_path": "mine.Encoder", "init_args": {"size": 3}}
    assert model["decoders"][0]["init_args"]["in_dim"] == 12


# --- Refusals: one line, status 2, nothing written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "emomusic", "--to", "hear"), "emomusic is a regression task; HEAR knows"),
        (("--task", "polka", "--to", "hear"), "no task 'polka'"),
        (("--task", "emotify_genre", "--to", "marble"), "is not a task of MARBLE"),
        (("--task", "gtzan", "--to", "hear", "--layout", "marble"), "layout 'marble'"),
        (("--task", "gtzan", "--to", "hear", "--metadata", "no.json"), "no.json: cannot be read"),
        (("--task", "gtzan", "--to", "marble", "--encoder-options", "{"), "'{': not JSON ("),
        (("--task", "gtzan", "--to", "marble", "--encoder-options", "[]"), "no JSON object"),
    ],
)
def test_refusals(data, tmp_path, arguments, message):
    name = arguments[1] if arguments[1] in BUILDERS else "gtzan"
    result = run(*arguments, "--root", data / name, tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_an_incomplete_set_is_refused_unless_allowed(tmp_path):
    BUILDERS["gtzan"]["jukemir"](tmp_path)
    (tmp_path / "genres/rock/rock.00003.wav").unlink()
    arguments = ("--task", "gtzan", "--root", tmp_path, "--to", "hear", tmp_path / "out")
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "rock.00003.wav: no such file" in refused.output
    assert not (tmp_path / "out").exists()
    allowed = run(*arguments, "--allow-missing")
    assert allowed.exit_code == 0
    assert "valid 5" in allowed.output
