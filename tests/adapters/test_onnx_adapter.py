"""ONNX: the graph without branches beside the embedder, and the file beside torch."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import published_state_dict

from myna_plugin import load_model
from myna_plugin.adapters import onnx as adapter

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are not installed (extra onnx)",
)

ROOT = Path(__file__).parents[2]

LENGTHS = (1, 2, 513, 1024, 1025, 16_000, 49_151, 49_152, 60_000, 192_000)
"""Samples; reflected repeatedly up to 1024, a full chunk at 49,151 and one frame more after it."""


def load(folder, patches, layers=None, pooling="mean"):
    torch.save(published_state_dict(2), folder / "weights.pth")
    options = {"scene_layers": layers, "scene_pooling": pooling}
    return load_model(folder / "weights.pth", embedding=patches, **options)


@pytest.mark.parametrize(
    ("patches", "layers", "pooling"),
    [
        ("square", None, "mean"),
        ("vertical", [1], "mean-std"),
        ("hybrid", None, "mean"),
        ("hybrid", [2, 1], "mean-std"),
    ],
)
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_the_graph_follows_the_rule_for_lengths(
    tmp_path, sound, patches, layers, pooling, n_samples
):
    model = load(tmp_path, patches, layers, pooling)
    sounds = torch.cat([sound, sound.flip(-1)])[:, :n_samples]
    with torch.no_grad():
        scenes, chunks, frames = adapter.ExportableEmbedder(model)(sounds)
    expected, expected_frames = model.embed_chunks(sounds)
    assert torch.equal(frames, expected_frames)
    torch.testing.assert_close(chunks, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scenes, model.embed_scenes(sounds), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    model = load(folder, "hybrid")
    return (
        model,
        folder / "model.onnx",
        adapter.export_onnx(model, folder / "model.onnx", facts={"name": "a model"}),
    )


@needs_onnx
def test_the_file_agrees_with_torch_at_the_lengths_that_are_promised(exported):
    _, path, differences = exported
    assert set(differences) == {1.0, 3.1, 30.0}
    assert max(differences.values()) < adapter.TOLERANCES["float32"] == 1e-4
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".pth"] == [path.name]


@needs_onnx
@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_takes_any_length_and_batch(exported, sound, batch):
    import onnxruntime

    model, path, _ = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == [adapter.INPUT]
    assert [o.name for o in session.get_outputs()] == list(adapter.OUTPUTS)
    for n_samples in LENGTHS:
        sounds = sound[:, :n_samples].repeat(batch, 1)
        scenes, chunks, frames = session.run(None, {adapter.INPUT: sounds.numpy()})
        expected, expected_frames = model.embed_chunks(sounds)
        np.testing.assert_array_equal(frames, expected_frames)
        np.testing.assert_allclose(chunks, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scenes, model.embed_scenes(sounds), rtol=1e-4, atol=1e-4)


@needs_onnx
def test_the_opset_is_the_one_stated(exported):
    import onnx

    domains = {entry.domain: entry.version for entry in onnx.load(exported[1]).opset_import}
    assert domains[""] == adapter.OPSET


@needs_onnx
def test_weights_are_constants_of_the_products(exported):
    """Behind a transposition quantisation does not find them."""
    import onnx

    graph = onnx.load(exported[1]).graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    weighted = [node for node in products if node.input[1] in constants]
    assert len(weighted) == 2 * (1 + 2 * 4)  # patchings, a tokenizer's and two blocks'
    transposed = [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in constants]
    assert transposed == []


@needs_onnx
def test_the_file_says_what_it_is_and_not_where_it_was_made(exported):
    import onnx
    import onnxruntime

    _, path, _ = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts.pop("made_by").startswith("myna-plugin ")
    assert facts == {
        "name": "a model",
        "sample_rate": "16000",
        "patchings": "square, vertical",
        "scene_layers": "2",
        "scene_pooling": "mean",
        "precision": "float32",
    }
    assert not any(node.metadata_props for node in onnx.load(path).graph.node)
    assert str(ROOT).encode() not in path.read_bytes()


@needs_onnx
def test_int8_rounds_the_products_with_weights_alone(tmp_path, sound):
    import onnx
    import onnxruntime

    model = load(tmp_path, "hybrid")
    path = tmp_path / "small.onnx"
    differences = adapter.export_onnx(model, path, "int8")
    assert 1e-4 < max(differences.values()) < adapter.TOLERANCES["int8"]
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("MatMulInteger") == 2 * (1 + 2 * 4)
    assert kinds.count("MatMul") == 2 * 2 * 2 + 1  # attention, and the mel basis
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["precision"] == "int8"
    for n_samples in (1, 16_000, 60_000, 192_000):
        scenes, _, _ = session.run(None, {adapter.INPUT: sound[:, :n_samples].numpy()})
        expected = model.embed_scenes(sound[:, :n_samples])
        assert torch.cosine_similarity(torch.from_numpy(scenes), expected).item() > 0.98


@needs_onnx
@pytest.mark.parametrize("difference", [1e-3, float("nan")])
def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch, difference):
    model = load(tmp_path, "square")
    monkeypatch.setattr(adapter, "_write", lambda model, path: path.write_bytes(b""))
    monkeypatch.setattr(adapter, "compare_onnx", lambda model, path: {1.0: 0.0, 3.1: difference})
    with pytest.raises(adapter.ExportError, match="not written"):
        adapter.export_onnx(model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


@needs_onnx
def test_other_weights_are_told_apart(exported, tmp_path):
    _, path, _ = exported
    torch.save(published_state_dict(2, seed=1), tmp_path / "other.pth")
    differences = adapter.compare_onnx(load_model(tmp_path / "other.pth"), path)
    assert min(differences.values()) > 0.1


@needs_onnx
def test_a_published_vertical_model_agrees_with_longer_chunks_layers_and_deviations(tmp_path):
    torch.save(published_state_dict(1), tmp_path / "myna-vertical.pth")
    options = {"scene_layers": [1, 2], "scene_pooling": "mean-std"}
    model = load_model(tmp_path / "myna-vertical.pth", **options)
    assert model.encoder.config.chunk_frames == 98
    assert max(adapter.export_onnx(model, tmp_path / "model.onnx").values()) < 1e-4


def test_a_share_of_the_tokens_is_refused(tmp_path):
    torch.save(published_state_dict(2), tmp_path / "weights.pth")
    model = load_model(tmp_path / "weights.pth", tokens=0.5)
    with pytest.raises(adapter.ExportError, match=r"a\.onnx: not written; .* with tokens=1$"):
        adapter.export_onnx(model, tmp_path / "a.onnx")
