import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from myna_plugin.common.errors import InputError
from myna_plugin.model.spectrogram import MelSpectrogram
from myna_plugin.pretraining.store.preparation import prepare
from myna_plugin.pretraining.store.reading import (
    MADE_OF,
    Store,
    StoreError,
    StoreSettings,
    shard_path,
)
from myna_plugin.pretraining.store.writing import WORK, merge
from recipes.rendered import blocks, percussion, shards, soundfonts
from recipes.rendered import store as module
from recipes.rendered.blocks import StorePlan, draw_block
from recipes.rendered.percussion import KITS
from recipes.rendered.performance import N_PARTS
from recipes.rendered.render import render_clip
from recipes.rendered.sampler import make_bank
from recipes.rendered.scores import ScoreError
from recipes.rendered.shards import render_drawn, store_settings
from recipes.rendered.soundfonts import NOT_TRAINED_ON, SoundfontError, soundfont_digest
from recipes.rendered.sources import Sources
from recipes.rendered.store import main, write_store

pytest_plugins = ("rendered_fixtures",)

SECONDS = 3.0
HOURS = 48 * SECONDS / 3600
"""Four blocks of `plan`, a shard each."""


@pytest.fixture
def plan(soundfont):
    return StorePlan(
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


def test_players_with_the_same_instruments_have_clips_of_their_own(plan, monkeypatch):
    same = blocks.draw_instruments(np.random.default_rng(0))
    monkeypatch.setattr(blocks, "draw_instruments", lambda _: same)
    clips = draw_block(replace(plan, instrumentations=3), 0)
    assert len({clip.name for clip in clips}) == len(clips) == 18


def test_a_store_holds_the_clips_of_its_blocks(plan, tmp_path):
    """The mel power of each row is that of its clip rendered alone."""
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
    record = json.loads((tmp_path / "store" / MADE_OF).read_text())
    assert record["clips_by_licence"] == {"CC0": 24}
    assert sum(record["clips_by_work"].values()) == 24
    assert record["plan"]["seed"] == 5


@pytest.mark.slow
def test_workers_change_nothing_of_a_sampled_store(plan, tmp_path):
    fingerprints = set()
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        made = replace(plan, sampled=True)
        write_store(folder, made, hours=24 * SECONDS / 3600, workers=workers)
        fingerprints.add(Store.open(folder).fingerprint)
    assert len(fingerprints) == 1


def test_stores_of_other_seeds_can_be_merged(plan, tmp_path):
    """Their clips have other names, even where all else is the same."""
    parts = [tmp_path / "a", tmp_path / "b"]
    for seed, part in enumerate(parts):
        write_store(part, replace(plan, seed=seed), hours=SECONDS / 3600, workers=1)
    names = [{os.fsdecode(path) for path in Store.open(part).index.paths} for part in parts]
    assert not names[0] & names[1]
    # Two seeds may well draw the same clip once in many blocks: the seed itself tells them apart.
    for seed, listed in enumerate(names):
        assert all(name.startswith(f"{seed}/0000000/") for name in listed)
    merge(tmp_path / "all", parts)
    assert len(Store.open(tmp_path / "all")) == 24
    told = json.loads((tmp_path / "all" / MADE_OF).read_text())["parts"]
    assert [part["plan"]["seed"] for part in told] == [0, 1]
    (parts[1] / MADE_OF).write_text("{")
    with pytest.raises(InputError, match=r"made_of\.json: not JSON"):
        merge(tmp_path / "none", parts)
    assert not (tmp_path / "none").exists()


def test_blocks_of_other_sizes_are_not_merged_nor_mixed_with_files(plan, tmp_path):
    for name, transpositions in (("a", 2), ("b", 3)):
        made = replace(plan, transpositions=transpositions)
        write_store(tmp_path / name, made, hours=SECONDS / 3600, workers=1)
        size = Store.open(tmp_path / name).settings.clips_per_block
        assert size == made.clips_per_block == 4 * transpositions
    with pytest.raises(StoreError, match=r"b: cut in another way than .*clips_per_block=12.*=8"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "all").exists()
    settings = StoreSettings.read(tmp_path / "a")
    with pytest.raises(StoreError, match="a: its clips form blocks; give a folder for a new"):
        prepare(tmp_path, tmp_path / "a", settings, extend=True)


PROGRAMS = (0, 19, 40)


@pytest.fixture(scope="module")
def small_bank(soundfont):
    """Three instruments and a kit, for a whole soundfont takes a minute."""
    pitched = [(soundfont, program, False) for program in PROGRAMS]
    return make_bank([*pitched, (soundfont, KITS[0], True)], workers=1)


@pytest.fixture
def few_instruments(small_bank, monkeypatch):
    """Nothing else to play, and to sample."""
    monkeypatch.setattr(percussion, "KITS", KITS[:1])

    def draw(rng):
        return tuple(rng.choice(PROGRAMS, N_PARTS).tolist()), (0.0,) * N_PARTS

    monkeypatch.setattr(blocks, "draw_instruments", draw)
    monkeypatch.setattr(shards, "make_bank", lambda *_: small_bank)


def test_a_sampled_store_is_nearly_the_played_one(plan, few_instruments, tmp_path):
    """The same clips under the same names; mel power in dB where it is not soft."""
    made = {}
    for sampled in (False, True):
        folder = tmp_path / str(sampled)
        write_store(folder, replace(plan, sampled=sampled), hours=SECONDS / 3600, workers=1)
        made[sampled] = Store.open(folder)
    played, sampled = made[False], made[True]
    assert list(map(str, played.index.paths)) == list(map(str, sampled.index.paths))
    for row in range(len(played)):
        a, b = (store.clip(row).astype(np.float64) for store in (played, sampled))
        assert a.shape == b.shape
        loud = a > 1e-2 * a.max()
        assert np.abs(10 * np.log10((b[loud] + 1e-9) / a[loud])).mean() < 3.0
    record = json.loads((tmp_path / "True" / MADE_OF).read_text())
    assert record["plan"]["sampled"] is True


def test_blocks_with_a_silent_clip_are_drawn_anew(plan, few_instruments, tmp_path, monkeypatch):
    """And no other, and not for ever."""
    plan = replace(plan, sampled=True, transpositions=1)
    # All in one shard, both times: how many are put together at a time may change the last bit.
    monkeypatch.setattr(shards, "LEAST_SHARDS", 1)
    write_store(tmp_path / "usual", plan, 8 * SECONDS / 3600, workers=1)
    calls = []

    def silent_at_first(drawn, bank, seconds):
        rendered = render_drawn(drawn, bank, seconds)
        rendered.silent[:] = np.arange(len(drawn.facts)) == (-1 if calls else 5)
        calls.append(len(drawn.facts))
        return rendered

    with monkeypatch.context() as patch:
        patch.setattr(shards, "render_drawn", silent_at_first)
        write_store(tmp_path / "other", plan, 8 * SECONDS / 3600, workers=1)
    assert calls == [8, 4]
    usual, other = Store.open(tmp_path / "usual"), Store.open(tmp_path / "other")
    for row in range(8):
        again = draw_block(plan, row // 4, attempt=row // 4)[row % 4]
        assert str(other.source(row)[0]) == again.name
        assert np.array_equal(usual.clip(row), other.clip(row)) == (row < 4)

    def always_silent(drawn, bank, seconds):
        rendered = render_drawn(drawn, bank, seconds)
        rendered.silent[:] = True
        return rendered

    monkeypatch.setattr(shards, "render_drawn", always_silent)
    with pytest.raises(SoundfontError, match="renders silence"):
        write_store(tmp_path / "none", plan, SECONDS / 3600, workers=1)


def contents(folder):
    """Every file below a folder with its bytes; of the record what does not tell of its making."""
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    record = json.loads(files.pop(MADE_OF).read_text()) if MADE_OF in files else {}
    told = {k: v for k, v in record.items() if k not in ("command", "worker_seconds")}
    return {name: path.read_bytes() for name, path in files.items()}, told


def stop_after(calls, store, plan, module=shards, name="write_shard"):
    """Begin a store, or go on, and stop as soon as a function has been called some times."""
    function = getattr(module, name)
    made = []

    def stopping(*arguments, **options):
        function(*arguments, **options)
        made.append(name)
        if len(made) == calls:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            write_store(store, plan, HOURS, workers=1)


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_command_that_is_killed_goes_on_to_the_same_store(soundfont, tmp_path):
    """Begun by two workers, ended by one."""
    arguments = ["--composed", "4", "--split", "all", "--soundfonts", soundfont, "--hours", "0.07"]
    arguments += ["--clip-seconds", "2", "--transpositions", "2"]
    store, whole = tmp_path / "store", tmp_path / "whole"
    assert invoke(whole, *arguments, "--workers", 1).exit_code == 0
    command = [sys.executable, "-m", "recipes.rendered.store", str(store), *arguments]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=Path(module.__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(finished_shards(store)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    with pytest.raises(StoreError, match="not finished"):
        Store.open(store)
    kept = finished_shards(store)
    assert 3 <= len(kept) < 16

    result = invoke(store, *arguments, "--workers", 1)

    assert result.exit_code == 0
    assert f"{16 - len(kept)} of 16 shards are left" in result.output
    assert {path: path.stat().st_ino for path in kept} == kept
    assert contents(store) == contents(whole)


def finished_shards(store):
    """Shards that are known to be whole, and the files that hold them."""
    numbers = [int(path.stem) for path in (store / WORK).glob("[0-9]*.npz")]
    return {path: path.stat().st_ino for path in (shard_path(store, n) for n in numbers)}


def test_killed_between_publishing_and_tidying_up(plan, tmp_path):
    store = tmp_path / "store"
    stop_after(1, store, plan, module, "publish")
    complete = Store.open(store).fingerprint
    assert (store / WORK).exists()
    write_store(store, plan, HOURS, workers=1)
    assert Store.open(store).fingerprint == complete
    assert not (store / WORK).exists()


def test_another_plan_is_refused(plan, soundfont, tmp_path, monkeypatch):
    """Also where the options are the same and the files have changed."""
    own = Path(shutil.copy(soundfont, tmp_path / "own.sf2"))
    plan = replace(plan, soundfonts=(str(own),))
    store = tmp_path / "store"
    stop_after(2, store, plan)
    before = contents(store)

    def refused(other, plan=plan, hours=HOURS):
        soundfont_digest.cache_clear()
        with pytest.raises(StoreError, match=f"begun with other {other}; .* delete the folder"):
            write_store(store, plan, hours, workers=1)
        assert contents(store) == before

    refused("seed", replace(plan, seed=6))
    refused("hours", hours=HOURS + 0.001)
    with monkeypatch.context() as patch:
        patch.setattr(module, "version", lambda name: "0")
        refused("versions")
    own.write_bytes(own.read_bytes() + b"more")
    refused("soundfonts")
    shutil.copy(soundfont, own)
    soundfont_digest.cache_clear()
    write_store(store, plan, HOURS, workers=1)
    assert len(Store.open(store)) == 48


@pytest.mark.parametrize(
    ("each", "message"), [(1, "another command began this"), (2, "its clips form blocks")]
)
def test_preparing_audio_does_not_go_on_with_it(plan, tmp_path, each, message):
    store = tmp_path / "store"
    plan = replace(plan, passages=each, instrumentations=each, transpositions=each)
    stop_after(2, store, plan)
    before = contents(store)
    with pytest.raises(StoreError, match=message):
        prepare(tmp_path, store, store_settings(plan))
    assert contents(store) == before


def test_scores_too_short_for_the_clips_are_refused(plan):
    with pytest.raises(ScoreError, match="fewer than 2 have 4000 s"):
        draw_block(replace(plan, clip_seconds=4000.0), 0)


def test_the_command(soundfont, tmp_path):
    arguments = ["--composed", "4", "--split", "all", "--soundfonts", soundfont]
    arguments += ["--hours", "0.005", "--clip-seconds", "2", "--workers", "1"]
    result = invoke(tmp_path / "store", *arguments)
    assert result.exit_code == 0, result.output
    assert "times real time a worker" in result.stdout
    assert len(Store.open(tmp_path / "store")) == 16
    again = invoke(tmp_path / "store", *arguments)
    assert again.exit_code == 2
    assert "is a complete store" in again.stderr


def test_the_command_with_samples(soundfont, few_instruments, tmp_path, monkeypatch):
    arguments = ["--composed", "4", "--split", "all", "--soundfonts", soundfont, "--hours", "0.001"]
    arguments += ["--clip-seconds", "2", "--workers", "1", "--sampled", "cpu"]
    assert invoke(tmp_path / "store", *arguments).exit_code == 0
    assert json.loads((tmp_path / "store" / MADE_OF).read_text())["plan"]["sampled"] is True

    def too_much(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(shards, "render_drawn", too_much)
    result = invoke(tmp_path / "other", *arguments)
    assert result.exit_code == 1
    assert "the GPU has too little memory" in result.stderr


def test_without_a_soundfont_one_is_drawn(soundfont, tmp_path, monkeypatch):
    """The one that is kept for test, and what sounds like it, are never taken unasked."""
    found = [tmp_path / name for name in NOT_TRAINED_ON]
    monkeypatch.setattr(soundfonts, "find_soundfonts", lambda: found)
    monkeypatch.setattr(module, "write_soundfont", lambda path, seed: shutil.copy(soundfont, path))
    arguments = ["--composed", 4, "--split", "all", "--hours", 0.001, "--clip-seconds", 1]
    assert invoke(tmp_path / "store", *arguments, "--workers", 1).exit_code == 0
    record = json.loads((tmp_path / "store" / MADE_OF).read_text())
    assert list(record["soundfonts"]) == ["drawn-0-0.sf2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--soundfonts", "absent.sf2", "--composed", "4"], "absent.sf2: no such file"),
        (["--scores", "absent"], "works.jsonl: no such file"),
        (["--midi", "."], "no MIDI files"),
        (["--composed", "4", "--licence", "none such"], "none of the 4 works are left"),
        (["--composed", "4", "--transpositions", "13"], "an octave has 12"),
        (["--composed", "4", "--hours", "0"], "'--hours': must be above 0"),
        (["--composed", "4", "--hours", "nan"], "'--hours': must be above 0"),
        (["--hours", "1", "--clip-seconds", "0"], "'--clip-seconds': must be above 0"),
        (["--composed", "4", "--sampled", "tpu"], "must be auto, cpu, mps, cuda"),
    ],
)
def test_bad_input_is_told_in_a_line(arguments, message, soundfont, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    store = tmp_path / "store"
    fixed = ["--soundfonts", soundfont, "--hours", "0.001", "--clip-seconds", "2"]
    result = invoke(store, *fixed, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not store.exists()
