"""Passes of an encoder on several cores at once, each core with passes of its own.

Not one pass divided among all cores: its threads wait for one another after every product, busily,
and where a decoder or another program has one of the cores, all of them wait for the one that has
none. Passes of their own need no waiting, so cores are shared by whatever there is to do.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

import torch
from torch import Tensor

MOST_PASSES = 4
"""At the same time: each holds some 40 MB. More cores than that divide each pass."""

Answer = SimpleQueue[Tensor | BaseException]
Task = tuple[Callable[[], Tensor], Answer] | None


class Passes:
    """Threads that compute what they are given, until they are closed.

    Attributes:
        count: how many passes run at the same time, by torch's number of threads.
    """

    def __init__(self) -> None:
        n_threads = torch.get_num_threads()
        self.count = min(n_threads, MOST_PASSES)
        # Not futures: Ctrl-C could strike while one's lock is held, and leave it shut for ever.
        self._tasks: SimpleQueue[Task] = SimpleQueue()
        ready: SimpleQueue[None] = SimpleQueue()
        self._threads = [
            Thread(None, _compute, "encode", (self._tasks, ready), daemon=True)
            for _ in range(self.count)
        ]
        torch.set_num_threads(n_threads // self.count)  # which threads that start now inherit
        try:
            for thread in self._threads:
                thread.start()
            for _ in range(self.count):
                ready.get()
        finally:
            torch.set_num_threads(n_threads)

    def close(self) -> None:
        """End the threads, after the passes that they are at; those not begun are dropped.

        Python ends the whole process badly if it ends while a thread is within torch.
        """
        try:
            while True:
                self._tasks.get_nowait()
        except Empty:
            pass
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def begin(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Have something computed; call what is returned to wait for it.

        Args:
            compute: the pass. What it raises is raised where it is waited for.
        """
        answer: Answer = SimpleQueue()
        self._tasks.put((compute, answer))

        def wait() -> Tensor:
            result = answer.get()
            if isinstance(result, BaseException):
                raise result
            return result

        return wait


def _compute(tasks: SimpleQueue[Task], ready: SimpleQueue[None]) -> None:
    torch.get_num_threads()  # by which a thread takes the number that holds now
    ready.put(None)
    while (task := tasks.get()) is not None:
        compute, answer = task
        try:
            answer.put(compute())
        except BaseException as error:  # noqa: BLE001  # for who waits for it
            answer.put(error)
        del task, compute, answer  # or the last pass would stay in memory
