"""Ctrl-C and SIGTERM, where they strike imports, C extensions and processes that begin."""

import signal
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


SWALLOWS = """
import os, signal, sys
from myna_plugin.common.stopping import importing

with importing("myna"):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):  # handlers run between two steps of the interpreter
            pass
    except BaseException:  # stands for a C extension that swallows whatever its import raises
        pass
print("went on")
"""


REPLACES = """
import os, signal, sys
from myna_plugin.common.errors import InputError, told

with told("myna"):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass
    except BaseException:  # stands for a C extension that raises its own error in its place
        raise InputError("cannot be read") from None
"""


DROPS = """
import os, signal, sys, time
from myna_plugin.common.errors import told

class Struck:
    def __del__(self):  # Python drops whatever is raised here
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass

with told("myna"):
    for _ in range(3):
        Struck()
    time.sleep(60)
    print("went on")
"""


@pytest.mark.parametrize(
    "program", [SWALLOWS, REPLACES, DROPS], ids=["import", "replaced", "dropped"]
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_swallows_or_replaces_what_is_raised_does_not_go_on(program, number, status):
    command = [sys.executable, "-c", program, str(int(number))]
    # A shell's background jobs ignore SIGINT.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == "myna: stopped; the same command goes on from here\n"
