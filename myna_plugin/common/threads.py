"""A function on many values, in threads that Ctrl-C ends cleanly.

In threads: soundfile, soxr and hashlib leave Python's lock while they work, so that threads use
every core without the seconds that each new process would take to import torch. Not through
`concurrent.futures`: a KeyboardInterrupt that strikes while a future's lock is held can leave it
shut, and whoever waits for the thread that brings the result then waits without end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")

Answers = SimpleQueue[tuple[Value, Callable[[], Result]]]
"""Values, each with what gives its result or raises its error."""

Jobs = SimpleQueue[tuple[Value, Answers[Value, Result]] | None]
"""Values, each with where its answer goes; None ends a thread."""


def map_as_done(
    function: Callable[[Value], Result], values: Iterable[Value], workers: int
) -> Generator[tuple[Value, Result], None, None]:
    """Call a function on values, in threads, and yield (value, result) as each is done.

    An exception of the function is raised here, after the calls then running have ended; the rest
    are not begun. The same happens where the iterator is closed.

    >>> sorted(map_as_done(abs, [-1, 2, -3], workers=2))
    [(-3, 3), (-1, 1), (2, 2)]
    """
    answers: Answers[Value, Result] = SimpleQueue()
    with _working(function, workers) as jobs:
        n_jobs = 0
        for value in values:
            jobs.put((value, answers))
            n_jobs += 1
        for _ in range(n_jobs):
            value, answer = answers.get()
            yield value, answer()


def map_ahead(
    function: Callable[[Value], Result], values: Iterable[Value], workers: int
) -> Iterator[Result]:
    """As `map`, in threads, never more than a few results ahead: memory stays bounded.

    >>> list(map_ahead(abs, [-1, 2, -3], workers=2))
    [1, 2, 3]
    """
    waiting: deque[Answers[Value, Result]] = deque()

    def take() -> Result:
        _, answer = waiting.popleft().get()
        return answer()

    with _working(function, workers) as jobs:
        for value in values:
            waiting.append(SimpleQueue())
            jobs.put((value, waiting[-1]))
            if len(waiting) > 2 * workers:
                yield take()
        while waiting:
            yield take()


@contextmanager
def _working(function: Callable[[Value], Result], workers: int) -> Iterator[Jobs[Value, Result]]:
    """Threads that answer jobs; when the block ends they finish what they are at, and no more."""
    if workers < 1:
        raise ValueError(f"at least 1 thread is needed, got {workers}")
    jobs: Jobs[Value, Result] = SimpleQueue()

    def work() -> None:
        while (job := jobs.get()) is not None:
            value, answers = job
            answers.put((value, _try(function, value)))

    started: list[Thread] = []
    try:
        for _ in range(workers):
            thread = Thread(target=work, daemon=True)
            thread.start()
            # Only now: one whose start was interrupted may wait for its starter without end.
            started.append(thread)
        yield jobs
    finally:
        with suppress(Empty):
            while True:
                jobs.get_nowait()
        for _ in range(workers):
            jobs.put(None)
        for thread in started:
            thread.join()


def _try(function: Callable[[Value], Result], value: Value) -> Callable[[], Result]:
    """Call a function, and return one that gives its result or raises its error."""
    try:
        result = function(value)
    except BaseException as error:  # noqa: BLE001 (raised where the result is awaited)
        failure = error

        def answer() -> Result:
            raise failure

        return answer
    return lambda: result
