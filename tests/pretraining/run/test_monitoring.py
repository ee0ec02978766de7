"""Measures of embeddings on cases with known answers, and what is written about a run."""

import math

import numpy as np
import pytest
import torch
from stand_ins import MemoryStore

from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.pretraining.run.monitoring import (
    Events,
    Stopwatch,
    alignment,
    choose_clips,
    cut_pairs,
    effective_rank,
    measure,
    uniformity,
)
from myna_plugin.pretraining.step.losses import ContrastiveLoss


def unit_vectors(count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=-1)


def test_alignment_and_uniformity_against_loops():
    first, second = unit_vectors(7, 5), unit_vectors(7, 5, seed=1)
    distances = [
        sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        for x, y in zip(first, second, strict=True)
    ]
    assert alignment(first, second).item() == pytest.approx(float(sum(distances)) / 7, rel=1e-5)
    potentials = [
        math.exp(-2 * float((first[i] - first[j]).square().sum()))
        for i in range(7)
        for j in range(i)
    ]
    wanted = math.log(sum(potentials) / len(potentials))
    assert uniformity(first).item() == pytest.approx(wanted, rel=1e-5)


def test_uniformity_of_a_collapse_is_0_and_spread_is_lower():
    assert uniformity(torch.ones(9, 4) / 2).item() == pytest.approx(0, abs=1e-5)
    assert uniformity(unit_vectors(300, 64)).item() < -3.5


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_orthogonal_directions_is_their_number(rank):
    basis = torch.linalg.qr(torch.randn(40, rank, generator=torch.Generator().manual_seed(0)))[0]
    assert effective_rank(basis @ torch.eye(rank, 16)).item() == pytest.approx(rank, rel=1e-4)


def test_measure_uses_the_training_losss_definition():
    config = EncoderConfig(embed_dim=64, depth=1, num_heads=1, mlp_dim=64, projector=(16,))
    encoder = initialise(MynaEncoder(config), 0)
    crops = cut_pairs(MemoryStore(), np.arange(8), 96, seed=0)
    got = measure(encoder, crops, 0.1, bfloat16=False)
    projected = []
    for patching in config.patchings:
        embeddings = encoder(crops.float().flatten(0, 1), patching)
        projected.append(encoder.linear_head(embeddings).unflatten(0, (2, 8)))
    wanted = ContrastiveLoss(n_groups=2)(torch.stack(projected)).mean()
    assert got.monitor_loss == pytest.approx(wanted.item(), rel=1e-4)
    assert 1 <= got.rank <= 16
    assert 0 < got.alignment < 4
    assert got.uniformity < 0


def test_cut_pairs_takes_two_crops_of_each_clip():
    store = MemoryStore()
    clips = np.array([0, 3, 7])
    crops = cut_pairs(store, clips, 96, seed=1)
    assert crops.shape == (2, 3, 128, 96)
    for row, number in enumerate(clips):
        clip = torch.from_numpy(store.clip(number).copy())
        for view in range(2):
            windows = clip.unfold(0, 96, 1)  # every crop that lies within the clip
            assert (windows == crops[view, row]).all(-1).all(-1).any()
    assert torch.equal(crops, cut_pairs(store, clips, 96, seed=1))
    assert not torch.equal(crops, cut_pairs(store, clips, 96, seed=2))


def test_clips_are_held_out_in_whole_blocks():
    for seed in range(20):
        trained, held_out = choose_clips(23, 8, seed, clips_per_block=4)
        assert sorted([*trained, *held_out]) == list(range(23))
        for clips in (held_out, trained[:-3]):
            assert np.array_equal(clips.reshape(-1, 4) // 4, clips[::4, None].repeat(4, 1) // 4)
        assert trained[-3:].tolist() == [20, 21, 22]
    for held_out in (6, 24):
        with pytest.raises(ValueError, match="multiple of clips_per_block=4 and at most 20 of 23"):
            choose_clips(23, held_out, 0, clips_per_block=4)


def test_stopwatch_knows_examples_and_fraction(monkeypatch):
    now = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    watch = Stopwatch(clips_per_step=8, flops_per_step=100.0, ceiling=1000.0)
    assert watch.look(4) == {"examples_per_s": 16.0, "ceiling_fraction": 0.2}
    watch.ceiling = None
    assert watch.look(4) == {"examples_per_s": 8.0}


def test_without_tensorboard_one_line_says_how_to_add_it(monkeypatch, tmp_path):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr("myna_plugin.pretraining.run.monitoring.import_module", refuse)
    said = []
    events = Events(tmp_path / "events", 0, said.append)
    events.add(1, {"loss": 1.0})
    events.close()
    assert len(said) == 1
    assert "pip install tensorboard" in said[0]
