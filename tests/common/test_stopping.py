"""Ctrl-C, where it reaches processes that begin."""

import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, os, signal, sys
from myna_plugin.common.stopping import unstopped

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=print, args=("alive",))
    with unstopped():
        process.start()
    process.join()
else:  # a new process imports this
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_what_begins_does_not_hear_it(tmp_path, method):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program, method], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("alive\n", "")
