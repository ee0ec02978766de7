"""heareval's process: its output goes to the log, and what ends it ends one job only."""

import multiprocessing
import os
import re
import subprocess
import sys

import pytest

from myna_plugin.common.errors import InputError
from myna_plugin.hear_eval.heareval_process import HearevalProcess, Job, JobError, describe_failure

from .conftest import install_tiny_module


@pytest.fixture
def job(tmp_path):
    """A function that makes a job: examine a module."""

    def make(module):
        arguments = {
            "module": module,
            "model": None,
            "model_options": {},
            "embedding_types": ["scene"],
        }
        return Job("examine", arguments, tmp_path / f"{module}.log")

    return make


def test_life_of_a_process(import_folder, job, capfd):
    # one test, since each process takes seconds to import torch
    install_tiny_module(import_folder)
    (import_folder / "killed.py").write_text("import os; os.kill(os.getpid(), 9)\n")
    (import_folder / "noisy.py").write_text(
        "import os, sys, warnings\n"
        "print('printed'); os.write(2, b'from C'); warnings.warn('warned')\n"
        "print(os.environ['FOR_HEAREVAL'])\n"
    )
    looks = []
    with HearevalProcess({"FOR_HEAREVAL": "set there"}) as process:
        assert process.run(job("tiny_hear"), lambda: looks.append(1))["sample_rate"] == 22050
        assert looks
        with pytest.raises(InputError, match="noisy is no HEAR module"):
            process.run(job("noisy"))
        with pytest.raises(JobError, match="ended by SIGKILL; most often: out of memory"):
            process.run(job("killed"))
    assert not multiprocessing.active_children()
    assert "FOR_HEAREVAL" not in os.environ
    log = job("noisy").log.read_text()
    assert all(text in log for text in ("printed", "from C", "warned", "set there", "Traceback"))
    assert capfd.readouterr() == ("", "")


def test_it_watches_its_parent_before_it_imports_what_takes_seconds():
    modules = "myna_plugin.hear_eval.__main__, myna_plugin.hear_eval.heareval_process"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_failure_is_told_with_its_place():
    with pytest.raises(AssertionError) as caught:
        raise_without_a_message()
    described = describe_failure(caught.value)
    assert re.fullmatch(r"AssertionError.*\(test_heareval_process\.py:\d+: .*False.*\)", described)


def raise_without_a_message():
    assert False  # noqa: B011, PT015 as heareval does
