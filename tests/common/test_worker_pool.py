import os
import signal
import time

import pytest
import torch

from myna_plugin.common import orphans
from myna_plugin.common.worker_pool import WorkerDiedError, WorkerPool, begin_item, finish_item


def keep(task, item):
    return task


def square_all(numbers):
    for item, number in enumerate(numbers):
        begin_item(item)
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        finish_item(number)
    return [number**2 for number in numbers]


def spare(numbers, item):
    return [*numbers[:item], 0, *numbers[item + 1 :]]


def fail(message):
    raise OSError(message)


def die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def tick(path):
    with open(path, "a") as file:
        for item in range(1000):
            begin_item(item)
            file.write(".")
            file.flush()
            time.sleep(0.01)


def tell_process(task):
    return os.getpid()


def test_tasks_are_done_where_there_are_no_forks(monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(orphans, "get_all_start_methods", lambda: ["spawn"])
    pool = WorkerPool(2)
    assert pool._context.get_start_method() == "spawn"
    assert sorted(pool.map(square_all, [[1], [2, 3]], keep)) == [([1], [1]), ([2, 3], [4, 9])]
    assert pool.done == 6


@pytest.mark.parametrize("n_workers", [1, 3])
def test_every_task_is_done_once(n_workers):
    pool = WorkerPool(n_workers)
    tasks = [[i, i + 1] for i in range(10)]
    results = list(pool.map(square_all, tasks, keep))
    assert sorted(results) == [([i, i + 1], [i**2, (i + 1) ** 2]) for i in range(10)]
    assert pool.done == sum(map(sum, tasks))


def test_a_worker_that_dies_takes_no_other_task_with_it():
    tasks = [[1, 2], [3, -1, 4], [5], [-1, -1], [6]]
    results = list(WorkerPool(2).map(square_all, tasks, spare))
    assert sorted(result for _, result in results) == [[0, 0], [1, 4], [9, 0, 16], [25], [36]]


def test_a_worker_that_dies_between_tasks_is_replaced():
    processes = []
    for _, process in WorkerPool(1).map(tell_process, range(3), keep):
        processes.append(process)
        os.kill(process, signal.SIGKILL)
        time.sleep(0.5)
    assert len(set(processes)) == 3


def test_a_worker_that_dies_before_its_first_item_is_an_error():
    with pytest.raises(WorkerDiedError, match="as it started"):
        list(WorkerPool(1).map(die, [1], keep))


def test_what_a_task_raises_ends_the_run():
    with pytest.raises(OSError, match="disk full"):
        list(WorkerPool(2).map(fail, ["disk full"] * 5, keep))


def test_leaving_early_stops_the_workers_within_an_item(tmp_path):
    path = tmp_path / "ticks"

    def poll():
        if path.exists() and path.stat().st_size > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(WorkerPool(1).map(tick, [path], keep, poll))
    written = path.stat().st_size
    assert written < 1000
    time.sleep(0.1)
    assert path.stat().st_size == written


def count_threads(task):
    return torch.get_num_threads()


def test_workers_have_one_thread():
    assert [result for _, result in WorkerPool(1).map(count_threads, [0], keep)] == [1]
