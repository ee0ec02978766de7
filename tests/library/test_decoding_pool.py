import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from tiny_library import write_noise

from myna_plugin.common import orphans
from myna_plugin.common.files import digest_path
from myna_plugin.library import decoding_pool
from myna_plugin.library.decoding_pool import Decoded, DecodingPool, Details, Failed, Finished
from myna_plugin.library.fingerprint import fingerprint
from myna_plugin.library.segments import SEGMENT_CHUNKS, cut_segments
from myna_plugin.library.tracks import LibraryError, Track
from myna_plugin.model.audio import digest_sound, load_audio


def numbered(paths):
    return enumerate(Track(str(path)) for path in paths)


def decode_all(paths, workers=2, whole=False):
    """Segments by track, and how each track ended."""
    segments, ends = {}, {}
    with DecodingPool(workers, 96, whole=whole) as pool:
        for event in pool.decode(numbered(paths)):
            if isinstance(event, Decoded):
                if event.first:
                    segments[event.track] = []
                copy = event.segment._replace(samples=event.segment.samples.copy())
                segments[event.track].append(copy)
            else:
                ends[event.track] = event
    return segments, ends


def test_workers_give_the_same_where_there_are_no_forks(tmp_path, monkeypatch):
    """As on Windows, where each is begun anew."""
    paths = [write_noise(tmp_path / f"{i}.flac", n, i) for i, n in enumerate((700, 5_000, 90_000))]
    expected, ends = decode_all(paths)
    monkeypatch.setattr(orphans, "get_all_start_methods", lambda: ["spawn"])

    segments, spawned_ends = decode_all(paths)

    assert spawned_ends == ends
    for i, own in expected.items():
        assert len(segments[i]) == len(own)
        for one, other in zip(segments[i], own, strict=True):
            assert np.array_equal(one.samples, other.samples)


def test_workers_give_what_decoding_here_gives(tmp_path):
    lengths = (1, 5_000, 16_000 * 60, 700, 16_000 * 400)  # the last overflows a worker's slots
    paths = [write_noise(tmp_path / f"{i}.flac", n, i) for i, n in enumerate(lengths)]

    segments, ends = decode_all(paths)

    assert {i: end.n_samples for i, end in ends.items()} == dict(enumerate(lengths))
    assert [*ends[4][:2], ends[4].warning] == [4, lengths[4], ""]
    heard = load_audio(paths[4]).numpy()
    assert ends[4].details == Details(
        digest_path(paths[4]), digest_sound(paths[4]), fingerprint(heard)
    )
    assert ends[0].warning.startswith("silent: ")  # of one sample
    for i, path in enumerate(paths):
        expected = list(cut_segments([load_audio(path).numpy()], 96))
        assert [s[1:] for s in segments[i]] == [s[1:] for s in expected]
        for ours, theirs in zip(segments[i], expected, strict=True):
            assert np.array_equal(ours.samples, theirs.samples)


def test_whole_tracks(tmp_path):
    paths = [write_noise(tmp_path / "a.wav", 800_000), write_noise(tmp_path / "b.wav", 9)]

    segments, _ = decode_all(paths, whole=True)

    for i, path in enumerate(paths):
        joined = np.concatenate([s.samples for s in segments[i]])
        assert np.array_equal(joined, load_audio(path).numpy())


def test_a_file_that_fails_fails_alone(tmp_path):
    good = write_noise(tmp_path / "good.wav", 3_000)
    (tmp_path / "bad.mp3").write_bytes(b"no audio")
    paths = [tmp_path / "bad.mp3", good, tmp_path / "gone.wav", good]

    segments, ends = decode_all(paths, workers=1)

    assert [type(ends[i]) for i in range(4)] == [Failed, Finished, Failed, Finished]
    assert ends[0].reason.startswith("cannot be decoded (")
    assert ends[2].reason == "no such file"
    assert sorted(segments) == [1, 3]


def test_a_worker_that_dies_once_begins_its_track_anew(tmp_path):
    paths = [write_noise(tmp_path / f"{i}.wav", 20 * 49_152 * SEGMENT_CHUNKS, i) for i in (0, 1)]
    with DecodingPool(1, 96) as pool:
        firsts, ends = [], []
        for event in pool.decode(numbered(paths)):
            if isinstance(event, Decoded):
                firsts += [event.track] * event.first
                if firsts == [0]:
                    os.kill(pool._lanes[0]._process.pid, signal.SIGKILL)
                    firsts.append("killed")
            else:
                ends.append(event)

    assert firsts == [0, "killed", 0, 1]
    assert [end[:2] for end in ends] == [(i, 20 * 49_152 * SEGMENT_CHUNKS) for i in (0, 1)]


def test_a_track_that_kills_its_worker_twice_fails_and_the_next_goes_on(tmp_path):
    paths = [write_noise(tmp_path / f"{i}.wav", 20 * 49_152 * SEGMENT_CHUNKS, i) for i in (0, 1)]
    with DecodingPool(1, 96) as pool:
        ends = []
        for event in pool.decode(numbered(paths)):
            if not isinstance(event, Decoded):
                ends.append(event)
            elif event.track == 0 and event.first:
                os.kill(pool._lanes[0]._process.pid, signal.SIGKILL)

    assert [type(end) for end in ends] == [Failed, Finished]
    assert "died twice" in ends[0].reason


def test_a_pool_that_is_left_early_leaves_no_process(tmp_path):
    path = write_noise(tmp_path / "long.wav", 16_000 * 600)
    with DecodingPool(2, 96) as pool:
        next(pool.decode(numbered([path] * 9)))
        processes = [lane._process for lane in pool._lanes]

    assert not any(process.is_alive() for process in processes)


def test_a_worker_that_cannot_start_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding_pool, "_work", os._exit)
    with (
        pytest.raises(LibraryError, match="fewer --workers"),
        DecodingPool(1, 96) as pool,
    ):
        list(pool.decode([(0, Track("a.wav"))]))


def test_workers_need_no_torch():
    """Which takes a second and 200 MB in every process."""
    program = "import sys, myna_plugin.library.decoding_pool; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
