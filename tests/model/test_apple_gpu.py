"""Apple's GPUs know no float64: nothing of ours asks them for it.

No such GPU is here. So torch's "meta", whose tensors have no data, is said to be the device that
lacks float64: tensors on it go through the model's own code, and what each operation would give is
watched. Whether MPS has the operation is not known from that.
"""

from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from myna_plugin.library.encoding import SceneEncoder
from myna_plugin.library.segments import window_length
from myna_plugin.model import chunks, embedding
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise


def tiny_embedder(pooling):
    config = EncoderConfig(
        patchings=("square", "vertical"), embed_dim=64, depth=2, num_heads=1, mlp_dim=128
    )
    encoder = initialise(MynaEncoder(config), 0).eval()
    return embedding.Embedder(encoder, config.patchings, scene_pooling=pooling)


class NoFloat64(TorchDispatchMode):
    """Refuses operations that give a float64 tensor there; counts those that give another."""

    def __init__(self):
        super().__init__()
        self.n_seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                assert tensor.dtype != torch.float64, function
                self.n_seen += 1
        return result


@contextmanager
def without_float64(model, monkeypatch):
    """What a block does with a model on a device without float64 is watched."""
    monkeypatch.setattr(chunks, "WITHOUT_FLOAT64", "meta")
    # It asks whether the data are finite, and these are none.
    monkeypatch.setattr(
        model, "_frames", lambda waveform, start, stop: model.mel.frames(waveform, start, stop)
    )
    monkeypatch.setitem(embedding.CHUNKS_PER_PASS, "meta", 8)
    model.to("meta")
    with NoFloat64() as mode:
        yield mode


@pytest.mark.parametrize("pooling", ["mean", "mean-std"])
def test_embedding_asks_for_no_float64(monkeypatch, pooling):
    model = tiny_embedder(pooling)
    with without_float64(model, monkeypatch) as watched:
        waveform = torch.zeros(2, 70_000)
        for embedded in (
            model.embed_scenes(waveform),
            model.embed_chunks(waveform)[0],
            model.embed_timestamps(waveform)[0],
        ):
            assert embedded.device.type == "meta"
            assert embedded.dtype == torch.float32
    assert watched.n_seen > 100


@pytest.mark.parametrize("pooling", ["mean", "mean-std"])
def test_a_batch_of_a_library_asks_for_no_float64(monkeypatch, pooling):
    model = tiny_embedder(pooling)
    encoder = SceneEncoder(model)
    encoder._device = torch.device("meta")
    with without_float64(model, monkeypatch) as watched:
        windows = torch.zeros(3, window_length(96), device="meta")

        vectors = encoder._embed(windows, 96, [0, 1, 2])

        assert vectors.device.type == "meta"
    assert watched.n_seen > 50


def test_sums_in_float32_cost_little(monkeypatch, sound):
    model = tiny_embedder("mean-std")
    exact = model.embed_scenes(sound)
    for module in (chunks, embedding):
        monkeypatch.setattr(module, "sum_type", lambda device: torch.float32)

    rounded = model.embed_scenes(sound)

    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=1e-4, atol=1e-4)
