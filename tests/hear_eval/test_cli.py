"""Options and the faults that are found before heareval starts."""

import pytest
from click.testing import CliRunner

from myna_plugin.common.errors import InputError
from myna_plugin.common.registry import HearModel
from myna_plugin.hear_eval import cli, evaluation, requirements
from myna_plugin.hear_eval.cli import format_models, main, parse_model

from .conftest import install_tiny_module
from .generate_tasks import scene_task


@pytest.fixture
def run(tmp_path, monkeypatch, import_folder):
    """A function that runs the command in an empty folder, where heareval must not start."""
    install_tiny_module(import_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluation, "HearevalProcess", lambda _: pytest.fail("heareval started"))
    return lambda *arguments: CliRunner().invoke(main, arguments)


def assert_bad_input(result, *texts):
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    for text in texts:
        assert text in line


def test_help_has_every_option_and_examples(run):
    result = run("--help")
    assert result.exit_code == 0
    options = {option for parameter in main.params for option in parameter.opts}
    assert options >= {"--module", "--model", "--model-options", "--tasks-dir", "--task"}
    assert options >= {"--embeddings-dir", "--grid", "--grid-points", "--device", "--list"}
    assert options >= {"--skip-predictions", "--results", "--demo"}
    for option in options:
        assert f"{option} " in result.stdout
    assert "hear-eval --module myna_plugin --tasks-dir tasks" in result.stdout


def test_list_needs_neither_module_nor_heareval(run, monkeypatch):
    monkeypatch.setattr(requirements, "is_installed", lambda name: False)
    models = [
        HearModel("myna", "myna_plugin", "myna-plugin", "0.1"),
        HearModel("bad", "nope", "bad-hear", "2.0", "there is no module nope"),
    ]
    monkeypatch.setattr(cli, "list_models", lambda: models)
    result = run("--list")
    assert result.exit_code == 0
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "name  module       distribution  version",
        "myna  myna_plugin  myna-plugin   0.1",
        "bad   nope         bad-hear      2.0      cannot be used: there is no module nope",
    ]


def test_list_of_none_says_so():
    assert "hear.models" in format_models([])


@pytest.mark.parametrize("text", ["{", "[1]", "3", ""])
def test_model_options_must_be_a_json_object(run, text):
    assert_bad_input(run("--module", "tiny_hear", "--model-options", text), "--model-options", "'{")


def test_bad_input_leaves_nothing_behind(run, tmp_path):
    scene_task(tmp_path / "tasks" / "scene")
    (tmp_path / "tasks" / "no_task").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert_bad_input(run("--module", "tiny_hear"), "no_task/task_metadata.json is missing")
    assert_bad_input(run("--module", "nope"), "unknown module nope")
    assert_bad_input(run("--module", "tiny_hear", "--tasks-dir", "x"), "x: no such folder")
    assert_bad_input(run("--module", "tiny_hear", "--tasks-dir", "site"), "site")
    assert_bad_input(run("--module", "tiny_hear", "--task", "x"), "no task x; it has", "scene")
    assert_bad_input(run("--module", "tiny_hear", "--model", "x.pt"), "--model x.pt: no such file")
    assert_bad_input(run("--module", "tiny_hear", "--device", "tpu"), "--device tpu")
    inside = run("--module", "tiny_hear", "--embeddings-dir", "tasks/out")
    assert_bad_input(inside, "tasks/out lies in the tasks folder")
    blocked = run("--module", "tiny_hear", "--results", "tasks/scene/test.json/r.json")
    assert_bad_input(blocked, "tasks/scene/test.json: cannot be written to")
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_heareval_comes_with_its_commands(run, monkeypatch):
    monkeypatch.setattr(requirements, "is_installed", lambda name: False)
    assert_bad_input(
        run("--module", "tiny_hear"),
        "pip install --no-deps heareval==2021.1.3",
        'pip install "myna-plugin[hear-eval]"',
    )


def test_module_is_required(run):
    result = run()
    assert result.exit_code == 2
    assert "--module" in result.stderr


def test_model_is_a_path_or_a_name(tmp_path):
    weights = tmp_path / "weights.pt"
    weights.touch()
    assert parse_model(None) == (None, {})
    assert parse_model(str(weights)) == (weights, {})
    assert parse_model("myna-85m") == (None, {"model_file_path": "myna-85m"})
    for missing in ("weights.pth", "runs/last", str(tmp_path / "nope")):
        with pytest.raises(InputError, match="no such file"):
            parse_model(missing)
