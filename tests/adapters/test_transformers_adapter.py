"""The real transformers on a folder that we export, here and without this package."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from myna_plugin import get_timestamp_embeddings, load_model
from myna_plugin.common.errors import InputError
from myna_plugin.model.checkpoint import CheckpointError, load_encoder
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed (extra transformers)",
)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def modeling():
    return importlib.import_module("myna_plugin.adapters.transformers.modeling_myna")


@pytest.fixture(scope="module")
def export():
    return importlib.import_module("myna_plugin.adapters.transformers.export").export_transformers


@pytest.fixture
def model(checkpoint):
    return load_model(checkpoint, hop_ms=25)


@pytest.fixture
def folder(export, model, tmp_path):
    export(model, tmp_path / "exported")
    return tmp_path / "exported"


def test_the_folder_gives_the_models_embeddings(modeling, model, folder, sound):
    loaded = modeling.MynaModel.from_pretrained(folder)
    output = loaded(sound, output_hidden_states=True)
    expected, _ = get_timestamp_embeddings(sound, model)
    torch.testing.assert_close(output.pooler_output, model(sound), **CLOSE)
    torch.testing.assert_close(output.last_hidden_state, expected, **CLOSE)
    assert len(output.hidden_states) == loaded.config.num_hidden_layers == 2
    assert output.hidden_states[-1] is output.last_hidden_state
    assert output.last_hidden_state.shape[-1] == loaded.config.hidden_size == 128
    assert output.pooler_output.shape[-1] == loaded.config.scene_size()
    assert (loaded(sound).hidden_states, loaded(sound).attentions) == (None, None)
    assert torch.equal(loaded(sound, return_dict=False)[1], output.pooler_output)


@pytest.mark.parametrize(
    ("patches", "options"),
    [
        ("square", {}),
        ("vertical", {}),
        ("hybrid", {}),
        ("hybrid", {"scene_layers": [2, 1], "scene_pooling": "mean-std"}),
    ],
)
def test_the_folder_keeps_the_embedding(
    export, modeling, tmp_path, checkpoint, sound, patches, options
):
    model = load_model(checkpoint, embedding=patches, **options)
    export(model, tmp_path / "exported")
    output = modeling.MynaModel.from_pretrained(tmp_path / "exported")(sound)
    torch.testing.assert_close(output.pooler_output, model(sound), **CLOSE)
    assert output.last_hidden_state.shape[-1] == model.timestamp_embedding_size
    assert torch.equal(load_model(tmp_path / "exported")(sound), model(sound))


def test_padding_changes_nothing(modeling, model, folder, sound):
    transformers = importlib.import_module("transformers")
    loaded = modeling.MynaModel.from_pretrained(folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    sounds = [sound[0, :70_000].numpy(), sound[0, 5_000:25_000].numpy(), sound[0, :20_000].numpy()]
    batch = extractor(sounds, sampling_rate=16_000, return_tensors="pt", padding=True)
    output = loaded(**batch, output_attentions=True)
    for i, samples in enumerate(sounds):
        alone = torch.as_tensor(samples).unsqueeze(0)
        sequence, _ = get_timestamp_embeddings(alone, model)
        n = sequence.shape[1]
        torch.testing.assert_close(output.pooler_output[i], model(alone)[0], **CLOSE)
        torch.testing.assert_close(output.last_hidden_state[i, :n], sequence[0], **CLOSE)
        assert not output.last_hidden_state[i, n:].any()
        (weights,) = loaded(alone, output_attentions=True).attentions[1]
        torch.testing.assert_close(output.attentions[1][i, : len(weights)], weights)
        assert not output.attentions[1][i, len(weights) :].any()
    with pytest.raises(ValueError, match="right end"):
        loaded(batch["input_values"], attention_mask=batch["attention_mask"].flip(1))
    with pytest.raises(ValueError, match="sampling rate"):
        extractor(sounds[0], sampling_rate=44_100)


def test_every_implementation_of_attention_gives_the_same(modeling, model, folder, sound):
    calls = []
    functions = modeling.ALL_ATTENTION_FUNCTIONS

    def counted(*arguments, **options):
        calls.append(options)
        return modeling.attend_eagerly(*arguments, **options)

    functions.register("counted", counted)
    try:
        for name in ("eager", "sdpa", "counted"):
            loaded = modeling.MynaModel.from_pretrained(folder, attn_implementation=name)
            assert loaded.config._attn_implementation == name
            torch.testing.assert_close(loaded(sound).pooler_output, model(sound), **CLOSE)
        loaded.set_attn_implementation("sdpa")
        n_calls = len(calls)
        loaded(sound)
        assert len(calls) == n_calls > 0
    finally:
        functions._global_mapping.pop("counted")


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attentions_are_those_of_the_chunks(modeling, folder, sound, name):
    """By their definition: of each chunk by itself, from the products of its blocks."""
    loaded = modeling.MynaModel.from_pretrained(folder, attn_implementation=name).eval()
    attentions = loaded(sound[:, :60_000], output_attentions=True).attentions
    assert [own.shape for own in attentions] == [(1, 2, 2, 1, 48, 48)] * 2
    mel = loaded.mel(sound[:, :60_000])
    encoder = loaded.model
    for p, (patching, width, rows) in enumerate((("square", 16, 8), ("vertical", 2, 1))):
        for k, chunk in enumerate((mel[..., :96], mel[..., 96:])):
            columns = -(-chunk.shape[-1] // width)
            filled = torch.nn.functional.pad(chunk, (0, columns * width - chunk.shape[-1]))
            x, n = encoder.tokens(filled, patching), rows * columns
            for layer, block in enumerate(encoder.transformer.layers):
                query, key, _ = block[0].to_qkv(block[0].norm(x)).chunk(3, dim=-1)
                expected = (query @ key.mT / 8).softmax(-1)[0]
                actual = attentions[layer][0, k, p, 0]
                torch.testing.assert_close(actual[:n, :n], expected)
                assert not actual[n:].any()
                assert not actual[:, n:].any()
                x = block(x)


def test_it_can_be_trained_and_saved_again(modeling, folder, sound, tmp_path):
    loaded = modeling.MynaModel.from_pretrained(folder).train()
    loaded(sound).pooler_output.square().mean().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
    with torch.no_grad():
        loaded.model.transformer.norm.bias.add_(1)
    loaded.save_pretrained(tmp_path / "again")
    again = modeling.MynaModel.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(again(sound).pooler_output, loaded(sound).pooler_output)
    mode = (tmp_path / "again" / "config.json").stat().st_mode
    assert (tmp_path / "again" / "model.safetensors").stat().st_mode == mode


def test_gradient_checkpointing_computes_blocks_again_and_gives_the_same_gradients(
    modeling, folder, sound, monkeypatch
):
    passes = []
    forward = modeling.FeedForward.forward
    monkeypatch.setattr(
        modeling.FeedForward, "forward", lambda self, x: passes.append(1) or forward(self, x)
    )
    gradients = {}
    for checkpointing in (False, True):
        loaded = modeling.MynaForAudioClassification.from_pretrained(folder, num_labels=3).train()
        torch.nn.init.constant_(loaded.classifier.weight, 0.01)
        if checkpointing:
            loaded.gradient_checkpointing_enable()
        passes.clear()
        loaded(sound, labels=torch.tensor([2])).loss.backward()
        gradients[checkpointing] = [p.grad for p in loaded.parameters()], len(passes)
    (plain, few), (again, many) = gradients[False], gradients[True]
    assert many == 2 * few > 0
    torch.testing.assert_close(again, plain)


def test_classes_tags_and_numbers_have_their_losses(modeling, folder, sound):
    batch = torch.cat([sound[:, :40_000], sound[:, 40_000:80_000]])
    functional = torch.nn.functional
    for kind, labels, expected in (
        (None, torch.tensor([2, 0]), functional.cross_entropy),
        (None, torch.rand(2, 3), functional.binary_cross_entropy_with_logits),
        ("regression", torch.rand(2, 3), functional.mse_loss),
    ):
        loaded = modeling.MynaForAudioClassification.from_pretrained(
            folder, num_labels=3, problem_type=kind
        )
        output = loaded(batch, labels=labels, output_hidden_states=True, output_attentions=True)
        torch.testing.assert_close(output.loss, expected(output.logits, labels))
        assert (len(output.hidden_states), len(output.attentions)) == (2, 2)
        scenes = modeling.MynaModel.from_pretrained(folder)(batch).pooler_output
        torch.testing.assert_close(output.logits, loaded.classifier(scenes), **CLOSE)
        assert loaded(batch).loss is None


def test_low_rank_adapters_go_in(modeling, folder, sound):
    peft = importlib.import_module("peft")
    base = modeling.MynaForAudioClassification.from_pretrained(folder, num_labels=2)
    config = peft.LoraConfig(target_modules=["to_qkv", "to_out"], modules_to_save=["classifier"])
    tuned = peft.get_peft_model(base, config)
    tuned(input_values=sound, labels=torch.tensor([1])).loss.backward()
    trained = {n for n, p in tuned.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora" in name or "classifier" in name for name in trained)


@pytest.fixture(scope="module")
def elsewhere(export, tmp_path_factory):
    """A folder of a model whose weights do not tell all, and what became of it elsewhere."""
    work = tmp_path_factory.mktemp("elsewhere")
    config = EncoderConfig(
        embed_dim=64, depth=3, num_heads=1, mlp_dim=128, log_mel=True,
        fixed_scaling=(1000.0, 4.4, 3.0), timestamp_layer=3, scene_layers=(1, 3),
        scene_pooling="mean-std",
    )  # fmt: skip
    encoder = initialise(MynaEncoder(config), 0).eval().requires_grad_(False)
    module = importlib.import_module("myna_plugin.model.embedding")
    model = module.Embedder(encoder, config.patchings).eval()
    export(model, work / "exported")
    sound = 0.1 * torch.randn(1, 90_000, generator=torch.Generator().manual_seed(0))
    np.save(work / "sound.npy", sound)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HOME": str(work / "hf"), "HF_HUB_OFFLINE": "1"}
    program = Path(__file__).parent / "elsewhere.py"
    # Started in the folder itself: none of its files may stand in the way of a package.
    result = subprocess.run(
        [sys.executable, "-I", str(program), str(work / "exported"), str(work)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=work / "exported",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return work, model, sound


def test_without_this_package_the_folder_gives_the_same(elsewhere):
    work, model, sound = elsewhere
    facts = json.loads((work / "facts.json").read_text())
    assert facts["ours"] == ["myna_plugin"]  # the one that the program put there to forbid it
    assert facts["classes"] == ["MynaModel", "MynaForAudioClassification", "MynaModel"]
    scenes, timestamps = (np.load(work / f"{n}.npy") for n in ("scenes", "timestamps"))
    np.testing.assert_allclose(scenes, model(sound), rtol=1e-5, atol=1e-5)
    expected, _ = get_timestamp_embeddings(sound, model)
    np.testing.assert_allclose(timestamps, expected, rtol=1e-5, atol=1e-5)


def test_without_this_package_it_is_trained_saved_and_read_by_a_pipeline(elsewhere):
    work, model, sound = elsewhere
    facts = json.loads((work / "facts.json").read_text())
    assert facts["scores"] == pytest.approx(facts["expected"], abs=1e-5)
    tuned = np.load(work / "tuned.npy")
    assert not np.allclose(tuned, model(sound), atol=1e-3)
    for folder in ("tuned", "again"):
        saved = work / folder
        auto_map = json.loads((saved / "config.json").read_text())["auto_map"]
        assert {n.partition(".")[0] for n in auto_map.values()} == {"modeling_myna"}
        assert [p.name for p in saved.glob("*.py")] == ["modeling_myna.py"]
        np.testing.assert_allclose(load_model(saved)(sound), tuned, rtol=1e-5, atol=1e-5)


def test_our_own_loader_takes_the_folder_and_its_file(elsewhere):
    work, model, sound = elsewhere
    for source in (work / "exported", work / "exported" / "model.safetensors"):
        assert torch.equal(load_model(source)(sound), model(sound))
        assert load_encoder(source).config == model.encoder.config


def test_a_folder_that_cannot_be_read_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["depth"] = "two"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: its field 'encoder' is damaged"):
        load_encoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not JSON"):
        load_encoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"exported: no weights in it, only config\.json"):
        load_encoder(folder)


def test_the_folder_says_what_it_is(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "myna"
    assert config["auto_map"]["AutoModel"] == "modeling_myna.MynaModel"
    assert config["architectures"] == ["MynaModel"]
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "modeling_myna.py",
        "preprocessor_config.json",
    }


def test_a_folder_that_holds_something_is_left_alone(export, model, tmp_path):
    with pytest.raises(FileExistsError, match="not empty"):
        export(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_a_model_from_its_configuration_alone_has_its_constants(modeling, sound):
    config = modeling.MynaConfig(
        encoder={"patchings": ["square"], "embed_dim": 64, "depth": 1, "num_heads": 1}
    )
    assert modeling.MynaModel(config)(sound).pooler_output.isfinite().all()
    assert config.hidden_size == 64


def test_a_share_of_the_tokens_is_refused(export, tmp_path, checkpoint):
    model = load_model(checkpoint, tokens=0.5)
    with pytest.raises(InputError, match=r"exported: not written; .* with tokens=1$"):
        export(model, tmp_path / "exported")
