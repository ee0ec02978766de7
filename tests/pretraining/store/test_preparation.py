import csv
import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sound_encoding import encode

from myna_plugin.common.worker_pool import WorkerDiedError
from myna_plugin.model.audio import load_audio
from myna_plugin.model.audio_files import find_files
from myna_plugin.model.spectrogram import MelSpectrogram
from myna_plugin.pretraining.store import writing as store_writer
from myna_plugin.pretraining.store.plan import PreparationPlan, ShardJob
from myna_plugin.pretraining.store.preparation import (
    SILENCE_AMPLITUDE,
    RejectedError,
    cut_clips,
    decode_audio,
    prepare,
    settings_of,
)
from myna_plugin.pretraining.store.reading import Index, Store, StoreError, shard_path
from myna_plugin.pretraining.store.writing import WORK, writing

SETTINGS = settings_of(clip_seconds=5, min_seconds=4, shard_mb=0.2)
"""157 frames a clip, of which a shard takes four to five."""


def noise(seconds, rate=16_000, channels=1, amplitude=0.1, seed=0):
    generator = np.random.default_rng(seed)
    size = (round(seconds * rate), channels)
    return (amplitude * generator.standard_normal(size)).astype(np.float32)


def write(path, samples, rate=16_000, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)


def build(audio_dir, store, settings=SETTINGS, **options):
    """`prepare` in silence; returns the index."""
    return prepare(audio_dir, store, settings, **{"say": lambda line: None, **options})


def contents(folder):
    """Every file below a folder, with its bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def report_of(store):
    with open(store / "report.csv", newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def check_nothing_is_lost(index, store, n_found):
    """Index files + report rows = files found; and both sides agree with the clips."""
    stored = np.flatnonzero(index.files["clips"])
    assert len(stored) + len(report_of(store)) == len(index.files) == n_found
    assert len(set(index.paths)) == n_found
    assert not set(stored) & set(index.reported)
    clips_of_file = np.bincount(index.clips["file"], minlength=n_found)
    np.testing.assert_array_equal(clips_of_file, index.files["clips"])


# -------- a folder of odd files


def with_nan():
    samples = noise(5)
    samples[777] = np.nan
    return samples


def a_minute_with_a_pause():
    samples = noise(60)
    samples[20 * 16_000 : 40 * 16_000] = 0
    return samples


STORED = {
    "mono.wav": lambda p: write(p, noise(5)),
    "stereo.wav": lambda p: write(p, noise(5, channels=2)),
    "8k.wav": lambda p: write(p, noise(5, 8_000), 8_000),
    "44k.wav": lambda p: write(p, noise(5, 44_100), 44_100),
    "96k.wav": lambda p: write(p, noise(5, 96_000), 96_000),
    "24 bit.wav": lambda p: write(p, noise(5), subtype="PCM_24"),
    "float.wav": lambda p: write(p, noise(5), subtype="FLOAT"),
    "far too loud.wav": lambda p: write(p, noise(5, amplitude=100), subtype="FLOAT"),
    "CAPITALS.WAV": lambda p: write(p, noise(5)),
    "sound.flac": lambda p: write(p, noise(5, 44_100, 2), 44_100),
    "sound.ogg": lambda p: write(p, noise(5, 44_100, 2), 44_100),
    "sound.mp3": lambda p: write(p, noise(5, 44_100, 2), 44_100),
    "Ænima – 音楽/naïve, “quoted”\nname.wav": lambda p: write(p, noise(5)),
    "a/b/c/d/nested.wav": lambda p: write(p, noise(5)),
    "long.flac": lambda p: write(p, np.tile(noise(5, 32_000, 2), (37, 1)), 32_000),
    "pause.wav": lambda p: write(p, a_minute_with_a_pause()),
    "offset.wav": lambda p: write(p, noise(5, amplitude=0.01) + 0.5),
    "shortest.wav": lambda p: write(p, noise(4)),
    "link.wav": lambda p: p.symlink_to(p.with_name("mono.wav")),
}

REPORTED = {
    "empty.wav": (lambda p: p.touch(), "cannot be decoded"),
    "no samples.wav": (lambda p: write(p, noise(0)), "holds no samples"),
    "text.wav": (lambda p: p.write_text("hello"), "cannot be decoded .not audio"),
    "text.mp3": (lambda p: p.write_text("hello" * 999), "cannot be decoded .not audio, or damaged"),
    "text.m4a": (lambda p: p.write_text("hello" * 999), "cannot be decoded .not audio, or damaged"),
    "cut off.flac": (lambda p: p.write_bytes(b"fLaC" + bytes(30)), "cannot be decoded"),
    "silent.wav": (lambda p: write(p, noise(9, amplitude=0)), "silent: nothing above -80 dBFS"),
    "dither.wav": (lambda p: write(p, noise(9, amplitude=1e-5)), "silent"),
    "dc.wav": (lambda p: write(p, noise(9, amplitude=0) + 0.5), "silent"),
    "short.wav": (lambda p: write(p, noise(3)), r"too short: 3\.00 s, 4\.00 s are needed"),
    "nan.wav": (lambda p: write(p, with_nan(), subtype="FLOAT"), "^holds NaN or infinite samples"),
    "dangling.wav": (lambda p: p.symlink_to("nowhere.wav"), "^is a link to nowhere.wav, no such"),
    "circle.wav": (lambda p: p.symlink_to("circle.wav"), "^is a link to circle.wav, no such"),
    "pipe.wav": (lambda p: os.mkfifo(p), "^is a pipe or a device, not a file"),
}

PASSED_OVER = ("cover.jpg", "notes.txt", "README", "folder.wav/readme.md")


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd") / "music"
    root.mkdir()
    for name, make in STORED.items():
        make(root / name)
    for name, (make, _) in REPORTED.items():
        make(root / name)
    for name in PASSED_OVER:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("?")
    # Links to folders: to itself, upwards, and twice to the same.
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "b" / "up").symlink_to("..")
    (root / "z again").symlink_to(root / "a")
    return root


@pytest.fixture(scope="module")
def odd_store(odd_folder, tmp_path_factory):
    """The store of the odd folder, and what was said while it was made."""
    store, said = tmp_path_factory.mktemp("odd") / "store", []
    prepare(odd_folder, store, SETTINGS, workers=2, say=said.append)
    return store, said


def test_every_odd_file_is_stored_or_reported(odd_folder, odd_store):
    store, said = odd_store
    index = Index.load(store / "index.npz")
    check_nothing_is_lost(index, store, len(STORED) + len(REPORTED))
    stored = {os.fsdecode(index.paths[row]) for row in np.flatnonzero(index.files["clips"])}
    assert stored == {str(odd_folder / name) for name in STORED}
    report = report_of(store)
    for name, (_, reason) in REPORTED.items():
        assert re.search(reason, report[str(odd_folder / name)]), name
    assert said[0].startswith("files that are not audio, passed over: 4 (")


def test_a_store_is_complete_and_verified(odd_store):
    store, _ = odd_store
    assert {path.name for path in store.iterdir()} == {
        "store.json",
        "shards",
        "index.npz",
        "report.csv",
    }
    Store.open(store).verify()


def test_stored_clips_equal_the_spectrogram_of_the_whole_file(odd_store):
    """The slow way, file by file: all of it at once, in float32, then cut."""
    opened = Store.open(odd_store[0])
    spectrogram = MelSpectrogram()
    whole = {}
    for i in range(len(opened)):
        path, start_s = opened.source(i)
        if path not in whole:
            whole[path] = spectrogram(load_audio(path)[None])[0].T.numpy()
        start = round(start_s * 16_000 / 512)
        expected = whole[path][start : start + opened.frames[i]]
        assert expected.shape == (opened.frames[i], 128)
        np.testing.assert_allclose(opened.clip(i), expected.clip(max=65_504), 1e-3, 1e-7)


def test_long_files_are_cut_and_silence_left_out(odd_folder, odd_store):
    opened = Store.open(odd_store[0])
    starts = {}
    for i in range(len(opened)):
        path, start_s = opened.source(i)
        starts.setdefault(path.name, []).append((round(start_s * 31.25), int(opened.frames[i])))
    # 185 s are 5782 frames: 36 clips of 157, and a last piece of 130.
    assert starts["long.flac"] == [(157 * k, 157) for k in range(36)] + [(157 * 36, 130)]
    assert starts["mono.wav"] == [(0, 157)]
    assert starts["shortest.wav"] == [(0, 126)]
    # Of 60 s the seconds 20 to 40 are silent: clips 4, 5 and 6 lie between them.
    loud = [(157 * k, 157) for k in (0, 1, 2, 3, 7, 8, 9, 10)]
    assert starts["pause.wav"] == [*loud, (157 * 11, 149)]
    index = opened.index
    row = list(index.paths).index(os.fsencode(odd_folder / "pause.wav"))
    assert index.files["silent_clips"][row] == 3


def test_values_above_float16_are_clamped_and_counted(odd_folder, odd_store):
    opened = Store.open(odd_store[0])
    path = odd_folder / "far too loud.wav"
    row = list(opened.index.paths).index(os.fsencode(path))
    clip = opened.clip(opened.index.clips["file"].tolist().index(row))
    power = MelSpectrogram()(load_audio(path)[None])
    assert opened.index.files["clamped"][row] == (power > 65_504).sum() > 0
    assert opened.index.files["clamped"].sum() == opened.index.files["clamped"][row]
    assert np.isfinite(clip).all()
    assert clip.max() == 65_504


def test_the_bytes_do_not_depend_on_the_number_of_workers(odd_folder, odd_store, tmp_path):
    build(odd_folder, tmp_path / "store", workers=1)
    assert contents(tmp_path / "store") == contents(odd_store[0])
    assert len(Index.load(tmp_path / "store" / "index.npz").shards) > 5


def test_files_that_are_odd_but_stored_are_listed(tmp_path):
    """An M4A is stored; one cut in half is too, and listed; so is one whose channels cancel."""
    music = tmp_path / "music"
    music.mkdir()
    sound = noise(20, 44_100, 2).T
    encode(music / "good.m4a", "aac", sound, 44_100, options={"movflags": "faststart"})
    whole = (music / "good.m4a").read_bytes()
    (music / "cut.m4a").write_bytes(whole[: len(whole) // 2])
    write(music / "cancelled.wav", np.stack([sound[0], -sound[0]], 1), 44_100)
    index = build(music, tmp_path / "store")
    assert (index.files["clips"] > 0).all()
    report = report_of(tmp_path / "store")
    assert set(report) == {str(music / "cut.m4a"), str(music / "cancelled.wav")}
    assert "read short" in report[str(music / "cut.m4a")]
    assert report[str(music / "cancelled.wav")].startswith("cancelled: ")
    assert (len(index.warned), len(index.reported)) == (2, 0)


# -------- cutting one file


def test_a_cut_shows_both_sides():
    """Frames at a cut are those of the whole file, not of a clip that ends there."""
    waveform = torch.from_numpy(noise(10)[:, 0])
    clips = cut_clips(waveform, SETTINGS)
    assert clips.starts == [0, 157]
    alone = MelSpectrogram()(waveform[None, : 156 * 512])[0].T
    whole = MelSpectrogram()(waveform[None])[0].T
    last = torch.from_numpy(clips.mels[0][156]).float()
    torch.testing.assert_close(last, whole[156], rtol=1e-3, atol=1e-7)
    assert not torch.allclose(last, alone[156], rtol=0.01)


@pytest.mark.parametrize(("amplitude", "kept"), [(0.9, False), (1.1, True)])
def test_silence_is_measured_by_amplitude(amplitude, kept):
    time_s = torch.arange(5 * 16_000) / 16_000
    waveform = 0.3 + amplitude * SILENCE_AMPLITUDE * torch.sin(2 * torch.pi * 440 * time_s)
    if kept:
        assert len(cut_clips(waveform, SETTINGS).starts) == 1
    else:
        with pytest.raises(RejectedError, match="silent"):
            cut_clips(waveform, SETTINGS)


# -------- interrupted, and resumed


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """24 files of 25 to 26 s, of which every one fills a shard, and a text."""
    root = tmp_path_factory.mktemp("music")
    for i in range(24):
        write(root / f"{i:02d}.wav", noise(25 + i / 24, seed=i))
    (root / "text.wav").write_text("hello")
    return root


@pytest.fixture(scope="module")
def music_store(music, tmp_path_factory):
    store = tmp_path_factory.mktemp("music") / "store"
    assert len(build(music, store).shards) == 24
    return store


def start_command(music, store, workers):
    command = [sys.executable, "-m", "myna_plugin.recipes.prepare", music, store]
    command += ["--clip-seconds", "5", "--shard-mb", "0.2", "--workers", str(workers)]
    return subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def finished_shards(store):
    return sorted(path.stem for path in (store / WORK).glob("0*.npz"))


def group_is_gone(leader):
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    return False


def identities(store):
    """Inode and time of the finished shards' files."""
    stats = {n: shard_path(store, int(n)).stat() for n in finished_shards(store)}
    return {number: (status.st_ino, status.st_mtime_ns) for number, status in stats.items()}


def test_kill_9_loses_no_finished_shard_and_leaves_no_broken_one(music, music_store, tmp_path):
    store = tmp_path / "store"
    before = {}
    for n_more in (1, 4):
        n_wanted = len(before) + n_more
        process = start_command(music, store, workers=2)
        with process:
            wait_until(lambda n=n_wanted: len(finished_shards(store)) >= n)
            process.kill()
        # Workers end by themselves when their parent is gone.
        wait_until(lambda p=process: group_is_gone(p.pid))
        after = identities(store)
        assert n_wanted <= len(after) < 24
        assert before.items() <= after.items()
        before = after
        with pytest.raises(StoreError, match="not finished"):
            Store.open(store)
    said = []
    inodes = {number: inode for number, (inode, _) in before.items()}
    prepare(music, store, SETTINGS, say=said.append)
    assert f"of which {len(before)} are finished" in said[0]
    assert {number: shard_path(store, int(number)).stat().st_ino for number in inodes} == inodes
    assert contents(store) == contents(music_store)


def test_kill_9_during_the_scan_does_not_lock_the_folder(music, music_store, tmp_path):
    store = tmp_path / "store"
    (store / WORK).mkdir(parents=True)
    (store / WORK / "lock").touch()
    (store / "store.json.123.tmp").write_text("half")
    build(music, store)
    assert contents(store) == contents(music_store)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_clean(music, music_store, tmp_path, number, status):
    store = tmp_path / "store"
    process = start_command(music, store, workers=2)
    with process:
        wait_until(lambda: finished_shards(store))
        # Ctrl-C goes to all processes of a terminal, SIGTERM to the one.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert said.splitlines()[-1].startswith("prepare: stopped; the same command goes on")
    assert "Traceback" not in said
    wait_until(lambda: group_is_gone(process.pid))
    assert not list(store.rglob("*.tmp"))
    assert len(finished_shards(store)) < 24
    build(music, store)
    assert contents(store) == contents(music_store)


def stop_at_marked(path, note):
    """Decode, but act as Ctrl-C at a file that has a mark beside it."""
    if path.with_suffix(".stop").exists():
        raise KeyboardInterrupt
    return decode_audio(path, note)


@pytest.fixture
def interrupted(tmp_path):
    """A folder of five files, and its store, of which two of five shards are finished."""
    root, store = tmp_path / "music", tmp_path / "store"
    for name in "abcde":
        write(root / f"{name}.wav", noise(25, seed=ord(name)))
    (root / "c.stop").touch()
    with pytest.raises(KeyboardInterrupt):
        build(root, store, decode=stop_at_marked)
    (root / "c.stop").unlink()
    assert finished_shards(store) == ["000000", "000001"]
    return root, store


def test_a_file_that_changes_before_the_resume_is_taken_as_it_is_then(interrupted, tmp_path):
    root, store = interrupted
    untouched = identities(store)["000000"]
    write(root / "b.wav", noise(26, seed=1))
    write(root / "d.wav", noise(24, seed=2))
    index = build(root, store)
    check_nothing_is_lost(index, store, 5)
    assert not report_of(store)
    status = shard_path(store, 0).stat()
    assert (status.st_ino, status.st_mtime_ns) == untouched
    build(root, tmp_path / "anew")
    anew = contents(tmp_path / "anew")
    assert contents(store)["shards/000001.npy"] == anew["shards/000001.npy"]
    assert contents(store) == anew


def test_a_file_that_vanishes_after_it_was_stored_stays_stored(interrupted):
    root, store = interrupted
    (root / "a.wav").unlink()
    (root / "e.wav").unlink()
    index = build(root, store)
    check_nothing_is_lost(index, store, 5)
    assert report_of(store) == {str(root / "e.wav"): "no such file"}
    assert Store.open(store).source(0)[0] == root / "a.wav"


def test_a_disk_that_is_not_mounted_does_not_fill_the_report(interrupted):
    root, store = interrupted
    root.rename(root.with_name("elsewhere"))
    root.mkdir()
    with pytest.raises(StoreError, match=r"none of the files .* mount"):
        build(root, store)
    root.rmdir()
    root.with_name("elsewhere").rename(root)
    check_nothing_is_lost(build(root, store), store, 5)


def test_another_folder_or_other_settings_do_not_resume(interrupted, tmp_path):
    root, store = interrupted
    write(tmp_path / "other" / "x.wav", noise(5))
    with pytest.raises(StoreError, match=f"run over {root} is to be finished first"):
        build(tmp_path / "other", store)
    with pytest.raises(StoreError, match=r"other settings \(clip_frames 157, now 313\)"):
        build(root, store, settings_of(shard_mb=0.2))


def grow_while_decoded(path, note):
    waveform = decode_audio(path, note)
    with path.open("ab") as file:
        file.write(b"more")
    return waveform


def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path):
    write(tmp_path / "music" / "a.wav", noise(5))
    build(tmp_path / "music", tmp_path / "store", decode=grow_while_decoded)
    (reason,) = report_of(tmp_path / "store").values()
    assert reason.startswith("changed after the scan")
    index = build(tmp_path / "music", tmp_path / "store", extend=True)
    assert index.files["clips"].tolist() == [1]


def test_a_shard_counts_only_with_its_index(interrupted, tmp_path):
    """As if it had been killed between a shard's two renames."""
    root, store = interrupted
    (store / WORK / "000001.npz").unlink()
    shard_path(store, 1).write_bytes(b"broken")
    build(root, store)
    build(root, tmp_path / "anew")
    assert contents(store) == contents(tmp_path / "anew")


def test_killed_between_publishing_and_tidying_up(music, music_store, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(music_store, store)
    index = Index.load(store / "index.npz")
    (store / WORK).mkdir()
    plan = PreparationPlan(
        index.paths,
        index.files["size"],
        index.files["mtime_ns"],
        np.full(25, 800),
        np.arange(26),
        np.zeros(0, np.int64),
        0,
        index.generation,
        os.fsencode(music),
    )
    plan.save(store / WORK / "plan.npz")
    write(tmp_path / "more" / "new.wav", noise(5))
    # What such a run had left of its shards must not pass for those of the next one.
    (store / WORK / "000024.npz").write_bytes((store / WORK / "plan.npz").read_bytes())
    extended = build(tmp_path / "more", store, extend=True)
    check_nothing_is_lost(extended, store, 26)
    assert not (store / WORK).exists()


# -------- crashes, full disks, locks


def crash_at_marked(path, note):
    """Decode, but die as a decoder with a bug does at a file that has a mark beside it."""
    if path.with_suffix(".crash").exists():
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode_audio(path, note)


def test_a_decoder_that_crashes_costs_one_file(tmp_path):
    root, store = tmp_path / "music", tmp_path / "store"
    for name in "abcdef":
        write(root / f"{name}.wav", noise(5))
    (root / "b.crash").touch()
    (root / "e.crash").touch()
    index = build(root, store, workers=2, decode=crash_at_marked)
    check_nothing_is_lost(index, store, 6)
    report = report_of(store)
    assert set(report) == {str(root / "b.wav"), str(root / "e.wav")}
    assert all("died twice" in reason for reason in report.values())


def crash_once(path, note):
    """Die at the first file, but only once."""
    mark = path.parent / "crashed"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_audio(path, note)


def test_a_worker_killed_once_costs_nothing(tmp_path):
    write(tmp_path / "music" / "a.wav", noise(5))
    index = build(tmp_path / "music", tmp_path / "store", decode=crash_once)
    assert index.files["clips"].tolist() == [1]


def raise_anything(path, note):
    raise ZeroDivisionError("a surprise")


def test_whatever_a_decoder_raises_is_reported(tmp_path):
    write(tmp_path / "music" / "a.wav", noise(5))
    index = build(tmp_path / "music", tmp_path / "store", decode=raise_anything)
    (reason,) = report_of(tmp_path / "store").values()
    assert reason == "cannot be decoded (ZeroDivisionError: a surprise)"
    assert len(index.clips) == 0
    assert len(Store.open(tmp_path / "store")) == 0


def test_a_disk_too_small_is_refused_before_anything_is_decoded(music, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 4_000_000))
    said = []
    with pytest.raises(StoreError, match=r"4\.90MB are needed, .* 4\.00MB left; free some"):
        prepare(music, tmp_path / "store", SETTINGS, say=said.append)
    assert "disk needed: 4.90MB" in said[1]
    assert not list((tmp_path / "store" / "shards").iterdir())
    monkeypatch.undo()
    build(music, tmp_path / "store")
    taken = sum(map(len, contents(tmp_path / "store").values()))
    assert 0.95 * 4.90e6 < taken < 4.90e6


def test_two_runs_at_once_are_refused(music, tmp_path):
    with writing(tmp_path / "store"), pytest.raises(StoreError, match="another run is writing"):
        build(music, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="flock not supported"), writing(tmp_path / "store"):
        pass


def test_a_folder_of_other_things_is_left_alone(music, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="other things than a store"):
        build(music, tmp_path)
    (tmp_path / "file").write_text("precious")
    (tmp_path / "data" / "shards").mkdir(parents=True)
    with pytest.raises(StoreError, match="other things than a store"):
        build(music, tmp_path / "data")
    with pytest.raises(StoreError, match="is a file"):
        build(music, tmp_path / "file")
    assert contents(tmp_path) == {"thesis.tex": b"precious", "file": b"precious"}


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    scandir = os.scandir

    def refuse_locked(path):
        # Not by permissions, which root passes over.
        if path.endswith(b"locked"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_locked)
    write(tmp_path / "a.wav", noise(5))
    (tmp_path / "locked").mkdir()
    said = []
    assert list(find_files(tmp_path, said.append)) == [os.fsencode(tmp_path / "a.wav")]
    assert "locked: left out, cannot be read" in said[0]


def test_metadata_of_macos_and_git_are_left_out_and_dotted_titles_kept(tmp_path):
    for name in ("song.wav", "._song.wav", ".git/annex/song.wav", "...And Justice/.5.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    kept = [os.fsencode(tmp_path / name) for name in ("...And Justice/.5.wav", "song.wav")]
    assert list(find_files(tmp_path)) == kept


# -------- extending and merging


def test_extending_adds_files_and_tries_the_reported_ones_again(tmp_path):
    root, store = tmp_path / "music", tmp_path / "store"
    write(root / "b.wav", noise(5, seed=1))
    write(root / "c.wav", noise(12, seed=2))
    (root / "text.wav").write_text("hello")
    (root / "fixed later.wav").write_text("hello")
    first = build(root, store)
    assert len(report_of(store)) == 2
    old = contents(store)["shards/000000.npy"]
    write(root / "a.wav", noise(5, seed=3))
    write(root / "fixed later.wav", noise(5, seed=4))
    with pytest.raises(StoreError, match=r"lacks 1 of the files under .* --extend"):
        build(root, store)
    (root / "fixed later.stop").touch()
    with pytest.raises(KeyboardInterrupt):
        build(root, store, extend=True, decode=stop_at_marked)
    assert len(Store.open(store)) == len(first.clips), "readable as it was while it is extended"
    (root / "fixed later.stop").unlink()
    second = build(root, store, extend=True)
    check_nothing_is_lost(second, store, 5)
    assert list(report_of(store)) == [str(root / "text.wav")]
    assert contents(store)["shards/000000.npy"] == old
    opened = Store.open(store)
    opened.verify()
    names = [opened.source(i)[0].name for i in range(len(opened))]
    assert names == ["b.wav", "c.wav", "c.wav", "a.wav", "fixed later.wav"]


def test_extending_with_nothing_new_changes_nothing(music, music_store, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(music_store, store)
    said = []
    prepare(music, store, SETTINGS, say=said.append)
    assert "--extend tries again what is in its report" in said[-1]
    assert contents(store) == contents(music_store)
    index = build(music, store, extend=True)
    check_nothing_is_lost(index, store, 25)
    assert Store.open(store).fingerprint == Store.open(music_store).fingerprint


def test_stored_files_that_change_are_mentioned(tmp_path):
    root, store = tmp_path / "music", tmp_path / "store"
    write(root / "a.wav", noise(5))
    build(root, store)
    write(root / "a.wav", noise(6))
    write(root / "b.wav", noise(5))
    said = []
    index = prepare(root, store, SETTINGS, extend=True, say=said.append)
    assert said[0].startswith(
        "files that have changed since they were stored, kept as they were: 1 "
    )
    assert str(root / "a.wav") in said[0]
    assert index.files["clips"].tolist() == [1, 1]


@pytest.fixture(scope="module")
def parts(music, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for i in (1, 2, 3):
        build(music, folder / f"part{i}", settings_of(5, 4, 0.2, (i, 3)))
    return [folder / f"part{i}" for i in (1, 2, 3)]


def clips_by_source(store):
    opened = Store.open(store)
    return {opened.source(i): opened.clip(i).tobytes() for i in range(len(opened))}


def test_merged_parts_are_the_whole(music, music_store, parts, tmp_path):
    store = tmp_path / "store"
    before = [contents(part) for part in parts]
    index = store_writer.merge(store, parts, say=lambda line: None)
    check_nothing_is_lost(index, store, 25)
    assert all(len(Store.open(part)) > 0 for part in parts)
    assert clips_by_source(store) == clips_by_source(music_store)
    assert report_of(store) == report_of(music_store)
    opened = Store.open(store)
    opened.verify()
    assert opened.settings == SETTINGS
    assert shard_path(store, 0).samefile(shard_path(parts[0], 0)), "linked, not copied"
    write(tmp_path / "more" / "new.wav", noise(5))
    check_nothing_is_lost(build(tmp_path / "more", store, extend=True), store, 26)
    assert [contents(part) for part in parts] == before


def refuse_links(source, target):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_parts_on_another_disk_are_copied_and_compared(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_links)
    store = tmp_path / "store"
    store_writer.merge(store, parts, say=lambda line: None)
    assert not shard_path(store, 0).samefile(shard_path(parts[0], 0))
    Store.open(store).verify()
    # Begun again after a kill: one shard broken, one missing, the rest as they should be.
    (store / "index.npz").unlink()
    shard_path(store, 3).write_bytes(b"broken")
    shard_path(store, 5).unlink()
    kept = shard_path(store, 4).stat().st_ino
    store_writer.merge(store, parts, say=lambda line: None)
    Store.open(store).verify()
    assert shard_path(store, 4).stat().st_ino == kept


def test_a_part_that_has_changed_is_not_copied(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_links)
    part = tmp_path / "part2"
    shutil.copytree(parts[1], part)
    content = bytearray(shard_path(part, 0).read_bytes())
    content[-1] ^= 1
    shard_path(part, 0).write_bytes(content)
    with pytest.raises(StoreError, match=r"part2/shards/000000\.npy: its checksum"):
        store_writer.merge(tmp_path / "store", [parts[0], part, parts[2]])


def test_what_does_not_belong_together_is_not_merged(parts, music_store, tmp_path):
    store = tmp_path / "store"
    other = tmp_path / "other"
    write(tmp_path / "music" / "a.wav", noise(5))
    build(tmp_path / "music", other, settings_of(6, 4, 0.2))
    for given, message in (
        (parts[:2], "these are the parts 1/3, 2/3: give 1/3 to 3/3"),
        ([parts[0], *parts], "1/3, 1/3, 2/3, 3/3"),
        ([music_store, music_store], "is in another part as well"),
        ([music_store, other], "other: cut in another way than"),
        ([tmp_path / "nowhere"], "nowhere: not a store"),
    ):
        with pytest.raises(StoreError, match=message):
            store_writer.merge(store, given)
        assert not store.exists()
    before = contents(other)
    with pytest.raises(StoreError, match="is a store already"):
        store_writer.merge(other, parts)
    assert contents(other) == before


def test_parts_are_chosen_by_name_below_the_folder(music, parts, tmp_path):
    """So machines that mount the audio elsewhere, or see more of it, do not overlap."""
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in music.iterdir():
        if path.name < "15":
            (moved / path.name).symlink_to(path)
    index = build(moved, tmp_path / "part1", settings_of(5, 4, 0.2, (1, 3)))
    names = {Path(os.fsdecode(path)).name for path in index.paths}
    everywhere = Index.load(parts[0] / "index.npz").paths
    assert names == {n for p in everywhere if (n := Path(os.fsdecode(p)).name) < "15"}
    assert names


@pytest.mark.parametrize("n_samples", [1, 511, 64_000 - 1])
def test_sounds_below_the_shortest_clip_are_rejected(n_samples):
    with pytest.raises(RejectedError, match="too short"):
        cut_clips(torch.ones(n_samples), SETTINGS)


def test_a_worker_that_dies_while_it_writes_is_not_tried_for_ever():
    job = ShardJob(3, [b"a", b"b"], [1, 1], [1, 1], [1, 1])
    once = job.after_death(1)
    twice = once.after_death(1)
    assert (once.crashed, twice.crashed) == ((), (1,))
    for state, item in ((twice, 1), (job, 2)):
        with pytest.raises(WorkerDiedError, match="shard 3"):
            state.after_death(item)
