"""Embedding clips in parallel and in batches, against one clip after the other."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from myna_plugin import get_scene_embeddings, load_model
from myna_plugin.common import progress
from myna_plugin.model.audio import load_audio
from myna_plugin.probing.embeddings import (
    WAITING_BATCHES,
    EmbeddingCache,
    Handling,
    embed_clips,
    group_by_length,
)
from myna_plugin.probing.modules import load_module
from myna_plugin.probing.tasks import TASKS, Item
from myna_plugin.probing.tasks.task_data import TaskData, digest_audio

RATE = 16_000


@pytest.fixture
def items(tmp_path) -> list[Item]:
    """Nine files of three lengths, one of them cut into two clips."""
    rng = np.random.default_rng(0)
    clips = []
    for n in range(9):
        path = tmp_path / f"{n}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(RATE * (2 + n % 3)), RATE)
        clips.append(Item(str(n), str(n), path, "x", "train"))
    clips.append(Item("8b", "8", clips[8].path, "x", "train", start_s=1.0, end_s=3.0))
    return clips


def embed(items, module, folder, **options):
    digests, faults = digest_audio(items, 2)
    assert not faults
    cache = EmbeddingCache(folder, module.identity())
    data = TaskData(TASKS["gtzan"], {0: items}, digests)
    vectors, left_out = embed_clips(data, module, cache, Handling(**options))
    assert not left_out
    return vectors


def test_a_log_gets_lines_without_bars(items, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    module = load_module("myna_plugin", str(checkpoint))
    embed(items, module, tmp_path / "cache", batch_size=2, workers=1, progress=True)
    told = capsys.readouterr().err
    assert told.startswith("embed:   0% 0/10 [")
    assert not {"\r", "█", "#"} & set(told)


def test_vectors_are_those_of_a_plain_loop(items, checkpoint, tmp_path):
    model = load_model(checkpoint)
    expected = {}
    for item in items:
        audio = load_audio(item.path, RATE)
        stop = None if item.end_s is None else round(item.end_s * RATE)
        audio = audio[round(item.start_s * RATE) : stop]
        expected[item.clip_id] = get_scene_embeddings(audio[None], model).numpy()
    module = load_module("myna_plugin", str(checkpoint))
    for name in ("new", "from the cache"):
        found = embed(items, module, tmp_path / "cache", batch_size=4, workers=3)
        assert found.keys() == expected.keys(), name
        for clip, row in expected.items():
            np.testing.assert_allclose(found[clip], row, rtol=1e-4, atol=1e-5)


def test_chunk_vectors_of_myna_average_to_the_scene(checkpoint, tmp_path):
    """Of whole chunks only: 2 chunks of 96 frames, each 512 samples after the one before."""
    path = tmp_path / "two.wav"
    samples = 0.1 * np.random.default_rng(1).standard_normal(191 * 512)
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    item = [Item("a", "a", path, "x", "train")]
    chunks = load_module("myna_plugin", str(checkpoint), pool="chunk")
    scene = load_module("myna_plugin", str(checkpoint))
    rows = embed(item, chunks, tmp_path / "chunks")["a"]
    assert rows.shape == (2, 128)
    expected = embed(item, scene, tmp_path / "scenes")["a"]
    np.testing.assert_allclose(rows.mean(axis=0, keepdims=True), expected, rtol=1e-4, atol=1e-5)


def test_batches_hold_one_length_and_little_waits():
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 40, size=300).tolist() + [5] * 40
    clips = [
        (Item(str(i), "", Path("x"), "x", "train"), torch.zeros(n)) for i, n in enumerate(lengths)
    ]
    taken = 0

    def count():
        nonlocal taken
        for clip in clips:
            taken += 1
            yield clip

    given = []
    for batch in group_by_length(count(), batch_size=8):
        assert len({len(waveform) for _, waveform in batch}) == 1
        assert 1 <= len(batch) <= 8
        given += [item.clip_id for item, _ in batch]
        assert taken - len(given) < WAITING_BATCHES * 8
    assert Counter(given) == Counter(item.clip_id for item, _ in clips)


def test_without_a_folder_vectors_are_kept_in_memory(items, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    module = load_module("myna_plugin", str(checkpoint))
    found = embed(items, module, None, batch_size=2)
    expected = embed(items, module, tmp_path / "cache", batch_size=2)
    assert found.keys() == expected.keys()
    for clip, row in expected.items():
        np.testing.assert_array_equal(found[clip], row)
    kept = {path for path in tmp_path.rglob("*") if tmp_path / "cache" not in (path, *path.parents)}
    assert kept == before


def test_two_runs_may_share_a_cache(tmp_path):
    identity = {"module": "m"}
    first, second = EmbeddingCache(tmp_path, identity), EmbeddingCache(tmp_path, identity)
    first.add({"a": np.ones((1, 2), np.float32)}, 1.0, 10.0, "CPU")
    second.add({"b": np.ones((3, 2), np.float32)}, 3.0, 10.0, "CPU")
    first.flush()
    second.flush()
    second.flush()
    both = EmbeddingCache(tmp_path, identity)
    assert {clip: rows.shape for clip, rows in both.vectors.items()} == {"a": (1, 2), "b": (3, 2)}
    cost = both.cost()
    assert cost is not None
    assert (cost.seconds_per_hour, cost.device) == (720.0, "CPU")
    assert len(list(tmp_path.glob("*.npz"))) == 2
