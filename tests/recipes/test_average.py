"""Averages of weights: the mean of numbers, and what is refused."""

import pytest
import torch
from click.testing import CliRunner

from myna_plugin import load_model
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from recipes.average import main

MINI = {"embed_dim": 32, "depth": 2, "num_heads": 1, "mlp_dim": 64}


@pytest.fixture
def write(tmp_path):
    def write(name, seed=1, trained=0.0, **fields):
        """A model of this seed, and how far its training took it."""
        encoder = initialise(MynaEncoder(EncoderConfig(**{**MINI, **fields})), seed)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter += trained * parameter.std() * torch.randn_like(parameter)
        save_checkpoint(encoder, tmp_path / name)
        return encoder.state_dict()

    return write


def test_each_number_is_the_weighted_mean_and_the_first_tells_how_it_is_read(tmp_path, write):
    one = write("one.safetensors", scene_layers=(1, 2), scene_pooling="mean-std")
    two = write("two.safetensors", trained=0.3)
    out, equals = tmp_path / "out.safetensors", tmp_path / "lr=1" / "one.safetensors"
    equals.parent.mkdir()
    (tmp_path / "one.safetensors").rename(equals)
    files = [str(equals), f"{tmp_path}/two.safetensors=3"]
    done = CliRunner().invoke(main, [str(out), *files])
    assert done.exit_code == 0, done.output
    model = load_model(out)
    assert model.scene_layers == (1, 2)
    assert model.scene_pooling == "mean-std"
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, (one[name] + 3 * two[name]) / 4, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["one.safetensors"], "two or more"),
        (["one.safetensors", "one.safetensors=none"], "a number above 0"),
        (["one.safetensors", "one.safetensors=0"], "a number above 0"),
        (["one.safetensors", "wide.safetensors"], "has embed_dim 64 instead of 32"),
        (["one.safetensors", "gone.safetensors"], "gone.safetensors"),
        (["one.safetensors", "apart.safetensors=2"], "apart.safetensors: was begun apart from one"),
    ],
)
def test_what_has_no_average_is_refused_in_a_line(tmp_path, write, monkeypatch, files, told):
    write("one.safetensors")
    write("wide.safetensors", embed_dim=64)
    write("apart.safetensors", seed=2)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["out.safetensors", *files])
    assert done.exit_code == 2
    assert told in done.output
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_is_not_written_over(tmp_path, write, monkeypatch):
    write("one.safetensors")
    write("two.safetensors", trained=0.3)
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "one.safetensors").read_bytes()
    files = [str(tmp_path / "one.safetensors"), "two.safetensors", "one.safetensors=2"]
    done = CliRunner().invoke(main, files)
    assert done.exit_code == 2
    assert "is there, and would be lost" in done.output
    assert (tmp_path / "one.safetensors").read_bytes() == before
