import hashlib
import json
import pickle
import re
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from myna_plugin.pretraining.store.reading import (
    CLIP,
    FILE,
    FORMAT,
    SHARD,
    Index,
    Store,
    StoreError,
    StoreSettings,
    shard_path,
)
from myna_plugin.pretraining.store.texts import Texts
from myna_plugin.pretraining.store.writing import (
    publish,
    write_arrays,
    write_settings,
    write_shard_file,
)

SETTINGS = StoreSettings(clip_frames=50, min_frames=20, shard_frames=100)


def random_clips(shard):
    """Clips of 50, 50 and 20 + shard frames, the first two from one file."""
    generator = np.random.default_rng(shard)
    return [generator.gamma(0.1, 10, (n, 128)).astype(np.float16) for n in (50, 50, 20 + shard)]


@pytest.fixture
def store(tmp_path):
    """A store of three shards with three clips each; its numbers have gaps."""
    folder = tmp_path / "store"
    (folder / "shards").mkdir(parents=True)
    indexes = []
    for shard in range(3):
        clips = [(0, 0, 50), (0, 50, 50), (1, 0, 20 + shard)]
        files = [(1, 2, 2, 0, 0), (3, 4, 1, 0, 0), (5, 6, 0, 0, 0)]
        names = [f"/music/{shard}{name}.wav".encode() for name in "abc"]
        indexes.append(
            Index(
                np.array(clips, CLIP),
                write_shard_file(folder, 2 * shard, random_clips(shard)),
                np.array(files, FILE),
                Texts.of(names),
                Texts.of([b"", b"", b"silent"]),
            )
        )
    write_settings(folder, SETTINGS)
    publish(folder, Index.concatenate(indexes))
    return folder


def test_the_reading_interface(store):
    opened = Store.open(store)
    expected = [clip for shard in range(3) for clip in random_clips(shard)]
    assert len(opened) == 9
    assert opened.n_mels == 128
    assert opened.settings == SETTINGS
    assert opened.frames.dtype == np.int32
    assert opened.offsets.dtype == np.int64
    assert opened.frames.tolist() == [50, 50, 20, 50, 50, 21, 50, 50, 22]
    assert opened.offsets.tolist() == [0, 50, 100, 120, 170, 220, 241, 291, 341]
    assert all(isinstance(shard, np.memmap) for shard in opened.shards)
    assert {shard.dtype for shard in opened.shards} == {np.dtype(np.float16)}
    assert [shard.shape for shard in opened.shards] == [(120, 128), (121, 128), (122, 128)]
    everything = np.concatenate(opened.shards)
    for i, clip in enumerate(expected):
        np.testing.assert_array_equal(opened.clip(i), clip)
        start = opened.offsets[i]
        np.testing.assert_array_equal(everything[start : start + opened.frames[i]], clip)
    np.testing.assert_array_equal(opened.clip(-1), expected[-1])
    with pytest.raises(IndexError):
        opened.clip(9)


def test_stored_values_cannot_be_written_by_accident(store):
    with pytest.raises(ValueError, match="read-only"):
        Store.open(store).clip(0)[0, 0] = 1


def test_a_pickled_store_is_small_and_equal(store):
    opened = Store.open(store)
    assert len(opened.shards) == 3
    pickled = pickle.dumps(opened)
    assert len(pickled) < 500
    np.testing.assert_array_equal(pickle.loads(pickled).clip(5), opened.clip(5))  # noqa: S301


def test_the_fingerprint_names_values_and_cuts(store):
    original = Store.open(store).fingerprint
    assert re.fullmatch("[0-9a-f]{64}", original)
    assert Store.open(store).fingerprint == original
    index = Index.load(store / "index.npz")
    clips = index.clips.copy()
    clips["frames"][:2] = 49, 51
    write_arrays(store / "index.npz", replace(index, clips=clips).columns())
    assert Store.open(store).fingerprint != original
    shards = index.shards.copy()
    shards["checksum"][1, 3] ^= 1
    write_arrays(store / "index.npz", replace(index, shards=shards).columns())
    assert Store.open(store).fingerprint != original


def test_the_report_lists_what_is_not_stored(store):
    assert (store / "report.csv").read_text().splitlines() == [
        "path,reason,stored",
        "/music/0c.wav,silent,no",
        "/music/1c.wav,silent,no",
        "/music/2c.wav,silent,no",
    ]


def test_verify_finds_a_single_flipped_bit(store, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Store.open(store).verify()
    assert "100%" in capsys.readouterr().err
    path = shard_path(store, 2)
    content = bytearray(path.read_bytes())
    content[-777] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"000002\.npy: its checksum .* restore it"):
        Store.open(store).verify()


def edit_settings(store, **changes):
    path = store / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES = {
    "no store": (lambda s: (s / "store.json").unlink(), r"store: not a store .* make one with"),
    "unfinished": (lambda s: (s / "index.npz").unlink(), r"not finished .* once more"),
    "newer format": (
        lambda s: edit_settings(s, version=FORMAT["version"] + 1),
        r"store\.json: version is 2, and this program reads 1; update",
    ),
    "other hop": (lambda s: edit_settings(s, hop_length=160), "hop_length is 160"),
    "settings cut off": (
        lambda s: (s / "store.json").write_text("{"),
        r"store\.json: not JSON .* restore",
    ),
    "settings of nothing": (
        lambda s: (s / "store.json").write_text(json.dumps(FORMAT)),
        r"store\.json: damaged .*clip_frames",
    ),
    "index cut off": (
        lambda s: (s / "index.npz").write_bytes((s / "index.npz").read_bytes()[:-100]),
        r"index\.npz: damaged .* restore",
    ),
    "missing shard": (
        lambda s: shard_path(s, 4).unlink(),
        r"000004\.npy: this shard is missing .* restore",
    ),
    "truncated shard": (
        lambda s: shard_path(s, 0).write_bytes(shard_path(s, 0).read_bytes()[:-1]),
        r"000000\.npy: 30847 bytes where 30848 were written",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_when_opening(store, damage):
    harm, message = DAMAGES[damage]
    harm(store)
    with pytest.raises(StoreError, match=message) as caught:
        Store.open(store)
    assert "\n" not in str(caught.value)


def test_a_damaged_shard_header_is_named_when_mapping(store):
    path = shard_path(store, 2)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(StoreError, match=r"000002\.npy: cannot be mapped"):
        Store.open(store).clip(4)


def test_a_replaced_shard_is_named_when_mapping(store):
    path = shard_path(store, 2)
    content = path.read_bytes().replace(b"(121, 128)", b"(242, 64) ")
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"000002\.npy: holds float16 of shape \(242, 64\)"):
        Store.open(store).clip(4)


@pytest.mark.parametrize(
    "wrong", [{"clip_frames": 10}, {"min_frames": 0}, {"shard_frames": 0}, {"part": (3, 2)}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"frame|part"):
        replace(SETTINGS, **wrong)


def test_dropping_files_keeps_every_clip_with_its_file(store):
    index = Index.load(store / "index.npz")
    smaller = index.without(np.array([2, 8]))
    assert len(smaller.files) == 7
    for before, after in zip(index.clips, smaller.clips, strict=True):
        assert index.paths[before["file"]] == smaller.paths[after["file"]]
    assert [smaller.paths[row] for row in smaller.reported.tolist()] == [b"/music/1c.wav"]
    with pytest.raises(ValueError, match="stored clips"):
        index.without(np.array([0]))


def test_a_hundred_thousand_clips_stay_small(tmp_path):
    """Every clip a file of its own, in 100 shards: the worst case for the index."""
    rows = np.arange(1000)
    clips = np.zeros(1000, CLIP)
    clips["file"], clips["frames"] = rows, 1
    paths = Texts.of(f"/data/audioset/music/{row:06d}/AbCdEfGhIjK.flac".encode() for row in rows)
    files = np.zeros(1000, FILE)
    files["clips"] = 1
    parts = []
    (tmp_path / "shards").mkdir()
    for number in range(100):
        shard = np.zeros(1, SHARD)
        shard["number"], shard["frames"], shard["bytes"] = number, 1000, 1
        shard_path(tmp_path, number).write_bytes(b"?")
        parts.append(Index(clips, shard, files, paths, Texts.of([b""] * 1000)))
    tracemalloc.start()
    try:
        index = Index.concatenate(parts)
        held, peak = tracemalloc.get_traced_memory()
        assert held < 12e6
        assert peak < 20e6
        write_settings(tmp_path, SETTINGS)
        publish(tmp_path, index)
        del index
        tracemalloc.reset_peak()
        opened = Store.open(tmp_path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(opened) == 100_000
    assert held < 4e6
    assert peak < 6e6
    assert opened.offsets[-1] == 99_999
    assert opened.source(54_321)[0].parts[-2] == "000321"


def test_checksums_are_the_sha256_of_the_files(store):
    for shard in Index.load(store / "index.npz").shards:
        content = shard_path(store, shard["number"]).read_bytes()
        assert hashlib.sha256(content).digest() == shard["checksum"].tobytes()
