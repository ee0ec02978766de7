"""`myna import`: weights by hand under a published name."""

import hashlib
import json
import re

import pytest
import torch
from click.testing import CliRunner
from conftest import published_state_dict

from myna_plugin import load_model
from myna_plugin.cli.import_weights import import_weights
from myna_plugin.cli.info import info


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of known weights, which nobody has made yet."""
    monkeypatch.setenv("MYNA_PLUGIN_WEIGHTS", str(tmp_path / "cache" / "weights"))
    return tmp_path / "cache" / "weights"


def run(*arguments):
    return CliRunner().invoke(import_weights, [str(a) for a in arguments])


def test_the_name_then_finds_the_weights_and_remembers_their_digest(tmp_path, home, sound):
    file = tmp_path / "download (1).pth"
    torch.save({f"vit.{k}": v for k, v in published_state_dict(1).items()}, file)
    result = run(file, "--as", "myna-vertical")
    assert result.exit_code == 0, result.output
    assert result.output == f"{home / 'myna-vertical.safetensors'}: load it as myna-vertical\n"
    assert torch.equal(
        load_model("myna-vertical")(sound), load_model(file, embedding="vertical")(sound)
    )
    told = CliRunner().invoke(info, ["myna-vertical"]).output
    assert hashlib.sha256(file.read_bytes()).hexdigest() in told
    assert "download (1).pth" in told


def test_a_folder_with_its_chunk_length_is_taken(tmp_path, home):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"patch_size": [128, 2], "n_samples": 100_000}))
    torch.save(published_state_dict(1), folder / "pytorch_model.bin")
    assert run(folder, "--as", "myna-vertical").exit_code == 0
    assert load_model("myna-vertical").encoder.config.chunk_frames == 196


@pytest.mark.parametrize(
    ("tokenizers", "config", "message"),
    [
        (2, None, r"has 2 tokenizer\(s\) where its name or its config\.json promises square"),
        (1, {"patch_size": [128, 2]}, "its patching is vertical; myna-base has square"),
    ],
)
@pytest.mark.usefixtures("home")
def test_another_model_than_the_name_says_is_refused(tmp_path, tokenizers, config, message):
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(published_state_dict(tokenizers), tmp_path / "a.pth")
    result = run(tmp_path / "a.pth", "--as", "myna-base")
    assert result.exit_code == 2
    assert not (tmp_path / "cache").exists()
    assert re.search(message, result.output)


def test_what_is_there_is_replaced_on_request_alone(tmp_path, home):
    torch.save(published_state_dict(1), tmp_path / "a.pth")
    assert run(tmp_path / "a.pth", "--as", "myna-base").exit_code == 0
    torch.save(published_state_dict(1, dim=128, mlp_dim=256), tmp_path / "a.pth")
    before = (home / "myna-base.safetensors").read_bytes()
    refused = run(tmp_path / "a.pth", "--as", "myna-base")
    assert refused.exit_code == 2
    assert "there already; take it with --replace" in refused.output
    assert (home / "myna-base.safetensors").read_bytes() == before
    assert run(tmp_path / "a.pth", "--as", "myna-base", "--replace").exit_code == 0
    assert load_model("myna-base").encoder.config.embed_dim == 128
