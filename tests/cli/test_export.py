"""`myna export`: what it writes, and what it refuses."""

import importlib.util
import sys

import pytest
import torch
from click.testing import CliRunner
from conftest import published_state_dict
from full_disk import full_disk

from myna_plugin import load_model
from myna_plugin.adapters import onnx
from myna_plugin.cli.export import export, name_and_licence
from myna_plugin.model.checkpoint import load_encoder


def run(*arguments):
    return CliRunner().invoke(export, [str(a) for a in arguments])


def test_safetensors_load_again(tmp_path, checkpoint, sound):
    out = tmp_path / "new" / "weights.safetensors"
    result = run("--to", "safetensors", "--model", checkpoint, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.output == f"{out}: myna_plugin.load_model({str(out)!r})\n"
    assert torch.equal(load_model(out)(sound), load_model(checkpoint)(sound))


def test_scene_layers_and_pooling_become_the_default_of_the_file(tmp_path, checkpoint, sound):
    options = ("--model", checkpoint, "--scene-layers", "2,1", "--scene-pooling", "mean-std")
    expected = load_model(checkpoint, scene_layers=[2, 1], scene_pooling="mean-std")(sound)
    assert run("--to", "safetensors", *options, "--out", tmp_path / "a.safetensors").exit_code == 0
    assert torch.equal(load_model(tmp_path / "a.safetensors")(sound), expected)
    kept = run(*("--to", "safetensors", "--model", checkpoint, "--out", tmp_path / "b.safetensors"))
    assert kept.exit_code == 0
    config = load_encoder(tmp_path / "b.safetensors").config
    assert (config.scene_layers, config.scene_pooling) == (None, "mean")
    wrong = run("--to", "onnx", "--model", checkpoint, "--scene-layers", "two", "--out", "x")
    assert wrong.exit_code == 2
    assert "must be numbers of blocks, such as 8,12, got 'two'" in wrong.output


def test_transformers_folder_loads_as_it_is_told(tmp_path, checkpoint, sound):
    name = "myna_plugin.adapters.transformers.modeling_myna"
    modeling = pytest.importorskip(name, reason="extra transformers")
    options = ("--embedding", "vertical", "--hop-ms", "20", "--scene-layers", "1,2")
    out = tmp_path / "exported"
    result = run("--to", "transformers", "--model", checkpoint, "--out", out, *options)
    assert result.exit_code == 0, result.output
    model = modeling.MynaModel.from_pretrained(out)
    assert model.config.hop_ms == 20
    expected = load_model(checkpoint, embedding="vertical", scene_layers=[1, 2])(sound)
    torch.testing.assert_close(model(sound).pooler_output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed (extra transformers)",
)
def test_a_transformers_folder_is_whole_or_not_there(tmp_path, checkpoint):
    out = tmp_path / "exported"
    with full_disk():
        result = run("--to", "transformers", "--model", checkpoint, "--out", out)
    assert (result.exit_code, result.stderr) == (1, f"export: {out}: File too large\n")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_onnx_tells_opset_and_distance(tmp_path, checkpoint, monkeypatch):
    """The export itself is tested in tests/adapters/test_onnx_adapter.py."""
    asked, told = [], {1.0: 1.5e-7, 3.1: 2e-7}
    monkeypatch.setattr(onnx, "export_onnx", lambda *given: asked.append(given[1:]) or told)
    result = run("--to", "onnx", "--model", checkpoint, "--out", tmp_path / "m.onnx")
    assert result.exit_code == 0, result.output
    assert "opset 18" in result.output
    assert "1 s 1.5e-07, 3.1 s 2.0e-07" in result.output
    assert run("--to", "onnx", "--out", tmp_path / "b", "--precision", "int8").exit_code == 0
    assert asked == [
        (tmp_path / "m.onnx", "float32", {"name": "weights"}),
        (tmp_path / "b", "int8", {"name": "myna-open-22m-hybrid", "licence": "MIT"}),
    ]
    result = run("--to", "safetensors", "--out", tmp_path / "c", "--precision", "int8")
    assert (result.exit_code, "is for --to onnx" in result.output) == (2, True)


def test_published_models_have_their_name_and_licence(tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_PLUGIN_WEIGHTS", str(tmp_path))
    torch.save(published_state_dict(2), tmp_path / "myna-hybrid.pth")
    assert name_and_licence("myna-hybrid") == {"name": "myna-hybrid", "licence": "MIT"}
    assert name_and_licence(str(tmp_path / "myna-hybrid.pth")) == {"name": "myna-hybrid"}


def test_bad_input_is_one_line_and_status_2(tmp_path, checkpoint, monkeypatch):
    there = tmp_path / "there.safetensors"
    there.write_text("precious")
    to = ("--to", "safetensors")
    for arguments, message in (
        ((*to, "--model", checkpoint, "--out", there), "there.safetensors: already there"),
        ((*to, "--model", "no.pth", "--out", tmp_path / "x.safetensors"), "no.pth: no such file"),
        ((*to, "--model", checkpoint, "--out", tmp_path / "x.bin"), "end in .safetensors"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("export: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert there.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"there.safetensors", "weights.pth"}

    monkeypatch.setitem(sys.modules, "onnx", None)
    result = run("--to", "onnx", "--model", checkpoint, "--out", tmp_path / "m.onnx")
    assert result.exit_code == 2
    assert "pip install 'myna-plugin[onnx]'" in result.stderr
