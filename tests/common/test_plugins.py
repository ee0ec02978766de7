"""Parts from other distributions: one is made in a temporary folder and found from there."""

import os
import subprocess
import sys

from myna_plugin.common.plugins import PluginTable
from myna_plugin.probing.tasks import BUILT_IN as BUILT_IN_TASKS

CODE = """
print("my_parts is imported")
from dataclasses import replace

from myna_plugin.pretraining.step.masking import MASKINGS, count_kept, draw_uniform, Masking
from myna_plugin.probing.tasks import TASKS

MY_TASK = replace(TASKS["gtzan"], name="my-task")
MISNAMED = TASKS["gtzan"]
MY_MASKING = Masking(count_kept, draw_uniform, "mine")
"""

ENTRIES = """
[myna_plugin.tasks]
my-task = my_parts:MY_TASK
gtzan = my_parts:MY_TASK
misnamed = my_parts:MISNAMED
a-masking = my_parts:MY_MASKING
absent = my_parts:NOTHING
missing = no_such_module:TASK

[myna_plugin.maskings]
mine = my_parts:MY_MASKING
"""


def distribution(folder, name, code=CODE, entries=ENTRIES):
    """Lay out an installed distribution: a module and its metadata."""
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(entries)
    (folder / f"{name}.py").write_text(code)
    return folder


def run(folder, code):
    """What a fresh interpreter prints with that folder installed, and its warnings and errors."""
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_a_distribution_adds_a_task_and_a_masking(tmp_path):
    code = """
from myna_plugin.probing.tasks import TASKS, load_task
from myna_plugin.pretraining.step.masking import MASKINGS, draw_masks
import torch
print(*TASKS)
print(*MASKINGS)
print(TASKS["gtzan"].name)
print(TASKS["my-task"].name)
print(draw_masks("mine", 3, (8, 6), 0.9, torch.Generator()).shape)
for name in ("misnamed", "a-masking", "absent", "missing"):
    try:
        TASKS[name]
    except ValueError as error:
        print(type(error).__name__, error)
"""
    result = run(distribution(tmp_path, "my_parts"), code)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    tasks = lines[0].split()
    assert tasks[:-5] == list(BUILT_IN_TASKS)
    assert tasks[-5:] == ["a-masking", "absent", "misnamed", "missing", "my-task"]
    assert lines[1].split()[-1] == "mine"
    assert lines[2] == "gtzan"
    assert lines[3] == "my_parts is imported"  # only here, not while names were listed
    assert lines[4] == "my-task"
    assert lines[5] == "torch.Size([2, 3, 5])"
    assert lines[6:] == [
        "TaskError myna_plugin.tasks: misnamed = my_parts:MISNAMED calls itself "
        "'gtzan'; the two names must agree",
        "TaskError myna_plugin.tasks: a-masking = my_parts:MY_MASKING is of type "
        "Masking; a Task is needed",
        "TaskError myna_plugin.tasks: absent = my_parts:NOTHING cannot be imported "
        "(AttributeError: module 'my_parts' has no attribute 'NOTHING')",
        "TaskError myna_plugin.tasks: missing = no_such_module:TASK cannot be "
        "imported (ModuleNotFoundError: No module named 'no_such_module')",
    ]


def test_built_in_parts_ask_for_no_metadata(monkeypatch):
    def refuse(**_):
        raise AssertionError("read the metadata of every distribution")

    monkeypatch.setattr("myna_plugin.common.plugins.entry_points", refuse)
    table = PluginTable("myna_plugin.examples", int, {"one": 1})
    assert table["one"] == 1
    assert "one" in table
