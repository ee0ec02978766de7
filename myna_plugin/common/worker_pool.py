"""Tasks in worker processes, where a worker may die without stopping the others.

`concurrent.futures` gives up a whole pool when one of its processes dies; a decoder that crashes
on one file of a million must not do that. So every worker is a pool of its own, replaced when it
breaks, and says which item of its task it is at, so that the culprit is known.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, NamedTuple, TypeVar

import torch

from myna_plugin.common.errors import UnfinishedError
from myna_plugin.common.orphans import end_with_parent, make_server
from myna_plugin.common.stopping import Interrupts, unstopped

Task = TypeVar("Task")
Result = TypeVar("Result")

POLL_S = 0.2

NO_ITEM = -1


class StoppedError(Exception):
    """Raised inside a worker whose work is no longer wanted."""


class WorkerDiedError(UnfinishedError):
    """A worker process died in a way that trying again does not help."""


class _Shared(NamedTuple):
    """Memory of parent and workers."""

    # Every number has a single writer, so no lock is needed that a killed worker would leave shut.
    stop: Any
    items: Any
    done: Any


class _Lane:
    """One worker process and its place in the arrays that it shares with its parent."""

    def __init__(
        self, context: ForkServerContext | SpawnContext, place: int, shared: _Shared
    ) -> None:
        self._context, self.place, self._shared = context, place, shared
        self.executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        arguments = (self.place, self._shared)
        return ProcessPoolExecutor(1, self._context, _initialise_worker, arguments)

    def restart(self) -> None:
        self.executor.shutdown(wait=True)
        self.executor = self._start()

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        self._shared.items[self.place] = NO_ITEM
        # The first task starts the process.
        with unstopped():
            try:
                return self.executor.submit(function, task)
            except BrokenProcessPool:
                # It died while it was idle, which is nobody's fault.
                self.restart()
                return self.executor.submit(function, task)


class WorkerPool:
    """Worker processes with one thread each, for one call of `map`.

    Args:
        n_workers: number of processes, >= 1.
        preload: modules that workers find already imported.
    """

    def __init__(self, n_workers: int, preload: Iterable[str] = ()) -> None:
        if n_workers < 1:
            raise ValueError(f"at least 1 worker is needed, got {n_workers}")
        self.n_workers = n_workers
        self._context = make_server([__name__, *preload])
        self._shared = _Shared(
            stop=self._context.RawValue("b", 0),
            items=self._context.RawArray("q", n_workers),
            done=self._context.RawArray("q", n_workers),
        )

    @property
    def done(self) -> int:
        """What all workers together have added by `finish_item`."""
        return sum(self._shared.done)

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        revise: Callable[[Task, int], Task],
        poll: Callable[[], None] = lambda: None,
    ) -> Generator[tuple[Task, Result], None, None]:
        """Run `function` on every task; (task, result) come when ready, in no certain order.

        Closing the iterator, or an exception (Ctrl-C, or one that `function` raised), ends all
        workers after the item that each is at.

        Args:
            function: picklable; calls `begin_item` before every item of its task.
            tasks: taken one by one, when a worker is free.
            revise: given a task and the item at which its worker died, the task to run instead.
            poll: called several times a second, in this process.

        Raises:
            WorkerDiedError: a worker died before its first item.
        """
        remaining = iter(tasks)
        free = [_Lane(self._context, place, self._shared) for place in range(self.n_workers)]
        lanes = tuple(free)
        running: dict[Future[Result], tuple[_Lane, Task]] = {}
        interrupts = Interrupts()

        try:
            while True:
                interrupts.raise_if_any()
                while free and (task := next(remaining, None)) is not None:
                    lane = free.pop()
                    running[lane.submit(function, task)] = lane, task
                if not running:
                    return
                ready, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
                poll()
                for future in ready:
                    lane, task = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool as error:
                        item = self._shared.items[lane.place]
                        if item == NO_ITEM:
                            raise WorkerDiedError("a worker died as it started") from error
                        lane.restart()
                        task = revise(task, item)
                        running[lane.submit(function, task)] = lane, task
                    else:
                        free.append(lane)
                        yield task, result
        finally:
            self._shared.stop.value = 1
            for lane in lanes:
                lane.executor.shutdown(wait=True)
            interrupts.restore()


_place: tuple[int, _Shared] | None = None
"""In a worker: its place in the shared arrays, and these."""


def begin_item(number: int) -> None:
    """Say, inside a worker, which item of the task comes now; ends the task if it is unwanted.

    Outside a worker it does nothing.
    """
    if _place is not None:
        place, shared = _place
        if shared.stop.value:
            raise StoppedError
        shared.items[place] = number


def finish_item(amount: int) -> None:
    """Add to the pool's `done`; outside a worker it does nothing."""
    if _place is not None:
        place, shared = _place
        shared.done[place] += amount


def _initialise_worker(place: int, shared: _Shared) -> None:
    global _place
    _place = place, shared
    # Where the server of new processes was there before `unstopped`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    # Decoders written in C talk over the progress bar; what matters comes back as a result.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # Sums are then the same whatever the number of cores, and workers do not fight for them.
    torch.set_num_threads(1)
