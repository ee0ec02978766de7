"""One set of bad files for everything that reads files of others: each is named, in a line."""

import os
from pathlib import Path

import click
import pytest
import torch
from commands import run_command
from conftest import published_state_dict
from hear_eval.generate_tasks import scene_task
from task_layouts import BUILDERS, MTG, write_tone

from myna_plugin.cli.export_task import export_task
from myna_plugin.cli.main import main
from myna_plugin.cli.pretrain import pretrain
from myna_plugin.cli.probe import probe
from myna_plugin.cli.report import report
from myna_plugin.cli.score_keys import score_keys
from myna_plugin.cli.sweep import sweep
from myna_plugin.common.errors import InputError
from myna_plugin.common.files import read_json, read_json_object
from myna_plugin.common.provenance import Record
from myna_plugin.pretraining.run.configuration import read_changes, read_yaml
from myna_plugin.pretraining.run.run_files import read_table
from myna_plugin.pretraining.store.reading import StoreSettings
from myna_plugin.probing.report.results import read_result
from myna_plugin.probing.tasks import TASKS, load_items
from myna_plugin.probing.tasks.hear_folder import read_folder
from myna_plugin.probing.tasks.splits import apply_splits

NINES = b"9" * 5000

EVERYWHERE = {"not UTF-8": b"\xff\xfe{\0}\0", "Latin": b'{"a": "\xe9"}'}

JSON = EVERYWHERE | {
    "nothing": b"",
    "cut off": b'{"a": ',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a": ' * 100_000,
    "just too deep": b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
    "long number": b'{"a": ' + NINES + b"}",
    "beyond floats": b'{"a": ' + NINES[:400] + b"}",
    "half a pair": rb'{"a": "\ud800"}',
    "twice": b'{"a": 1, "a": 2}',
}

YAML = EVERYWHERE | {
    "cut off": b"a: [",
    "a list": b"- a",
    "deep": b"[" * 500 + b"]" * 500,
    "long number": b"a: " + NINES,
    "half a pair": rb'a: "\ud800"',
    "no such day": b"a: 2001-13-45",
    "no such tag": b"a: !!int ''",
    "an object": b"a: !!python/object/apply:os.system [touch attacked]",
    "a bomb": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
}

TABLES = EVERYWHERE | {
    "long field": b'ID,"' + b"x" * 200_000,
    "open quote": b'step,loss\n1,"0.5\n2,0.25\n',
}


def built(task: str, layout: str, name: str):
    """A function that makes a task's annotations, without audio, and gives one of their files."""

    def build(root: Path) -> Path:
        BUILDERS[task][layout](root)
        return root / name

    return build


def beside(name: str):
    return lambda root: scene_task(root / "task") / name


def alone(root: Path) -> Path:
    return root / "file"


LINES = {name: data for name, data in JSON.items() if name != "nothing"}

READERS = {
    "JSON": (JSON, alone, lambda root: read_json_object(root / "file")),
    "metadata": (JSON, beside("task_metadata.json"), lambda root: read_folder(root / "task")),
    "labels": (JSON, beside("valid.json"), lambda root: read_folder(root / "task")),
    "JukeMIR": (
        JSON,
        alone,
        lambda root: load_items(TASKS["gtzan"], root, metadata=root / "file"),
    ),
    "MARBLE": (
        LINES,
        built("gtzan", "marble", "data/GTZAN/GTZANGenre.val.jsonl"),
        lambda root: load_items(TASKS["gtzan"], root),
    ),
    "splits": (JSON, alone, lambda root: apply_splits(root / "file", [])),
    "results": (JSON, lambda root: root / "results.json", read_result),
    "store": (JSON, lambda root: root / "store.json", StoreSettings.read),
    "settings": (YAML, alone, lambda root: read_yaml(root / "file")),
    "vocabulary": (TABLES, beside("labelvocabulary.csv"), lambda root: read_folder(root / "task")),
    "progress": (TABLES, alone, lambda root: read_table(root / "file")),
    "keys": (
        TABLES,
        built("giantsteps", "folder", f"{MTG}/annotations/annotations.txt"),
        lambda root: load_items(TASKS["giantsteps"], root),
    ),
}
"""What reads a file -> bad content, a function that makes all else, the reading."""

CASES = [(reader, bad) for reader, (contents, *_) in READERS.items() for bad in contents]

PLACES = {
    "folder": (Path.mkdir, "is a folder"),
    "pipe": (os.mkfifo, "is a pipe"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device"),
}


def refusal(reader: str, root: Path, spoil) -> str:
    """What a reader says of a file that `spoil` has made, less the file's name."""
    _, make, read = READERS[reader]
    file = make(root)
    file.unlink(missing_ok=True)
    spoil(file)
    with pytest.raises(InputError) as caught:
        read(root)
    (line,) = caught.value.lines
    assert "\n" not in line
    assert line.count(str(file)) == 1
    return line.removeprefix(str(file))


@pytest.fixture(autouse=True)
def short_audio(monkeypatch):
    """None of these readers looks at audio."""
    monkeypatch.setattr("task_layouts.write_tone", lambda *arguments: None)


@pytest.mark.parametrize(("reader", "bad"), CASES)
def test_bad_content_is_refused_in_a_line_that_names_the_file(tmp_path, monkeypatch, reader, bad):
    monkeypatch.chdir(tmp_path)
    refusal(reader, tmp_path, lambda file: file.write_bytes(READERS[reader][0][bad]))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_called_what_it_is(tmp_path, reader, place):
    make, told = PLACES[place]
    assert told in refusal(reader, tmp_path, make)


@pytest.mark.parametrize("bad", JSON)
def test_of_files_of_our_own_none_is_taken_for_a_bad_one(tmp_path, bad):
    (tmp_path / "file").write_bytes(JSON[bad])
    assert read_json_object(tmp_path / "file", {"a": 1}) == {"a": 1}
    assert Record(tmp_path / "file").changes("embeddings", {}) is None


def test_what_is_odd_but_whole_is_read(tmp_path):
    deep = "[" * 300 + "]" * 300
    text = f'{{"a": {deep}, "b": [1e400, -9223372036854775808, "\\ud83d\\ude00"]}}'
    (tmp_path / "file").write_text("\ufeff" + text)
    assert read_json(tmp_path / "file")["b"] == [float("inf"), -(2**63), "\N{GRINNING FACE}"]


COMMANDS = {
    "report": (report, alone, ["file"]),
    "score-keys": (score_keys, beside("task_metadata.json"), ["task"]),
    "probe": (probe, beside("valid.json"), ["--task", "hear", "--root", "task", "--check"]),
    "probe --metadata": (
        probe,
        alone,
        ["--task", "gtzan", "--root", ".", "--metadata", "file", "--check"],
    ),
    "export-task": (
        export_task,
        alone,
        ["out", "--to", "hear", "--task", "gtzan", "--root", ".", "--metadata", "file"],
    ),
    "pretrain": (pretrain, alone, ["--config", "file", "--print-config"]),
    "sweep": (sweep, alone, ["file", "--store", "store", "--out", "out"]),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("bad", ["deep", "long number", "half a pair", "not UTF-8", "a list"])
def test_commands_end_in_a_line(tmp_path, monkeypatch, name, bad):
    monkeypatch.chdir(tmp_path)
    command, make, arguments = COMMANDS[name]
    make(tmp_path).write_bytes((YAML if name in ("pretrain", "sweep") else JSON)[bad])
    status, said, errors = run_command(command, *arguments)
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert make(Path("")).name in errors if make is alone else "task/" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--model-options", "--encoder-options"])
@pytest.mark.parametrize("bad", sorted(JSON.keys() - EVERYWHERE.keys()))
def test_options_take_no_bad_json(option, bad):
    command = probe if option == "--model-options" else export_task
    status, said, errors = run_command(command, option, JSON[bad].decode("latin-1"))
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert f"'{option}': " in errors
    assert len(errors) < 500


@pytest.mark.parametrize("bad", sorted(YAML.keys() - EVERYWHERE.keys() - {"a list"}))
def test_settings_on_the_command_line_take_no_bad_yaml(bad):
    text = YAML[bad].decode().removeprefix("a: ")
    with pytest.raises(InputError, match="seed: "):
        read_changes([f"seed={text}"])


INPUTS = {
    "embed": ["BAD", "--out", "out.parquet", "--model", "GOOD/small.pth"],
    "embed --model": ["GOOD/songs", "--out", "out.parquet", "--model", "BAD"],
    "merge": ["BAD"],
    "similar": ["BAD", "GOOD/library.parquet"],
    "similar LIBRARY": ["GOOD/songs/a.wav", "BAD"],
    "plot": ["BAD", "--out", "out.png"],
    "info": ["BAD"],
    "import": ["BAD", "--as", "myna-base"],
    "export": ["--to", "onnx", "--out", "out", "--model", "BAD"],
    "prepare": ["BAD", "out"],
    "pretrain": ["--store", "BAD", "--out", "out"],
    "recipes": ["BAD", "--out", "out"],
    "sweep": ["BAD", "--store", "store", "--out", "out"],
    "probe": ["--task", "gtzan", "--root", "BAD", "--out", "out"],
    "probe HEAR": ["--task", "hear", "--root", "BAD", "--out", "out"],
    "probe --model": ["--task", "gtzan", "--root", "GOOD/gtzan", "--model", "BAD", "--out", "out"],
    "report": ["BAD"],
    "table1": ["--data", "BAD", "--out", "out", "--modules", "mfcc", "--tasks", "gtzan"],
    "export-task": ["out", "--to", "hear", "--task", "gtzan", "--root", "BAD"],
    "score-keys": ["BAD"],
}
"""Every command, with something bad where it takes a file or folder. A new one must stand here."""

BAD = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"this is a text\n"),
    "bytes": lambda path: path.write_bytes(bytes(range(256)) * 64),
    "empty folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
}


def test_every_command_is_given_bad_files():
    context = click.Context(main, **main.context_settings)
    assert {name.partition(" ")[0] for name in INPUTS} == set(main.list_commands(context))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """What is asked for beside the bad file: songs, a model, a library, a task."""
    root = tmp_path_factory.mktemp("good")
    write_tone(root / "songs" / "a.wav", 0, 1.0)
    torch.save(published_state_dict(2), root / "small.pth")
    model = ("--model", root / "small.pth", "--device", "cpu", "--workers", 1)
    done = run_command(main, "embed", root / "songs", "--out", root / "library.parquet", *model)
    assert done[0] == 0, done
    BUILDERS["gtzan"]["jukemir"](root / "gtzan")
    return root


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", INPUTS)
def test_no_command_stumbles_over_what_is_no_good(tmp_path, good, monkeypatch, name, bad):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYNA_PLUGIN_CACHE", str(tmp_path / "cache"))
    BAD[bad](tmp_path / "bad")
    arguments = [a.replace("BAD", "bad").replace("GOOD", str(good)) for a in INPUTS[name]]
    status, _, errors = run_command(main, name.partition(" ")[0], *arguments)
    assert status in (1, 2), errors
    assert "bad" in errors
    # Of a data set all that is missing is listed; of a folder of music every bad file.
    assert 1 <= errors.count("\n") <= (20 if "missing: " in errors else 4), errors
    assert not {"out", "out.png"} & {path.name for path in tmp_path.iterdir()}
