"""The export command: its files, its refusals, and the real heareval on what it wrote."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from task_layouts import BUILDERS

from myna_plugin.cli.export_task import export_task
from myna_plugin.probing.tasks import TASKS


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


def test_a_place_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / "out").write_text("a file")
    result = run("--task", "gtzan", "--root", data / "gtzan", "--to", "hear", tmp_path / "out")
    assert result.exit_code == 2
    assert str(tmp_path / "out") in result.output
