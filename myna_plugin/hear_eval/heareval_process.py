"""A process of its own for heareval.

Why a process, and not this one: heareval's own two commands are two processes too; Lightning
switches torch to deterministic algorithms for good, which must not reach the embeddings;
unpickling checkpoints is allowed in the one that needs it; CUDA can be hidden from it before it
starts, which is how heareval, which takes CUDA where it finds it, is held to the CPU; what it
prints goes to a log file down to the output of C libraries; and what kills it (out of memory, a
crash in somebody's extension) fails one task instead of the run.
Why not one for every task: importing torch and Lightning takes longer than a small task.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from myna_plugin.common.errors import InputError, UnfinishedError, one_line
from myna_plugin.common.orphans import end_with_parent
from myna_plugin.common.stopping import unstopped
from myna_plugin.hear_eval import compatibility

if TYPE_CHECKING:
    from myna_plugin.hear_eval.contract import ModuleFacts

POLL_S = 0.5
IDLE_EXIT_S = 10
WATCH_SHARE = 20
"""Pauses between looks at the progress are this many times as long as a look takes."""


class JobError(UnfinishedError):
    """A job did not end well; the message says why, in one line."""


@dataclass(frozen=True)
class Job:
    """What to do: a name from `JOBS`, its arguments, and the log for all that it prints."""

    name: str
    arguments: dict[str, Any]
    log: Path


@dataclass(frozen=True)
class Answer:
    """What came of a job: a value, or the lines of a InputError, or a failure's one line."""

    value: Any = None
    bad_input: tuple[str, ...] = field(default=())
    failure: str | None = None


class HearevalProcess:
    """Runs jobs one after the other in a process that starts at the first.

    After a failure the next job gets a fresh process.

    Args:
        environment: variables set in the process before anything is imported there.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._process: Any = None
        self._connection: Connection | None = None
        self._is_idle = False

    def __enter__(self) -> HearevalProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, job: Job, watch: Callable[[], None] = lambda: None) -> Any:
        """Run a job and return its value.

        Args:
            job: what to run.
            watch: called several times a second meanwhile.

        Raises:
            InputError: the job found bad input.
            JobError: the job failed, or the process died.
        """
        if self._connection is None:
            self._start()
        assert self._connection is not None
        self._is_idle = False
        try:
            self._connection.send(job)
            pause = POLL_S
            while not self._connection.poll(pause):
                pause = max(POLL_S, WATCH_SHARE * _time(watch))
            answer: Answer = self._connection.recv()
            self._is_idle = True
        except (EOFError, OSError) as error:
            raise JobError(self._describe_death()) from error
        if answer.bad_input:
            raise InputError(*answer.bad_input)
        if answer.failure is not None:
            self.close()
            raise JobError(answer.failure)
        return answer.value

    def close(self) -> None:
        """End the process: at its leisure if it waits for a job, at once if it is at work."""
        if self._connection is None:
            return
        self._connection.close()
        if self._is_idle:
            self._process.join(IDLE_EXIT_S)
        self._process.terminate()
        self._process.join()
        self._connection = self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), name="heareval")
        with environment_set(self.environment), unstopped():
            self._process.start()
        theirs.close()

    def _describe_death(self) -> str:
        self._process.join()
        code = self._process.exitcode
        self.close()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = "; most often: out of memory" if name == "SIGKILL" else ""
            return f"heareval's process was ended by {name}{hint}"
        return f"heareval's process ended with status {code}"


@contextmanager
def environment_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block, for processes started there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(connection: Connection) -> None:
    """Answer jobs until the connection closes; the main function of heareval's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; our parent ends us
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore that outlives a killed process
    end_with_parent()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(answer_job(job))


def answer_job(job: Job) -> Answer:
    """Run a job with all output in its log."""
    redirect_output(job.log)
    try:
        return Answer(value=JOBS[job.name](**job.arguments))
    except InputError as error:
        traceback.print_exc()
        return Answer(bad_input=error.lines)
    except (Exception, SystemExit) as error:  # noqa: BLE001 any module's code; logged, reported
        traceback.print_exc()
        return Answer(failure=describe_failure(error))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def redirect_output(log: Path) -> None:
    """Send standard output and error, at the level of file descriptors, to the end of `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def describe_failure(error: BaseException) -> str:
    """An exception in one line, with the place: heareval's assertions have no message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{one_line(error)} ({Path(frame.filename).name}:{frame.lineno}: {frame.line})"


def embed(arguments: list[str]) -> None:
    """Run heareval's embeddings command."""
    compatibility.embeddings_command().main(arguments, "heareval", standalone_mode=False)


def predict(arguments: list[str]) -> None:
    """Run heareval's predictions command."""
    compatibility.predictions_command().main(arguments, "heareval", standalone_mode=False)


def examine(**arguments: Any) -> ModuleFacts:
    """Import heareval, then try the module."""
    # It imports torch: not before this process can end with its parent.
    from myna_plugin.hear_eval import contract

    try:
        compatibility.embeddings_command()
    except ImportError as error:
        raise InputError(f"heareval cannot be imported: {one_line(error)}") from error
    except ValueError as error:
        if "tensorflow" not in str(error):  # embeddings/runner.py:24
            raise
        raise InputError(
            "torch sees a GPU, but the installed tensorflow does not, and heareval wants both to: "
            "use --device cpu, or uninstall tensorflow (this module may not need it)"
        ) from error
    return contract.examine_module(**arguments)


JOBS: dict[str, Callable[..., Any]] = {"examine": examine, "embed": embed, "predict": predict}


def _time(function: Callable[[], None]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
