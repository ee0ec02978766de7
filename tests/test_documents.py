"""What the documents tell a reader to type: commands parse, Python blocks run.

A Python block that needs the network has `<!-- needs a download -->` on the line before it; it is
then only compiled, and its imports are made.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import setuptools
import soundfile

from myna_plugin.model.sources import PUBLISHED
from myna_plugin.pretraining.run.settings import PretrainSettings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOWNLOAD = "<!-- needs a download -->"

OTHERS = ("cd", "find", "export", "python cli.py", "python -m xares.run", "pip install")
"""How commands may begin that are not ours; of pip's, our extras are checked."""

TAKE_SETTINGS = {"pretrain", "sweep", "claims"}
"""Commands that take settings of pre-training as key=value."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: after the fence.
        text: between the fences.
        line: of the opening fence, from 1.
        marked: whether it is said to need a download.
    """

    language: str
    text: str
    line: int
    marked: bool


def read_blocks(document: str) -> list[Block]:
    """All fenced blocks of a Markdown text, those in lists and tabs too."""
    blocks, opened = [], None
    lines = document.splitlines()
    for number, line in enumerate(lines):
        if opened is None and (found := re.match(r"\s*```(\w*)", line)):
            opened = number, found[1]
        elif opened is not None and line.strip() == "```":
            begin, language = opened
            text = textwrap.dedent("\n".join(lines[begin + 1 : number]) + "\n")
            marked = begin > 0 and lines[begin - 1].strip() == DOWNLOAD
            blocks.append(Block(language, text, begin + 1, marked))
            opened = None
    assert opened is None, f"the fence at line {opened} is not closed"
    return blocks


# ------------------------------------------------------------------------------------------
# Commands
# ------------------------------------------------------------------------------------------


def split_commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block, word by word; comments and assignments before are dropped."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                if command:
                    yield command
                command = []
            elif command or not re.match(r"\w+=", word):
                command.append(word)


def fault(command: Sequence[str]) -> str | None:
    """What is wrong with a command; None if nothing is."""
    for word in command:
        path = word.partition("=")[2] if word.startswith("-") else word
        if re.match(r"(recipes|benchmarks|tests|tools|docs)/", path) and not (ROOT / path).exists():
            return f"{path} is not in the repository"
    name, *words = command
    if name == "torchrun":
        return fault(["python", *words[words.index("-m") :]])
    if name == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        unknown = {word for word in words if "=" not in word} - targets
        return f"no target {unknown}" if unknown else None
    if command[:2] == ["pip", "install"]:
        return unknown_extras(words)
    scripts = metadata.entry_points(group="console_scripts")
    if name in scripts.names and scripts[name].value.startswith("myna_plugin"):
        return fault_of_arguments(scripts[name].module, words)
    if command[:2] == ["python", "-m"] and re.match(
        r"(myna_plugin|benchmarks|recipes)\b", command[2]
    ):
        return fault_of_arguments(command[2], command[3:])
    if any(command[: len(other.split())] == other.split() for other in OTHERS):
        return None
    return f"{name} is not a command that documents may use"


def unknown_extras(words: Sequence[str]) -> str | None:
    """Extras of ours, as in myna-plugin[hdf5], that setup.py does not have."""
    with pytest.MonkeyPatch.context() as patch:
        told: dict[str, Any] = {}
        patch.setattr(setuptools, "setup", lambda **options: told.update(options))
        runpy.run_path(str(ROOT / "setup.py"))
    for word in words:
        found = re.fullmatch(r"(?:myna-plugin|\.)\[(.+)\]", word)
        unknown = set(found[1].split(",")) - set(told["extras_require"]) if found else None
        if unknown:
            return f"no extra {unknown}"
    return None


def fault_of_arguments(module_name: str, words: Sequence[str]) -> str | None:
    """What is wrong with the arguments of one of our modules that are commands."""
    try:
        found = importlib.util.find_spec(module_name)
        if found is not None and found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{module_name}.__main__")
    except ModuleNotFoundError:
        found = None
    if found is None:
        return f"there is no command {module_name}"
    module = importlib.import_module(found.name)
    settings = module_name.rpartition(".")[2] if words else ""
    commands = [value for value in vars(module).values() if isinstance(value, click.Command)]
    if not commands:
        wrong = fault_of_help(module, words)
    else:
        (command,) = commands
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            inner = command.get_command(
                click.Context(command, **command.context_settings), words[0]
            )
            if inner is None:
                return f"no sub-command {words[0]}"
            command, settings, words = inner, words[0], words[1:]
        wrong = fault_of_click(command, words)
    if settings in TAKE_SETTINGS:
        given = {word.partition("=")[0] for word in words if re.match(r"[a-z_]+=", word)}
        if unknown := given - set(PretrainSettings().to_mapping()):
            return f"no setting {unknown}"
    return wrong


def fault_of_click(command: click.Command, words: Sequence[str]) -> str | None:
    """An option that the command does not have, or a word that is none of its choices."""
    context = click.Context(command, **command.context_settings)
    try:
        values, _, _ = command.make_parser(context).parse_args(list(words))
        for parameter in command.params:
            value = values.get(parameter.name)
            if isinstance(parameter.type, click.Choice) and isinstance(value, str):
                parameter.type.convert(value, parameter, context)
    except click.UsageError as error:
        return error.format_message()
    return None


def fault_of_help(module: Any, words: Sequence[str]) -> str | None:
    """An option that is not in the help of a command that is written with argparse."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", [module.__name__, "--help"])
        with contextlib.suppress(SystemExit):
            module.main()
    known = set(re.findall(r"(?<![\w-])--?\w[\w-]*", out.getvalue()))
    options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    return f"no option {options - known}" if options - known else None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_parse(path):
    blocks = [block for block in read_blocks(path.read_text()) if block.language == "sh"]
    faults = [
        f"{path.name}, block at line {block.line}: {shlex.join(command)}: {wrong}"
        for block in blocks
        for command in split_commands(block.text)
        if (wrong := fault(command))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("myna embd music --out a.parquet", "no sub-command embd"),
        ("find . | myna embed - --uot a.parquet", "--uot"),
        ("myna embed music --out a.parquet --engine tape", "tape"),
        ("hear-eval --modul myna_plugin", "--modul"),
        ("python -m myna_plugin.recipes.absent", "no command"),
        ("python -m benchmarks.absent --help", "no command"),
        ("OMP_NUM_THREADS=1 python -m benchmarks.embed --clip 1", "--clip"),
        ("python -m benchmarks.rendered out --smal", "--smal"),
        ("torchrun --nproc-per-node 2 -m myna_plugin.recipes.pretrain --stor s", "--stor"),
        ("python -m myna_plugin.recipes.pretrain --store s --out r mask_ratoi=0.5", "mask_ratoi"),
        ("python -m myna_plugin.recipes.pretrain --config recipes/absent.yaml", "absent.yaml"),
        ("make demo && make dmeo", "dmeo"),
        ("pip install 'myna-plugin[hdf5,hdf6]'  # two", "hdf6"),
        ("cd x; rm -r music", "rm is not"),
    ],
)
def test_commands_that_are_wrong_are_found(line, told):
    (wrong,) = [found for command in split_commands(line) if (found := fault(command))]
    assert told in wrong


# ------------------------------------------------------------------------------------------
# Python
# ------------------------------------------------------------------------------------------


def prepare_names() -> dict[str, Any]:
    """What blocks may take for granted, made in the current folder, and their names."""
    generator = np.random.default_rng(0)
    waveform = 0.1 * generator.standard_normal(44_100).astype(np.float32)
    for name in ("song.mp3", "other.flac", "music/a.ogg", "music/b.wav"):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, waveform, 44_100)
    vectors = generator.standard_normal((3, 768)).astype(np.float32)
    table = {"path": ["a.mp3", "b.mp3", "c.mp3"], "duration_s": [1.0, 2.0, 3.0]}
    pq.write_table(pa.table(table | {"embedding": list(vectors)}), "library.parquet")
    return {"__name__": "__main__", "waveform": waveform}


def run_block(block: Block, path: Path, names: dict[str, Any]) -> None:
    """Run a Python block, or, if it is marked, make its imports alone."""
    # So that an error tells the line in the document.
    tree = ast.parse("\n" * block.line + block.text, path.name)
    if block.marked:
        compile(tree, path.name, "exec")
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        tree.body = list(nodes)
    exec(compile(tree, path.name, "exec"), names)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = prepare_names()
    for block in read_blocks(path.read_text()):
        if block.language == "python":
            run_block(block, path, names)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_what_names_a_published_checkpoint_is_marked(path):
    for block in read_blocks(path.read_text()):
        named = any(name in block.text for name in [*PUBLISHED, "hf://"])
        assert named or not block.marked, f"{path.name}, line {block.line}: can be run"


def test_the_picture_of_shares_is_of_the_table() -> None:
    """Every row and every score of docs/length.md is drawn, at its times on CPU and GPU."""
    tool = runpy.run_path(str(ROOT / "tools" / "draw_shares.py"))
    text = (ROOT / "docs" / "length.md").read_text()
    figure = tool["draw"](text)
    rows = [row.strip("|").split("|") for row in text.splitlines() if row.startswith("| ViT-")]
    assert len(rows) == 8
    assert len(rows[0]) - 5 == 5
    panels = [(timed, column) for timed in (1, 3) for column in range(5, 10)]
    for panel, (timed, column) in zip(figure.axes, panels, strict=True):
        drawn = [point for line in panel.lines for point in zip(*line.get_data(), strict=True)]
        assert drawn == [(float(row[timed]), float(row[column])) for row in rows]
        low, high = panel.get_ylim()
        assert all(low < score < high for _, score in drawn)
    assert (ROOT / "docs" / "images" / "shares.png").stat().st_size > 10_000
