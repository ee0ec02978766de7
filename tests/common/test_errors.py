"""Known errors end in a line and a status; a missing extra is named; faults of ours are shown."""

import subprocess
import sys

import pytest

from myna_plugin.common.errors import BAD_INPUT, EXTRAS, FAILED, InputError, UnfinishedError, told
from myna_plugin.common.stopping import INTERRUPTED, TERMINATED, Terminated


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("a.wav: silent"), BAD_INPUT, "myna: a.wav: silent\n"),
        (InputError("one", "two"), BAD_INPUT, "myna: one\nmyna: two\n"),
        (
            InputError(f"a.csv: {'x' * 200_000} is no number"),
            BAD_INPUT,
            f"myna: a.csv: {'x' * 493} … {'x' * 487} is no number\n",
        ),
        (UnfinishedError("a worker died"), FAILED, "myna: a worker died\n"),
        (
            OSError(28, "No space left", "x"),
            FAILED,
            "myna: x: No space left on device; free some there, or write to another disk\n",
        ),
        (OSError("a socket broke"), FAILED, "myna: a socket broke\n"),
        (KeyboardInterrupt(), INTERRUPTED, "myna: stopped; the same command goes on from here\n"),
        (Terminated(), TERMINATED, "myna: stopped; the same command goes on from here\n"),
        (
            ModuleNotFoundError("No module", name="mir_eval.key"),
            BAD_INPUT,
            "myna: mir_eval is not installed: pip install 'myna-plugin[probe]'\n",
        ),
    ],
)
def test_known_errors_end_in_a_line_and_a_status(error, status, line, capsys):
    with pytest.raises(SystemExit) as ended, told("myna"):
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "error", [KeyError("x"), ModuleNotFoundError("No module", name="own"), BrokenPipeError()]
)
def test_faults_in_the_code_are_shown(error):
    with pytest.raises(type(error)), told("myna"):
        raise error


def test_embedding_needs_no_extra():
    """With every optional package out of reach the base install's parts can be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({[*EXTRAS]}, None))\n"
        "import myna_plugin, myna_plugin.cli.main, myna_plugin.cli.embed, myna_plugin.cli.info, "
        "myna_plugin.cli.similar, myna_plugin.hear.square\n"
        "import numpy; print(myna_plugin.load_model().scene_embedding_size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
