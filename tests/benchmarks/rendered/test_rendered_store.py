import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.rendered import store as module
from benchmarks.rendered.render import render_clip
from benchmarks.rendered.scores import ScoreError
from benchmarks.rendered.soundfonts import HELD_OUT
from benchmarks.rendered.store import (
    RECORD,
    Plan,
    Sources,
    draw_block,
    main,
    shard_jobs,
    write_store,
)
from myna_plugin.pretraining.store import Store, StoreError

pytest_plugins = ("rendered_fixtures",)

SECONDS = 3.0


@pytest.fixture
def plan(soundfont):
    return Plan(
        Sources(composed=8),
        (soundfont,),
        passages=2,
        instrumentations=2,
        transpositions=3,
        clip_seconds=SECONDS,
        seed=5,
    )


def test_blocks_are_factorial(plan):
    """Every passage with every instrumentation in every transposition, in this order."""
    block = draw_block(plan, 0)
    cells = [
        ((c.score.work, c.performance.start_s), c.performance.programs, c.performance.transposition)
        for c in block
    ]
    columns = zip(*cells, strict=True)
    passages, instruments, transpositions = (list(dict.fromkeys(column)) for column in columns)
    assert (len(passages), len(instruments), len(transpositions)) == (2, 2, 3)
    expected = [(p, i, t) for p in passages for i in instruments for t in transpositions]
    assert cells == expected
    assert len({t % 12 for t in transpositions}) == 3
    assert len({work for work, _ in passages}) == 2


def test_clips_of_a_block_differ_in_nothing_else(plan):
    for number in range(5):
        common = {
            replace(clip.performance, start_s=0.0, programs=(), gains_db=(), transposition=0)
            for clip in draw_block(plan, number)
        }
        assert len(common) == 1


def test_blocks_differ(plan):
    works = Counter(clip.score.work for n in range(20) for clip in draw_block(plan, n))
    assert len(works) > 4
    tempi = {draw_block(plan, n)[0].performance.tempo for n in range(10)}
    assert len(tempi) == 10
    assert draw_block(plan, 3)[0].performance == draw_block(plan, 3)[0].performance


@pytest.mark.parametrize(("recording", "distinct"), [("changing", 12), ("clip", 12), ("block", 1)])
def test_recordings_are_drawn_as_asked(plan, recording, distinct):
    block = draw_block(replace(plan, recording=recording, clip_seconds=12.0), 0)
    assert len({clip.recording for clip in block}) == distinct
    changes = {len(clip.recording.conditions) > 1 for clip in block}
    assert changes == {recording == "changing"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transpositions": 13}, "an octave has 12"),
        ({"passages": 0}, "at least one of everything"),
        ({"recording": "never"}, "one of changing, clip, block"),
        ({"soundfonts": ()}, "at least one soundfont"),
    ],
)
def test_impossible_plans_are_refused(plan, change, message):
    with pytest.raises(StoreError, match=message):
        replace(plan, **change)


def test_shards_take_all_blocks_once(plan):
    for n_blocks in (1, 7, 399, 5000):
        jobs = shard_jobs(plan, n_blocks)
        dealt = [block for job in jobs for block in range(job.first, job.stop)]
        assert dealt == list(range(n_blocks))
        assert [job.number for job in jobs] == list(range(len(jobs)))


def test_a_store_holds_the_clips_of_its_blocks(plan, tmp_path):
    """The mel power of each row is that of its clip rendered alone."""
    import torch

    from myna_plugin.spectrogram import MelSpectrogram

    write_store(tmp_path / "store", plan, hours=20 * SECONDS / 3600, workers=1)
    opened = Store.open(tmp_path / "store")
    opened.verify()
    assert len(opened) == 24
    for row in (0, 5, 13, 23):
        clip = draw_block(plan, row // 12)[row % 12]
        sound = render_clip(
            clip.score, clip.performance, clip.soundfont, SECONDS, clip.recording
        ).waveform
        mel = MelSpectrogram()(torch.from_numpy(sound)[None])[0].T.numpy()
        np.testing.assert_allclose(opened.clip(row), mel, rtol=1e-3, atol=1e-6)
        path, start = opened.source(row)
        assert str(path) == clip.name
        assert start == 0.0
    assert np.unique([opened.source(row)[0] for row in range(24)]).size == 24
    record = json.loads((tmp_path / "store" / RECORD).read_text())
    assert record["clips_by_licence"] == {"CC0": 24}
    assert sum(record["clips_by_work"].values()) == 24
    assert record["plan"]["seed"] == 5


def test_workers_change_nothing(plan, tmp_path):
    fingerprints = set()
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        write_store(folder, plan, hours=24 * SECONDS / 3600, workers=workers)
        fingerprints.add(Store.open(folder).fingerprint)
    assert len(fingerprints) == 1


def test_a_complete_store_is_left_alone(plan, tmp_path):
    write_store(tmp_path / "store", plan, hours=SECONDS / 3600, workers=1)
    before = Store.open(tmp_path / "store").fingerprint
    with pytest.raises(StoreError, match="is a complete store"):
        write_store(tmp_path / "store", plan, hours=SECONDS / 3600, workers=1)
    assert Store.open(tmp_path / "store").fingerprint == before


def test_an_interrupted_store_is_made_anew(plan, tmp_path, monkeypatch):
    folder = tmp_path / "store"
    fill = module.fill_shard
    done = []

    def interrupt(job, **rest):
        if done:
            raise KeyboardInterrupt
        done.append(job)
        return fill(job, **rest)

    monkeypatch.setattr(module, "fill_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_store(folder, plan, hours=24 * SECONDS / 3600, workers=1)
    with pytest.raises(StoreError, match="not finished"):
        Store.open(folder)
    monkeypatch.setattr(module, "fill_shard", fill)
    write_store(folder, plan, hours=12 * SECONDS / 3600, workers=1)
    assert len(Store.open(folder)) == 12
    assert len(list((folder / "shards").iterdir())) == 1


def test_scores_too_short_for_the_clips_are_refused(plan):
    with pytest.raises(ScoreError, match="fewer than 2 have 4000 s"):
        draw_block(replace(plan, clip_seconds=4000.0), 0)


def test_the_command(soundfont, tmp_path, capsys):
    arguments = ["--composed", "4", "--split", "all", "--soundfonts", soundfont]
    arguments += ["--hours", "0.005", "--clip-seconds", "2", "--workers", "1"]
    assert main([str(tmp_path / "store"), *arguments]) == 0
    assert "times real time a worker" in capsys.readouterr().out
    assert len(Store.open(tmp_path / "store")) == 16
    assert main([str(tmp_path / "store"), *arguments]) == 2
    assert "is a complete store" in capsys.readouterr().err


def test_without_a_soundfont_one_is_drawn(tmp_path, monkeypatch):
    """The one that is kept for test is never taken of its own accord."""
    monkeypatch.setattr(module, "find_soundfonts", lambda: [tmp_path / HELD_OUT])
    arguments = ["--composed", "4", "--split", "all", "--hours", "0.001", "--clip-seconds", "1"]
    assert main([str(tmp_path / "store"), *arguments, "--workers", "1"]) == 0
    record = json.loads((tmp_path / "store" / RECORD).read_text())
    assert list(record["soundfonts"]) == ["drawn-0-0.sf2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--soundfonts", "absent.sf2", "--composed", "4"], "absent.sf2: no such file"),
        (["--scores", "absent"], "works.jsonl: no such file"),
        (["--midi", "."], "no MIDI files"),
        (["--composed", "4", "--licence", "none such"], "none of the 4 works are left"),
        (["--composed", "4", "--transpositions", "13"], "an octave has 12"),
        (["--composed", "4", "--workers", "0"], "--workers at least 1"),
    ],
)
def test_bad_input_is_told_in_a_line(arguments, message, soundfont, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    fixed = ["--soundfonts", soundfont, "--hours", "0.001", "--clip-seconds", "2"]
    store = tmp_path / "store"
    assert main([str(store), *fixed, *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not store.exists()
