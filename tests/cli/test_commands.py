"""What holds for every command: checked numbers and paths, one line for a fault, help, Ctrl-C."""

import importlib
import os
import signal
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from commands import run_command

from myna_plugin.cli.main import COMMANDS, import_command, main
from myna_plugin.common.options import NamedPath, Number

MODULES = ("myna_plugin.hear_eval.cli", *(f"benchmarks.rendered.{n}" for n in ("table", "tasks")))
MODULES += ("benchmarks.rendered.claims", "benchmarks.rendered.__main__")

EVERY = {name: import_command(name) for name in COMMANDS}
EVERY |= {name: importlib.import_module(name).main for name in MODULES}

BAD_NUMBERS = ("nan", "inf", "-inf", "1e400", "-1e400", "1" * 400, "1e18", "-1", "", "x", "1 2")

RECIPES = ("prepare", "pretrain", "sweep", "probe", "report", "export-task", "score-keys")


def types_of(parameter):
    """The types of a parameter's values, of which a tuple has several."""
    kind = parameter.type
    return kind.types if isinstance(kind, click.Tuple) else [kind]


def options_of(kind):
    """Every option of every command whose values have a type, with that type."""
    for name, command in EVERY.items():
        for parameter in command.params:
            types = types_of(parameter)
            if isinstance(parameter, click.Option) and isinstance(types[0], kind):
                yield pytest.param(
                    command, parameter.opts[0], types, id=f"{name} {parameter.opts[0]}"
                )


@pytest.mark.parametrize("name", EVERY)
def test_no_number_and_no_path_goes_unchecked(name):
    unchecked = (click.types.IntParamType, click.types.FloatParamType, click.Path, click.File)
    for parameter in EVERY[name].params:
        for kind in types_of(parameter):
            assert isinstance(kind, NamedPath) or not isinstance(kind, unchecked), parameter.name


@pytest.fixture
def refusal(capsys):
    """A function that gives the one line by which a command refuses arguments; it never runs."""

    def read(command, *arguments):
        with pytest.raises(SystemExit) as stopped:
            command.make_context(command.name, list(arguments))
        said, errors = capsys.readouterr()
        assert (stopped.value.code, said) == (2, ""), (arguments, errors)
        (line,) = errors.splitlines()
        return line

    return read


@pytest.mark.parametrize(("command", "option", "types"), list(options_of(Number)))
def test_bad_numbers_are_refused(refusal, command, option, types):
    (kind,) = {id(kind): kind for kind in types}.values()
    zero_is_bad = kind.low > 0 or kind.above
    for bad in (*BAD_NUMBERS, *(["0"] if zero_is_bad else []), *(["1.5"] * (kind.kind is int))):
        line = refusal(command, option, *([bad] * len(types)))
        assert line.startswith(f"{command.name}: Invalid value for '{option}': "), bad


@pytest.mark.parametrize(("command", "option", "types"), list(options_of(NamedPath)))
def test_no_path_may_be_empty(refusal, command, option, types):
    assert f"'{option}': is empty" in refusal(command, option, "")


@pytest.mark.parametrize("name", EVERY)
def test_no_place_may_be_empty(refusal, name):
    places = [p for p in EVERY[name].params if isinstance(p, click.Argument)]
    if places and isinstance(places[0].type, NamedPath):
        assert "is empty" in refusal(EVERY[name], *[""] * len(places))


def test_numbers_are_read():
    assert Number(int, 1)("12") == 12
    assert Number(float, above=True)("1e-3") == 0.001
    assert Number(float)("0") == 0.0
    with pytest.raises(click.BadParameter, match="above 0 and at most 1, got 0"):
        Number(float, 0, 1, above=True)("0")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name):
    status, said, _ = run_command(main, name, "-h")
    assert status == 0
    assert "Example" in said
    assert f"  myna {name} " in said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sing"], "myna: No such command 'sing'"),
        (["--loud"], "myna: No such option '--loud'"),
        (["info", "a", "b"], "myna info: Got unexpected extra argument (b)"),
        (["embed", "a", "--out="], "myna embed: Invalid value for '--out': is empty"),
    ],
)
def test_wrong_use_is_a_line(arguments, line):
    status, said, errors = run_command(main, *arguments)
    assert (status, said) == (2, "")
    assert errors.startswith(line)
    assert errors.count("\n") == 1


def test_without_arguments_the_group_shows_its_help():
    assert "Commands:" in run_command(main)[2]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_same_commands(name):
    recipe = importlib.import_module(f"myna_plugin.recipes.{name.replace('-', '_')}")
    assert recipe.main is EVERY[name]


@pytest.mark.parametrize(
    ("arguments", "told", "imported", "number", "status"),
    [
        (["myna_plugin.cli", "embed"], "myna", "click", signal.SIGINT, 130),
        (["myna_plugin.cli", "embed"], "myna embed", "torch", signal.SIGTERM, 143),
        (["myna_plugin.recipes.pretrain", "--help"], "myna pretrain", "click", signal.SIGTERM, 143),
        (["myna_plugin.recipes.pretrain", "--help"], "myna pretrain", "torch", signal.SIGINT, 130),
        (["myna_plugin.hear_eval", "--help"], "hear-eval", "click", signal.SIGINT, 130),
        (["myna_plugin.hear_eval", "--help"], "hear-eval", "torch", signal.SIGINT, 130),
    ],
)
def test_a_signal_during_imports_is_a_line(tmp_path, arguments, told, imported, number, status):
    code = f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n"
    (tmp_path / f"{imported}.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"{told}: stopped")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_of_several_processes_the_first_speaks(monkeypatch, rank, lines):
    monkeypatch.setenv("RANK", rank)
    status, _, errors = run_command(EVERY["pretrain"], "--store", "x", "--out", "x", "seed=x")
    assert status == 2
    assert len(errors.splitlines()) == lines


def completed(words, begun):
    """What the shell offers."""
    completions = ShellComplete(main, {}, "myna", "_MYNA_COMPLETE").get_completions(words, begun)
    return [item.value for item in completions]


def test_the_shell_completes(monkeypatch):
    assert completed(["embed"], "--prec") == ["--precision"]
    assert "_MYNA_COMPLETE=bash_source myna" in run_command(main, "--help")[1]
    # Names at once: nothing is imported for them.
    monkeypatch.setattr("myna_plugin.cli.main.import_command", None)
    assert completed([], "pre") == ["prepare", "pretrain"]
