"""What is left of a program that was killed while its processes began, or were at work."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

PROGRAM = """
import os, time
from myna_plugin.common.orphans import end_with_parent, make_server

def stay():
    print("here", flush=True)
    time.sleep(60)

def work():
    end_with_parent()
    stay()

if __name__ == "__main__":
    process = make_server(["program"]).Process(target=work)
    process.start()
    process.join()
elif os.environ["MOMENT"] == "importing":
    stay()
"""


@pytest.mark.parametrize("moment", ["importing", "working"])
def test_nothing_outlives_a_killed_parent(tmp_path, moment):
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "program.py"],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"MOMENT": moment},
        start_new_session=True,
    )
    try:
        process.stdout.readline()
        process.kill()
        process.communicate(timeout=5)  # all that could write have ended
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
