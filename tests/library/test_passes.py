import threading
import time

import pytest
import torch
from tiny_library import load_tiny, write_noise

from myna_plugin.library import passes
from myna_plugin.library.building import embed_tracks
from myna_plugin.library.passes import Passes
from myna_plugin.library.tracks import look_at


def of_name(name="encode"):
    return [thread for thread in threading.enumerate() if thread.name == name]


@pytest.mark.parametrize(("cores", "count", "each"), [(1, 1, 1), (3, 3, 1), (8, 4, 2)])
def test_cores_are_shared_out(cores, count, each):
    before, here = torch.get_num_threads(), set(of_name())
    try:
        torch.set_num_threads(cores)
        running = Passes()
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert running.count == count == len({*of_name()} - here)
    together = threading.Barrier(count)

    def compute(number):
        together.wait(30)  # none comes past before all have begun
        return torch.tensor([number, torch.get_num_threads()])

    waits = [running.begin(lambda i=i: compute(i)) for i in range(count)]
    assert [wait().tolist() for wait in waits] == [[i, each] for i in range(count)]


def test_an_error_is_raised_where_it_is_waited_for_and_ends_nothing():
    running = Passes()

    def fail():
        raise MemoryError("too little")

    failed, good = running.begin(fail), running.begin(lambda: torch.ones(1))
    with pytest.raises(MemoryError, match="too little"):
        failed()
    assert good().item() == 1


def test_closing_waits_for_what_is_being_computed_and_drops_the_rest(monkeypatch):
    monkeypatch.setattr(passes, "MOST_PASSES", 1)
    here = set(of_name())
    running = Passes()
    (thread,) = set(of_name()) - here
    begun, done, dropped = threading.Event(), [], []

    def compute():
        begun.set()
        time.sleep(0.5)
        done.append(True)
        return torch.ones(1)

    running.begin(compute)
    running.begin(lambda: dropped.append(True))
    assert begun.wait(30)
    running.close()
    assert done
    assert not dropped
    assert not thread.is_alive()


def test_an_embedding_that_is_broken_off_leaves_no_thread(tmp_path):
    files = [look_at(str(write_noise(tmp_path / f"{i}.wav", 200_000, i))) for i in range(3)]
    here = set(of_name())
    rows = embed_tracks(enumerate(files), load_tiny(tmp_path).embedder, batch_seconds=3)
    next(rows)
    assert set(of_name()) - here
    rows.close()
    assert not set(of_name()) - here
