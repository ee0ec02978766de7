"""Every script of benchmarks/ starts: its help without optional packages, and a toy-size run."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import published_state_dict

ROOT = Path(__file__).parents[2]
MAIN = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)
SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for folder in ("benchmarks", "recipes/rendered")
    for path in (ROOT / folder).rglob("*.py")
    if MAIN.search(path.read_text())
)

OPTIONAL = [
    *("heareval", "mteb", "onnx", "onnxruntime", "onnxscript", "pandas", "peft", "pretty_midi"),
    *("pytorch_lightning", "ray", "sed_eval", "tensorboard", "tinysoundfont", "transformers"),
]
"""Packages of extras; not of `probe`, which scripts import at once: it is told before hours."""

HELP = """
import contextlib, io, json, runpy, sys, traceback

for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # importing it is then a ModuleNotFoundError
found = {}
for script in json.loads(sys.argv[2]):
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(script, run_name="__main__")
            status = "ended without exiting"
        except SystemExit as stopped:
            status = stopped.code or 0
        except BaseException:  # whatever it is, it is this script's and is told with its name
            status = traceback.format_exc()
    found[script] = [status, out.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[object, str]]:
    """Exit status and output of every script's `--help`, where extras cannot be imported."""
    command = [sys.executable, "-c", HELP, json.dumps(OPTIONAL), json.dumps(SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_optional_package(script, helps):
    status, text = helps[script]
    assert status == 0, status
    assert "--help" in text


TINY = ["--device", "cpu", "--size", "vit-ti"]
TOY: dict[str, list[object]] = {
    "benchmarks.block_products": ["--device", "cpu", "--tokens", 64, "--rounds", 1],
    "benchmarks.decoders": ["--seconds", 1, "--rounds", 1],
    "benchmarks.embed": [
        *TINY, "--clips", 1, "--seconds", 4, "--timestamp-seconds", 1, "--repeats", 1,
        "--threads", 1,
    ],
    "benchmarks.largest_batch": [*TINY, "--clips", 2],
    "benchmarks.library": [*TINY, "--tracks", 3, "--seconds", 4, "--repeats", 1, "--workers", 1],
    "benchmarks.onnx_file": [
        "--model", "small.pth", "--seconds", 1, "--clips", 2, "--repeats", 1,
    ],
    "benchmarks.prepare": ["--minutes", 0.5, "--repeats", 1, "--workers", 1],
    "benchmarks.pretrain_step": [
        *TINY, "--batch-size", 2, "--clips", 2, "--steps", 1, "--repeats", 1,
    ],
    "benchmarks.probe_grid": [
        "--device", "cpu", "--tasks", "emomusic", "--two", "--patience", 1,
        "--plain-seconds", 0.01, "--threads", 1, "--equality", "emomusic",
    ],
    "benchmarks.rendered.claims": [
        "store", "tasks", "--out", "claims", "--variants", "hybrid", "--seeds", 1,
        "--grid", "fast", "--patience", 3, "--device", "cpu", "--workers", 1,
        "size=vit-ti", "batch_size=16", "max_steps=1", "warmup_steps=0",
    ],
    "recipes.rendered.soundfont_writer": ["drawn.sf2"],
    "benchmarks.rendered.speed": [
        "--soundfont", "drawn.sf2", "--clips", 1, "--clip-seconds", 2,
    ],
    "recipes.rendered.store": [
        "store", "--composed", 4, "--split", "all", "--soundfonts", "drawn.sf2",
        "--hours", 0.005, "--clip-seconds", 4, "--workers", 1,
    ],
    "benchmarks.rendered.tasks": [
        "tasks", "--composed", 60, "--train", 30, "--valid", 20, "--test", 20,
        "--notes", 2, 2, 2, "--clip-seconds", 3, "--soundfonts", "drawn.sf2", "--workers", 1,
    ],
    "benchmarks.soak": ["--kills", 1, "--seed", 1, "--commands", "prepare"],
    "benchmarks.weak_scaling": [
        "--size", "vit-ti", "--batch-size", 2, "--clips", 2, "--steps", 1, "--repeats", 1,
        "--processes", 1,
    ],
}  # fmt: skip
"""Arguments of a run of seconds on a CPU, in a folder of its own."""

RUN_ELSEWHERE = {
    "benchmarks.recordings": ROOT / "tests/benchmarks/test_recordings.py",
    "benchmarks.rendered": ROOT / "tests/benchmarks/rendered/test_whole.py",
    "benchmarks.rendered.table": ROOT / "tests/benchmarks/rendered/test_whole.py",
    "recipes.rendered.recorded_bank": ROOT / "tests/recipes/rendered/test_recorded_bank.py",
    "recipes.rendered.recorded_music": ROOT / "tests/recipes/rendered/test_recorded_music.py",
}
"""Scripts whose `main` another test module runs at toy size."""

NEEDS = {
    "benchmarks.rendered.claims": ["recipes.rendered.store", "benchmarks.rendered.tasks"],
    "benchmarks.rendered.speed": ["recipes.rendered.soundfont_writer"],
    "recipes.rendered.store": ["recipes.rendered.soundfont_writer"],
    "benchmarks.rendered.tasks": ["recipes.rendered.soundfont_writer"],
}
"""Scripts whose output a script reads."""

PRINTS = {
    "benchmarks.block_products": ", norm8 4.",
    "benchmarks.decoders": "| FLAC |",
    "benchmarks.embed": "| the literal pipeline |",
    "benchmarks.largest_batch": "| base, literal | 2 | ",
    "benchmarks.library": "| myna embed, float32, 1 decoding, 3 tracks |",
    "benchmarks.onnx_file": "| ONNX, int8 | ",
    "benchmarks.prepare": "| prepare, 1 worker |",
    "benchmarks.pretrain_step": "| literal | ",
    "benchmarks.probe_grid": "| emomusic | 2 | ",
    "benchmarks.rendered.claims": "| hybrid | 1 |",
    "recipes.rendered.soundfont_writer": "drawn.sf2: ",
    "benchmarks.rendered.speed": "| mel, float16 |",
    "recipes.rendered.store": "store: 16 clips",
    "benchmarks.rendered.tasks": "rendered_key",
    "benchmarks.soak": "kills, survived / lost:",
    "benchmarks.weak_scaling": "| 1 | eager |",
}
"""A row, or a word, of the result."""


@pytest.fixture(scope="module")
def outputs() -> dict[str, str]:
    """What scripts that were run have printed."""
    return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where scripts are run; two blocks of random weights lie there."""
    made = tmp_path_factory.mktemp("scripts")
    torch.save(published_state_dict(2), made / "small.pth")
    return made


@pytest.fixture
def run(
    outputs: dict[str, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Callable[[str], str]]:
    """Runs a script's `main`, once, after those that it needs; what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OUT", raising=False)
    monkeypatch.setenv("MYNA_PLUGIN_CACHE", str(folder / "cache"))
    # As with `python -m`; else tests/benchmarks comes first, where modules are looked for by name.
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()

    def run_script(script: str) -> str:
        for needed in NEEDS.get(script, []):
            run_script(needed)
        if script not in outputs:
            monkeypatch.setattr(sys, "argv", [script, *map(str, TOY[script])])
            module = importlib.import_module(script)
            capfd.readouterr()
            try:
                status = module.main()
            except SystemExit as stopped:
                status = stopped.code
            out, err = capfd.readouterr()
            assert not status, out + err
            outputs[script] = out
        return outputs[script]

    yield run_script
    torch.set_num_threads(threads)


def test_every_script_has_a_toy_run():
    assert set(TOY) == set(PRINTS)
    assert sorted([*TOY, *RUN_ELSEWHERE]) == SCRIPTS
    for path in RUN_ELSEWHERE.values():
        assert re.search(r"\b(invoke|run_command)\((\w+\.)?main,", path.read_text())


TAKES_LONG = {"benchmarks.rendered.claims", "benchmarks.soak"}
"""They start processes that import torch; other parts of claims are in rendered/test_claims.py."""


@pytest.mark.parametrize(
    "script", [pytest.param(s, marks=pytest.mark.slow) if s in TAKES_LONG else s for s in TOY]
)
def test_toy_run(script, run):
    assert PRINTS[script] in run(script)
