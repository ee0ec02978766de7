"""Sampling of clips, crops and patches."""

import numpy as np
import pytest
import torch
from stand_ins import MemoryStore
from torch.nn import functional

from myna_plugin.model.encoder import PATCHINGS, InputScaling
from myna_plugin.model.vit import patchify
from myna_plugin.pretraining.step.crops import Versions, ViewSampler, order_clips
from myna_plugin.pretraining.step.patches import (
    HostViews,
    ResidentFrames,
    all_tokens,
    gather_patches,
    norm_patches,
)

BOTH = ("square", "vertical")


def sampler(store, **changes):
    settings = {"batch_size": 4, "patchings": BOTH, "seed": 3} | changes
    return ViewSampler(store.offsets, store.frames, **settings)


@pytest.mark.parametrize("patching", PATCHINGS)
def test_gather_equals_crop_then_patchify_then_mask(patching):
    store = MemoryStore()
    frames = ResidentFrames(store, "cpu").frames
    views = sampler(store, patchings=(patching,)).draw(0)
    got = gather_patches(frames, views.starts[0].flatten(), views.tokens[0].flatten(0, 1), patching)
    for view in range(2):
        for pair, clip in enumerate(views.sounds.tolist()):
            start = int(views.starts[0, view, pair] - store.offsets[clip])
            crop = torch.from_numpy(store.clip(clip)[start : start + 96].T.copy())
            expected = patchify(crop[None], PATCHINGS[patching])[0][views.tokens[0, view, pair]]
            assert torch.equal(got[view * 4 + pair], expected)


def test_resident_patches_are_scaled_as_asked():
    store = MemoryStore()
    resident = ResidentFrames(store, "cpu")
    starts, tokens = torch.tensor([0, 40]), torch.tensor([[1, 47], [9, 30]])
    raw = gather_patches(resident.frames, starts, tokens, "square").float()
    wanted = {
        None: raw,
        InputScaling(): functional.layer_norm(raw, (256,)),
        InputScaling(log_mel=True): functional.layer_norm((1 + raw).log(), (256,)),
        InputScaling(True, (1e3, 4.4, 3.0)): ((1 + 1e3 * raw).log() - 4.4) / 3,
    }
    for scaling, expected in wanted.items():
        got = resident.patches(starts, tokens, "square", scaling=scaling)
        torch.testing.assert_close(got, expected)


def test_an_epoch_visits_every_clip_once_and_epochs_differ():
    store = MemoryStore()
    draws = sampler(store)
    assert draws.steps_per_epoch == 2
    epochs = [
        torch.cat([draws.sounds(2 * epoch), draws.sounds(2 * epoch + 1)]) for epoch in range(5)
    ]
    assert all(sorted(epoch.tolist()) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 1


def blocks_in_pieces(clips, clips_per_block):
    """The pieces of an order, block length by block length, each as a set."""
    pieces = torch.as_tensor(clips).split(clips_per_block)
    return [set(piece.tolist()) for piece in pieces]


@pytest.mark.parametrize(("n_clips", "n"), [(12, 1), (12, 3), (12, 12), (13, 3), (14, 3), (5, 8)])
def test_an_order_has_every_clip_once_and_whole_blocks_at_their_places(n_clips, n):
    whole = {frozenset(range(k, k + n)) for k in range(0, n_clips - n + 1, n)}
    short = set(range(n_clips // n * n, n_clips))
    seen = set()
    for seed in range(60):
        order = order_clips(n_clips, n, torch.Generator().manual_seed(seed))
        assert sorted(order.tolist()) == list(range(n_clips))
        *pieces, last = map(frozenset, blocks_in_pieces(order, n))
        seen.add(pieces[0] if pieces else last)
        cut = [piece for piece in pieces if piece not in whole]
        if not short:
            assert last in whole
            assert not cut
        elif last != short:
            # The short block stands elsewhere, filled up by what lacks at the end.
            (filled,) = cut
            assert filled - last > short
            assert (filled - short) | last in whole
    assert len(seen) > (n_clips > n)


def test_single_clips_are_shuffled_as_without_blocks():
    plain = torch.randperm(50, generator=torch.Generator().manual_seed(7))
    assert torch.equal(order_clips(50, 1, torch.Generator().manual_seed(7)), plain)


def test_blocks_stay_together_in_every_batch_and_process():
    store = MemoryStore(lengths=[100] * 26)
    settings = {"batch_size": 8, "clips_per_block": 2}
    draws = sampler(store, **settings)
    assert draws.steps_per_epoch == 3
    partners = []
    for step in range(12):
        parts = [
            sampler(store, rank=rank, world_size=2, **settings).sounds(step) for rank in range(2)
        ]
        assert torch.equal(torch.cat(parts), draws.sounds(step))
        for part in parts:
            clips = set(part.tolist())
            assert {clip ^ 1 for clip in clips} == clips
        partners.append(frozenset(draws.sounds(step).tolist()))
    assert all(len(frozenset.union(*partners[k : k + 3])) == 24 for k in range(0, 12, 3))
    assert len(set(partners)) == 12  # blocks meet others from epoch to epoch


def test_a_short_last_block_comes_into_batches_too():
    store = MemoryStore(lengths=[100] * 9)
    draws = sampler(store, batch_size=4, clips_per_block=4)
    short = [8 in draws.sounds(step) for step in range(60)]
    assert 5 < sum(short) < 55
    for epoch in range(30):
        clips = torch.cat([draws.sounds(2 * epoch), draws.sounds(2 * epoch + 1)])
        assert len(clips.unique()) == 8


@pytest.mark.parametrize(
    ("versions", "block"), [((2, 4), 8), ((4, 1), 8), ((4, 1), 1), ((3, 2), 1)]
)
def test_the_views_of_a_sound_come_from_two_of_its_versions(versions, block):
    """Written out clip by clip: (number of the sound, number of its version) of every clip."""
    number, stride = versions
    span = number * stride
    told = [(c // span * stride + c % stride, c % span // stride) for c in range(48)]
    store = MemoryStore(lengths=[100] * 48)
    draws = sampler(
        store, batch_size=4, clips_per_block=block, versions=Versions(number, stride, (0.5,))
    )
    assert draws.steps_per_epoch == 48 // number // 4
    same, pairs = [], set()
    for epoch in range(40):
        met = []
        for step in range(draws.steps_per_epoch):
            views = draws.draw(epoch * draws.steps_per_epoch + step)
            assert torch.equal(*views.starts)
            one, other = [[told[c] for c in (s // 100).tolist()] for s in views.starts[0]]
            assert [sound for sound, _ in one] == [sound for sound, _ in other]
            firsts = [c for c in range(48) if told[c][1] == 0]
            assert [told[firsts[s]] for s in views.sounds.tolist()] == [(s, 0) for s, _ in one]
            if block > 1:
                blocks = {sound // (block // number) for sound, _ in one}
                assert len(blocks) == 4 // (block // number)
            met += [sound for sound, _ in one]
            same += [a == b for a, b in zip(one, other, strict=True)]
            pairs |= {(a[1], b[1]) for a, b in zip(one, other, strict=True)}
        assert sorted(met) == list(range(48 // number))
    assert 0.4 < np.mean(same) < 0.6
    assert pairs == {(a, b) for a in range(number) for b in range(number)}


def test_versions_always_differ_unless_told_otherwise():
    store = MemoryStore(lengths=[100] * 24)
    draws = sampler(store, versions=Versions(3, 2))
    views = [draws.draw(step).starts[0] // 100 for step in range(40)]
    assert all((one != other).all() for one, other in views)


def test_every_patching_has_its_own_share_of_versions():
    store = MemoryStore(lengths=[100] * 64)
    draws = sampler(store, batch_size=8, versions=Versions(2, 4, (0.25, 1.0)))
    same = []
    for step in range(100):
        views = draws.draw(step)
        (one, other), (first, second) = views.starts // 100
        assert torch.equal(one // 8 * 4 + one % 4, views.sounds)
        assert torch.equal(one, first)
        assert torch.equal((first - second).abs(), torch.full((8,), 4))
        assert torch.isin(one - other, torch.tensor([-4, 0, 4])).all()
        same += (one == other).tolist()
    assert 0.7 < np.mean(same) < 0.8


def test_stores_without_so_many_versions_are_refused():
    store = MemoryStore(lengths=[100] * 12)
    with pytest.raises(ValueError, match=r"holds 12 clips, which is no multiple of .*=8"):
        sampler(store, versions=Versions(2, 4))
    with pytest.raises(ValueError, match=r"1 or a multiple of versions .*=6, got 4"):
        sampler(store, versions=Versions(2, 3), clips_per_block=4)
    with pytest.raises(
        ValueError, match=r"12 clips of 6 sounds to train on, fewer than one batch of 8; .*=6"
    ):
        sampler(store, versions=Versions(2), batch_size=8)


def test_crops_lie_within_their_clips_and_reach_both_ends():
    store = MemoryStore(lengths=(96, 98, 130, 101), shards=1)
    draws = sampler(store)
    seen = {clip: set() for clip in range(4)}
    for step in range(300):
        views = draws.draw(step)
        for view in views.starts.flatten(0, 1):
            for clip, start in zip(views.sounds.tolist(), view.tolist(), strict=True):
                seen[clip].add(start - int(store.offsets[clip]))
    assert [(min(s), max(s)) for s in seen.values()] == [(0, 0), (0, 2), (0, 34), (0, 5)]


def test_a_step_depends_on_its_number_alone():
    store = MemoryStore()
    first = [sampler(store).draw(step) for step in range(6)]
    again = sampler(store)
    for step in (5, 0, 3):
        views = again.draw(step)
        assert torch.equal(views.sounds, first[step].sounds)
        assert torch.equal(views.starts, first[step].starts)
        assert torch.equal(views.tokens, first[step].tokens)
    assert not torch.equal(first[0].tokens, first[1].tokens)
    assert not torch.equal(sampler(store, seed=4).draw(0).tokens, first[0].tokens)


def test_processes_share_a_batch_without_overlap():
    store = MemoryStore()
    parts = [sampler(store, rank=rank, world_size=2).sounds(1) for rank in range(2)]
    assert torch.equal(torch.cat(parts), sampler(store).sounds(1))


def test_views_from_host_memory_equal_resident_ones():
    store = MemoryStore()
    draws = sampler(store, batch_size=2, versions=Versions(2, 1, (0.0, 1.0)))
    resident = ResidentFrames(store, "cpu")
    for whole in (False, True):
        host = HostViews(store, draws, "cpu", ahead=2, whole=whole)
        steps = list(host.stream(1, 6))
        assert len(steps) == 5
        for step, views in enumerate(steps, 1):
            expected = draws.draw(step)
            assert torch.equal(views.tokens, expected.tokens)
            wanted = all_tokens(expected.tokens, 96) if whole else expected.tokens
            for group, patching in enumerate(BOTH):
                patches = gather_patches(
                    resident.frames,
                    expected.starts[group].flatten(),
                    wanted[group].flatten(0, 1),
                    patching,
                )
                assert torch.equal(views.patches[group].flatten(0, 1), patches)


def test_an_error_of_the_reading_thread_reaches_the_loop():
    store = MemoryStore()
    host = HostViews(store, sampler(store), "cpu")
    host.shards = [shard[:10] for shard in host.shards]
    with pytest.raises(IndexError):
        list(host.stream(0, 3))


def test_leaving_the_stream_early_ends_its_thread():
    import threading

    store = MemoryStore()
    before = threading.active_count()
    for _ in HostViews(store, sampler(store), "cpu").stream(0, 1000):
        break
    assert threading.active_count() == before


def test_norm_patches_is_a_tokenizers_first_norm():
    patches = torch.rand(3, 256) * 100
    normed = norm_patches(patches, torch.float32)
    torch.testing.assert_close(normed.mean(-1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(-1, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_stores_that_cannot_serve_are_refused_before_anything_else():
    store = MemoryStore()
    with pytest.raises(ValueError, match="are 8 clips to train on, fewer than one batch of 9"):
        sampler(store, batch_size=9)
    with pytest.raises(ValueError, match="3 clips of the store are shorter than a crop of 112"):
        sampler(store, crop_frames=112)
    with pytest.raises(ValueError, match="multiple of 16 for square patches, got 90"):
        sampler(store, crop_frames=90)
    with pytest.raises(ValueError, match="does not divide among 3 processes"):
        sampler(store, world_size=3)
    with pytest.raises(ValueError, match=r"multiple of 3 to hold whole blocks of .*=3, got 4"):
        sampler(store, clips_per_block=3)
    with pytest.raises(ValueError, match=r"multiple of 8 .*=4 in each of 2 processes, got 4"):
        sampler(store, clips_per_block=4, world_size=2)
    with pytest.raises(ValueError, match="at least 2"):
        sampler(store, batch_size=1)
    with pytest.raises(ValueError, match="unknown masking"):
        sampler(store, masking="chess")


def test_resident_frames_are_the_shards_one_after_the_other():
    store = MemoryStore()
    frames = ResidentFrames(store, "cpu").frames.numpy()
    assert np.array_equal(frames, np.concatenate(store.shards))
