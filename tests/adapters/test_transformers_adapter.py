"""The real transformers on a folder that we export."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from myna_plugin import get_timestamp_embeddings, load_model
from myna_plugin.common.errors import InputError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed (extra transformers)",
)


@pytest.fixture(scope="module")
def adapter():
    return importlib.import_module("myna_plugin.adapters.transformers")


@pytest.fixture
def model(checkpoint):
    return load_model(checkpoint, hop_ms=25)


@pytest.fixture
def folder(adapter, model, tmp_path):
    adapter.export_transformers(model, tmp_path / "exported")
    return tmp_path / "exported"


def test_the_folder_gives_the_models_embeddings(adapter, model, folder, sound):
    loaded = adapter.transformers.AutoModel.from_pretrained(folder)
    assert isinstance(loaded, adapter.MynaModel)
    output = loaded(sound, output_hidden_states=True)
    expected, _ = get_timestamp_embeddings(sound, model)
    torch.testing.assert_close(output.pooler_output, model(sound), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    assert len(output.hidden_states) == loaded.config.num_hidden_layers == 2
    assert output.hidden_states[-1] is output.last_hidden_state
    assert output.last_hidden_state.shape[-1] == loaded.config.hidden_size == 128
    assert loaded(sound).hidden_states is None
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
def test_the_folder_keeps_the_embedding(adapter, tmp_path, checkpoint, sound, patches, options):
    model = load_model(checkpoint, embedding=patches, **options)
    adapter.export_transformers(model, tmp_path / "exported")
    loaded = adapter.transformers.AutoModel.from_pretrained(tmp_path / "exported")
    output = loaded(sound)
    torch.testing.assert_close(output.pooler_output, model(sound), rtol=1e-5, atol=1e-5)
    assert output.last_hidden_state.shape[-1] == model.timestamp_embedding_size


def test_padding_changes_nothing(adapter, model, folder, sound):
    loaded = adapter.transformers.AutoModel.from_pretrained(folder)
    extractor = adapter.transformers.AutoFeatureExtractor.from_pretrained(folder)
    sounds = [sound[0, :70_000].numpy(), sound[0, 5_000:25_000].numpy(), sound[0, :20_000].numpy()]
    batch = extractor(sounds, sampling_rate=16_000, return_tensors="pt", padding=True)
    output = loaded(**batch)
    for i, samples in enumerate(sounds):
        alone = torch.as_tensor(samples).unsqueeze(0)
        sequence, _ = get_timestamp_embeddings(alone, model)
        n = sequence.shape[1]
        torch.testing.assert_close(output.pooler_output[i], model(alone)[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            output.last_hidden_state[i, :n], sequence[0], rtol=1e-5, atol=1e-5
        )
        assert not output.last_hidden_state[i, n:].any()
    with pytest.raises(ValueError, match="right end"):
        loaded(batch["input_values"], attention_mask=batch["attention_mask"].flip(1))
    with pytest.raises(ValueError, match="sampling rate"):
        extractor(sounds[0], sampling_rate=44_100)


def test_it_can_be_trained_and_saved_again(adapter, folder, sound, tmp_path):
    loaded = adapter.transformers.AutoModel.from_pretrained(folder).train()
    loaded(sound).pooler_output.square().mean().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
    with torch.no_grad():
        loaded.model.transformer.norm.bias.add_(1)
    loaded.save_pretrained(tmp_path / "again")
    again = adapter.transformers.AutoModel.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(again(sound).pooler_output, loaded(sound).pooler_output)


def test_our_own_loader_reads_the_folders_weights(model, folder, sound):
    assert torch.equal(load_model(folder / "model.safetensors")(sound), model(sound))


def test_the_folders_code_is_found_without_importing_ours(folder, tmp_path):
    code = (
        "from myna_plugin.common.torchaudio_bridge import load_torchaudio; load_torchaudio()\n"
        "import sys, transformers\n"
        "assert 'myna_plugin.adapters.transformers' not in sys.modules\n"
        "model = transformers.AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(type(model).__name__)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environment
    )
    assert result.stdout.strip() == "MynaModel", result.stderr


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


def test_a_folder_that_holds_something_is_left_alone(adapter, model, tmp_path):
    with pytest.raises(FileExistsError, match="not empty"):
        adapter.export_transformers(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_a_model_from_its_configuration_alone_has_its_constants(adapter, sound):
    config = adapter.MynaConfig(
        encoder={"patchings": ["square"], "embed_dim": 64, "depth": 1, "num_heads": 1}
    )
    made = adapter.transformers.AutoModel.from_config(config)
    assert made(sound).pooler_output.isfinite().all()
    assert config.hidden_size == 64


def test_a_share_of_the_tokens_is_refused(adapter, tmp_path, checkpoint):
    model = load_model(checkpoint, tokens=0.5)
    with pytest.raises(InputError, match=r"exported: not written; .* with tokens=1$"):
        adapter.export_transformers(model, tmp_path / "exported")
