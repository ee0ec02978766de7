"""In CI a test is skipped for want of a GPU or Triton alone; any other skip fails the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_passes():
    pass

@pytest.mark.skipif(True, reason="needs a CUDA device")
def test_gpu():
    pass

@pytest.mark.xfail(reason="no known reason")
def test_known_fault():
    assert False

def test_data():
    pytest.skip("shared reference data: none here")
"""

ANOTHER_SKIP = """
def test_program():
    pytest.skip("the program sox is not on PATH")
"""

ANOTHER_MODULE = """
import pytest

pytest.importorskip("a_package_that_is_not_there", reason="needs a package")
"""


@pytest.mark.parametrize(
    ("ci", "more", "module", "processes", "status"),
    [
        ("true", "", "", 0, 0),
        ("true", ANOTHER_SKIP, "", 2, 1),
        ("true", "", ANOTHER_MODULE, 2, 1),
        ("", ANOTHER_SKIP, ANOTHER_MODULE, 0, 0),
    ],
)
def test_what_is_not_allowed_fails_a_run_in_ci(tmp_path, ci, more, module, processes, status):
    shutil.copy(Path(__file__).with_name("skip_guard.py"), tmp_path / "conftest.py")
    (tmp_path / "test_one.py").write_text(TESTS + more)
    (tmp_path / "test_other.py").write_text(module)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(processes), "."],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"CI": ci},
    )
    assert done.returncode == status, done.stdout + done.stderr
    named = {
        "test_one.py::test_program: the program sox is not on PATH": bool(ci and more),
        "test_other.py: needs a package": bool(ci and module),
        "test_one.py::test_gpu: needs a CUDA device": False,
    }
    for line, told in named.items():
        assert (line in done.stdout.splitlines()) == told, done.stdout
