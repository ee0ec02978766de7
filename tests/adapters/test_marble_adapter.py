"""The contract of MARBLE's encoders.

MARBLE is no package of an index, so its parts are written out here as its source (version 2,
`marble/modules/transforms.py` and `decoders.py`) describes them. What its own runner said of the
configurations is recorded in `myna_plugin/recipes/files/marble/README.md`.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import published_state_dict
from torch import nn

from myna_plugin import get_timestamp_embeddings, load_model
from myna_plugin.adapters.marble import MynaEncoder
from myna_plugin.cli.recipe_files import FILES
from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.model.tensors import CheckpointError
from myna_plugin.probing.tasks import TASKS
from myna_plugin.probing.tasks.export import marble_settings

RECIPES = FILES / "marble"


def decode(states, decoder, layers=(0, 1)):
    """Its LayerSelector, TimeAvgPool and decoder: states (B, T, H) -> (B, out)."""
    states = getattr(states, "hidden_states", states)
    return decoder(torch.stack([states[i] for i in layers], dim=1).mean(2).mean(1))


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("patches", "width"), [("square", 64), ("vertical", 64), ("hybrid", 128)])
def test_clips_go_through_selector_pool_and_decoder(checkpoint, sound, patches, width):
    encoder = MynaEncoder(checkpoint, patches)
    assert (width, 2) == (encoder.NUM_FEATURES, encoder.N_TRANSFORMER_LAYERS)
    assert encoder.sample_rate == encoder.SAMPLING_RATE == 16_000
    assert encoder.TOKEN_RATE == 20

    clips = torch.stack([sound, sound.flip(-1)])[..., :80_000]
    states = encoder(clips)
    assert isinstance(states, tuple)
    assert [tuple(state.shape) for state in states] == [(2, 101, width)] * 2

    assert decode(states, nn.Linear(width, 24)).shape == (2, 24)


def test_the_last_state_is_the_timestamp_embedding(checkpoint, sound):
    expected, _ = get_timestamp_embeddings(sound, load_model(checkpoint, hop_ms=20))
    encoder = MynaEncoder(checkpoint, hop_ms=20)
    assert encoder.TOKEN_RATE == 50
    for clips in (sound, sound.unsqueeze(1)):
        torch.testing.assert_close(encoder(clips)[-1], expected, rtol=1e-5, atol=1e-5)


def test_a_published_size_has_the_advertised_layers_and_width(tmp_path, sound):
    torch.save(published_state_dict(2, dim=384, depth=12, mlp_dim=1536), tmp_path / "weights.pth")
    encoder = MynaEncoder(tmp_path / "weights.pth")
    states = encoder(sound[:, :16_000])
    assert len(states) == MynaEncoder.N_TRANSFORMER_LAYERS == 12
    assert states[0].shape[-1] == MynaEncoder.NUM_FEATURES == 768


def test_freeze_keeps_every_weight(checkpoint, sound):
    encoder = MynaEncoder(checkpoint, train_mode="freeze")
    assert not trained(encoder)
    assert not encoder(sound)[-1].requires_grad


def test_full_trains_what_is_used(checkpoint, sound):
    encoder = MynaEncoder(checkpoint, "vertical", train_mode="full")
    unused = "model.encoder.to_patch_embedding."
    everything = {name for name, _ in encoder.named_parameters()}
    assert trained(encoder) == {name for name in everything if not name.startswith(unused)}

    decode(encoder(sound[:, :50_000]), nn.Linear(64, 3), [1]).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == (name in trained(encoder)), name


def test_lora_starts_at_the_model_and_trains_its_adapters_alone(checkpoint, sound):
    encoder = MynaEncoder(checkpoint, train_mode="lora", lora_r=2, lora_dropout=0.0)
    frozen = MynaEncoder(checkpoint)
    clip = sound[:, :50_000]
    torch.testing.assert_close(encoder(clip)[-1], frozen(clip)[-1])
    names = trained(encoder)
    assert len(names) == 2 * 2 * 2  # blocks, projections, down and up
    assert all("lora_" in name for name in names)

    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimiser = torch.optim.SGD(encoder.parameters(), lr=1.0)
    encoder(clip)[-1].square().mean().backward()
    optimiser.step()
    changed = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert changed <= names
    assert not torch.equal(encoder(clip)[-1], frozen(clip)[-1])


def test_lora_goes_in_where_peft_wants_a_config_of_transformers(checkpoint, monkeypatch):
    """So does peft 0.15.2, which MARBLE pins: a `config` without `to_dict` has to be a dict."""
    none = {"tie_word_embeddings": False, "model_type": "custom"}
    tuners = import_toolkit("peft.tuners.tuners_utils", "peft", "this test")
    asks = staticmethod(lambda model: dict(getattr(model, "config", none)))
    monkeypatch.setattr(tuners.BaseTuner, "get_model_config", asks)
    assert trained(MynaEncoder(checkpoint, train_mode="lora", lora_r=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patches": "diagonal"}, "patches must be one of square, vertical, hybrid"),
        ({"train_mode": "half"}, "train_mode must be one of freeze, full, lora"),
        ({"train_mode": "lora", "lora_target_modules": ["to_q"]}, "lora_target_modules"),
        ({"hop_ms": -1}, "hop_ms"),
    ],
)
def test_unusable_options_are_refused(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        MynaEncoder(checkpoint, **options)


def test_what_the_weights_cannot_give_is_refused(tmp_path):
    torch.save(published_state_dict(1), tmp_path / "myna-base.pth")
    with pytest.raises(CheckpointError, match="cannot give hybrid"):
        MynaEncoder(tmp_path / "myna-base.pth")


def test_stereo_is_refused_with_the_remedy(checkpoint):
    with pytest.raises(ValueError, match="channel_mode: mix"):
        MynaEncoder(checkpoint)(torch.zeros(2, 2, 16_000))


def test_without_peft_the_message_says_what_to_install(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="train_mode: lora needs peft: pip install peft"):
        MynaEncoder(checkpoint, train_mode="lora")


def recipe_tasks():
    """The tasks of MARBLE that have a recipe; MTG's is MagnaTagATune's with other names."""
    tasks = {task.marble.stem: task for task in TASKS.values() if task.marble}
    tag = tasks["MTT"]
    top50 = replace(tag, marble=replace(tag.marble, stem="MTGTop50", folder="MTG"))
    return {**tasks, "MTGTop50": top50}


@pytest.mark.parametrize("stem", ["GS", "GTZANGenre", "MTT", "EMO", "MTGTop50"])
def test_recipes_say_what_an_export_says(stem):
    text = (RECIPES / f"probe.Myna.{stem}.yaml").read_text()
    task = recipe_tasks()[stem]
    recipe = yaml.safe_load(text)
    encoder = recipe["model"]["init_args"]["encoder"]
    exported = marble_settings(
        task, Path("/data"), {**encoder, "embed_dim": MynaEncoder.NUM_FEATURES}
    )
    for ours, theirs in (
        ("/data/output", f"output/probe.Myna.{stem}"),
        ("/data", f"data/{task.marble.folder}"),
    ):
        exported = yaml.safe_load(yaml.safe_dump(exported).replace(ours, theirs))
    assert recipe == exported


def test_the_encoder_of_a_recipe_can_be_built(checkpoint):
    for path in sorted(RECIPES.glob("*.yaml")):
        encoder = yaml.safe_load(path.read_text())["model"]["init_args"]["encoder"]
        assert encoder["class_path"] == f"{MynaEncoder.__module__}.{MynaEncoder.__name__}"
        MynaEncoder(**{**encoder["init_args"], "checkpoint": checkpoint})
