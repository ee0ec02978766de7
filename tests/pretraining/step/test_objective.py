"""The fast objective against the literal one, and the masked auto-encoder."""

import importlib.util
from pathlib import Path

import pytest
import torch
from stand_ins import MemoryStore

from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.model.vit import patchify
from myna_plugin.pretraining.step.autoencoder import MaskedAutoencoder, unpatchify
from myna_plugin.pretraining.step.crops import Versions, ViewSampler
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from myna_plugin.pretraining.step.objective import ContrastiveObjective, VisibleTokens
from myna_plugin.pretraining.step.optimiser import build_optimiser
from myna_plugin.pretraining.step.patches import HostViews, ResidentFrames, gather_patches
from myna_plugin.pretraining.step.training_step import TrainingStep

LITERAL = Path(__file__).parents[3] / "benchmarks" / "literal_step.py"
spec = importlib.util.spec_from_file_location("literal_step", LITERAL)
literal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(literal)

TINY = {"embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_dim": 96, "projector": (32, 16)}


def build(patchings=("square", "vertical"), **changes):
    encoder = MynaEncoder(EncoderConfig(patchings=patchings, **(TINY | changes)))
    initialise(encoder, 0)
    with torch.no_grad():
        for parameter in encoder.parameters():  # norms away from the identity, biases from zero
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


@pytest.mark.parametrize("patchings", [("square",), ("vertical",), ("square", "vertical")])
@pytest.mark.parametrize("settings", [{}, {"tile_rows": 3}, {"recompute": True}])
def test_loss_and_gradients_equal_the_literal_steps(patchings, settings):
    torch.manual_seed(0)
    store = MemoryStore()
    encoder = build(patchings)
    frames = ResidentFrames(store, "cpu")
    views = ViewSampler(store.offsets, store.frames, batch_size=6, patchings=patchings).draw(0)
    loss = ContrastiveLoss(n_groups=len(patchings), tile_rows=settings.get("tile_rows"))
    objective = ContrastiveObjective(
        encoder, loss, frames, recompute=settings.get("recompute", False)
    )
    result = objective(views).mean()
    gradients = torch.autograd.grad(result, list(encoder.parameters()))

    crops = literal.cut_crops(frames.frames, views.starts[0].flatten())
    tokens = {name: views.tokens[i].flatten(0, 1) for i, name in enumerate(patchings)}
    expected = literal.literal_loss(encoder, crops, tokens)
    wanted = torch.autograd.grad(expected, list(encoder.parameters()))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(gradients, wanted, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm() + 1e-7


def test_every_patching_is_cut_from_its_own_versions():
    store = MemoryStore()
    encoder = build()
    frames = ResidentFrames(store, "cpu")
    versions = Versions(2, 1, (0.0, 1.0))
    settings = {"batch_size": 4, "clips_per_block": 4, "versions": versions}
    sampler = ViewSampler(
        store.offsets, store.frames, patchings=encoder.config.patchings, **settings
    )
    views = sampler.draw(0)
    assert (views.starts[0] != views.starts[1]).any()
    losses = ContrastiveObjective(encoder, ContrastiveLoss(n_groups=2), frames)(views)
    for group, patching in enumerate(encoder.config.patchings):
        crops = literal.cut_crops(frames.frames, views.starts[group].flatten())
        expected = literal.literal_loss(
            encoder, crops, {patching: views.tokens[group].flatten(0, 1)}
        )
        torch.testing.assert_close(losses[group], expected, rtol=1e-5, atol=1e-5)
    carried = HostViews(store, sampler, "cpu").gather(0)
    ahead = ContrastiveObjective(encoder, ContrastiveLoss(n_groups=2))
    torch.testing.assert_close(ahead(carried), losses)


@pytest.mark.parametrize("fixed_scaling", [None, (1e3, 4.4, 3.0)])
def test_views_with_patches_give_the_same_loss(fixed_scaling):
    store = MemoryStore()
    sampler = ViewSampler(store.offsets, store.frames, batch_size=4, patchings=("square",))
    encoder = build(("square",), log_mel=True, fixed_scaling=fixed_scaling)
    resident = ContrastiveObjective(encoder, ContrastiveLoss(), ResidentFrames(store, "cpu"))
    carried = ContrastiveObjective(encoder, ContrastiveLoss())
    (views,) = HostViews(store, sampler, "cpu").stream(0, 1)
    torch.testing.assert_close(carried(views), resident(sampler.draw(0)))
    patches = VisibleTokens(encoder, None)(views).unflatten(0, (2, 4))
    for view in range(2):
        for pair, clip in enumerate(views.sounds.tolist()):
            start = int(views.starts[0, view, pair] - store.offsets[clip])
            crop = torch.from_numpy(store.clip(clip)[start : start + 96].T.copy())[None]
            tokens = encoder.tokens(crop.float(), "square")[0, views.tokens[0, view, pair]]
            torch.testing.assert_close(patches[view, pair], tokens, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no source to gather from"):
        carried(sampler.draw(0))


def autoencoder(patchings=("square", "vertical"), **changes):
    torch.manual_seed(0)
    store = MemoryStore()
    encoder = build(patchings, projector=())
    objective = MaskedAutoencoder(encoder, ResidentFrames(store, "cpu"), **changes)
    return (
        store,
        objective,
        ViewSampler(
            store.offsets, store.frames, batch_size=4, patchings=patchings, mask_ratio=0.75
        ),
    )


def test_autoencoder_loss_is_the_error_on_masked_patches():
    _, objective, sampler = autoencoder()
    views = sampler.draw(0)
    losses = objective(views)
    _, predicted = objective.predict_patches(views)
    frames = objective.source.frames
    every = torch.arange(48).expand(4, 48)
    for group, patching in enumerate(("square", "vertical")):
        truth = gather_patches(frames, views.starts[group, 0], every, patching).float().log1p()
        errors = []
        for pair in range(4):
            visible = set(views.tokens[group, 0, pair].tolist())
            assert len(visible) == 12
            errors += [
                (predicted[group, pair, token] - truth[pair, token]).square().mean()
                for token in range(48)
                if token not in visible
            ]
        torch.testing.assert_close(losses[group], torch.stack(errors).mean())


def test_autoencoder_does_not_see_masked_patches():
    _, objective, sampler = autoencoder(("square",))
    views = sampler.draw(0)
    patches, before = objective.predict_patches(views)
    hidden = torch.ones(patches.shape[:3], dtype=torch.bool)
    hidden.scatter_(2, views.tokens[:, 0], False)
    objective._all_patches = lambda _: torch.where(hidden[..., None], 5.0, patches)
    torch.testing.assert_close(objective.predict_patches(views)[1], before)


def test_autoencoder_learns_and_every_parameter_gets_a_gradient():
    _, objective, sampler = autoencoder(decoder_dim=128, decoder_depth=1)
    objective(sampler.draw(0)).sum().backward()
    silent = [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    step = TrainingStep(objective, build_optimiser("adam", objective, 1e-3))
    losses = [step(sampler.draw(0)).mean().item() for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]


def test_reconstruction_shows_visible_patches_as_they_are():
    store, objective, sampler = autoencoder()
    views = sampler.draw(0)
    for patching in ("square", "vertical"):
        truth, seen, rebuilt = objective.reconstruct(views, patching)
        clip, start = int(views.sounds[1]), int(views.starts[0, 0, 1])
        start -= int(store.offsets[clip])
        crop = torch.from_numpy(store.clip(clip)[start : start + 96].T.copy()).float().log1p()
        torch.testing.assert_close(truth[1], crop)
        visible = ~seen.isnan()
        assert visible.float().mean().item() == pytest.approx(0.25)
        torch.testing.assert_close(seen[visible], truth[visible])
        torch.testing.assert_close(rebuilt[visible], truth[visible])
        assert not torch.equal(rebuilt, truth)


@pytest.mark.parametrize(("patching", "size"), [("square", (16, 16)), ("vertical", (128, 2))])
def test_unpatchify_inverts_patchify(patching, size):
    crops = torch.randn(2, 128, 96)
    assert torch.equal(unpatchify(patchify(crops, size), patching, 96), crops)
