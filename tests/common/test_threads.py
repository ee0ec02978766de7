"""Functions on many values: all results, no more than is wanted, and a Ctrl-C that never hangs."""

import inspect
import itertools
import sys
import threading
import time
from functools import partial

import pytest

from myna_plugin.common.parallel import run_in_threads
from myna_plugin.common.threads import map_ahead, map_as_done


def test_results_wait_for_whoever_takes_them():
    """Else all decoded audio of a data set would lie in memory."""
    started, lock = [], threading.Lock()

    def work(number):
        with lock:
            started.append(number)
        return number

    results = map_ahead(work, range(100), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(started) <= 3 + 2 * 2 + 1
    assert list(results) == list(range(3, 100))


def test_results_come_as_they_are_done():
    last = threading.Event()

    def work(number):
        if number == 0:
            assert last.wait(10)
        if number == 9:
            last.set()
        return -number

    done = list(map_as_done(work, range(10), workers=2))
    assert sorted(done) == [(number, -number) for number in range(10)]
    assert done.index((0, 0)) >= 8


@pytest.mark.parametrize("mapped", [map_ahead, map_as_done])
def test_after_an_error_nothing_is_begun(mapped):
    begun, ended = [], []

    def work(number):
        begun.append(number)
        if number == 1:
            raise OSError("the disk")
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(OSError, match="the disk"):
        list(mapped(work, range(100), workers=2))
    seen = list(begun)
    assert sorted(ended) == [number for number in sorted(seen) if number != 1]
    assert len(seen) < 100
    time.sleep(0.1)
    assert begun == seen


@pytest.mark.parametrize("mapped", [map_ahead, map_as_done])
def test_no_thread_is_refused(mapped):
    with pytest.raises(ValueError, match="at least 1 thread is needed, got 0"):
        list(mapped(abs, [1], workers=0))


CALLS = {
    "map_ahead": lambda work: list(map_ahead(work, range(3), workers=2)),
    "map_as_done": lambda work: list(map_as_done(work, range(3), workers=2)),
    "run_in_threads": lambda work: list(
        run_in_threads({number: partial(work, number) for number in range(3)}, "work", "job")
    ),
}

LOOKED_AT = ("concurrent.futures", "contextlib", "myna_plugin", "threading")
"""Modules in whose functions Ctrl-C strikes."""


def interrupt(call, number):
    """Raise KeyboardInterrupt as the function that returns as the `number`-th has done its work.

    There a signal is answered, as it is after every call. Starting a thread, which belongs to
    Python alone, is passed over.

    Returns:
        Where that was, and what came of it; None if fewer functions return.
    """
    place, result, returned = None, None, 0
    begun, ended = [], []

    def work(number):
        begun.append(number)
        time.sleep(0.01)
        ended.append(number)

    def is_looked_at(frame):
        is_generator = frame.f_code.co_flags & inspect.CO_GENERATOR  # whose return may be a yield
        if is_generator or not frame.f_globals["__name__"].startswith(LOOKED_AT):
            return False
        while frame is not None and frame.f_code is not threading.Thread.start.__code__:
            frame = frame.f_back
        return frame is None

    def trace(frame, event, argument):
        nonlocal place, returned
        if event == "return" and place is None and is_looked_at(frame):
            returned += 1
            if returned == number:
                place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return trace

    def run():
        nonlocal result
        sys.settrace(trace)
        try:
            call(work)
            result = "nothing"
        except BaseException as error:  # noqa: BLE001 (any other than KeyboardInterrupt is a fault)
            result = type(error).__name__ if len(begun) == len(ended) else "work goes on"
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=10)
    return place and (place, "waits without end" if thread.is_alive() else result)


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_the_work_wherever_it_strikes(name, monkeypatch):
    monkeypatch.setattr("myna_plugin.common.parallel.available_cores", lambda: 2)
    places = set()
    for number in itertools.count(1):
        struck = interrupt(CALLS[name], number)
        if struck is None:
            break
        place, result = struck
        assert result == "KeyboardInterrupt", place
        places.add(place)
    assert len(places) >= 5
