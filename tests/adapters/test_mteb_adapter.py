"""The contract of mteb's audio encoders.

mteb is not installed for these tests (it brings sentence-transformers, datasets and polars). The
contract is written out from `mteb/models/models_protocols.py` and `model_meta.py` (2.26); the real
`mteb.evaluate` has been run by hand, see the README.
"""

import inspect
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import published_state_dict

from myna_plugin import load_model
from myna_plugin.adapters.mteb import MynaModel

KEYWORDS = {"task_metadata", "hf_split", "hf_subset", "prompt_type"}
"""What mteb passes to `encode` beside the batches."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.save(published_state_dict(2), tmp_path / "myna-hybrid.pth")
    monkeypatch.setenv("MYNA_PLUGIN_WEIGHTS", str(tmp_path))
    return tmp_path


def item(samples, rate=16_000):
    return {"array": samples, "sampling_rate": rate}


def test_the_signature_is_mtebs():
    parameters = inspect.signature(MynaModel.encode).parameters
    assert set(parameters) >= KEYWORDS
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in KEYWORDS)
    initial = inspect.signature(MynaModel).parameters
    assert list(initial)[:2] == ["model_name", "revision"]
    assert initial["device"].kind is inspect.Parameter.KEYWORD_ONLY


def test_batches_become_scene_embeddings_in_order(folder, sound):
    model = MynaModel("myna-hybrid", device="cpu")
    long, short = sound[0].numpy(), sound[0, :20_000].double().numpy()
    batches = [
        {"audio": [item(long), item(short), item(np.stack([long, -0.5 * long]))]},
        {"audio": [item(short, 32_000)]},
    ]
    embeddings = model.encode(
        batches, task_metadata=None, hf_split="test", hf_subset="default", batch_size=32
    )
    assert embeddings.shape == (4, 128)
    assert embeddings.dtype == np.float32
    reference = load_model("myna-hybrid")
    for row, samples in ((0, long), (1, short), (2, 0.25 * long)):
        expected = reference(torch.as_tensor(samples).float().unsqueeze(0))[0]
        np.testing.assert_allclose(embeddings[row], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(embeddings[3], embeddings[1], atol=1e-3)


def test_the_options_of_scenes_reach_the_model(folder, sound):
    options = {"scene_layers": [1, 2], "scene_pooling": "mean-std", "tokens": 0.25}
    embedded = MynaModel("myna-hybrid", device="cpu", **options).encode(
        [{"audio": [item(sound[0].numpy())]}]
    )
    expected = load_model("myna-hybrid", **options)(sound).numpy()
    np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-5)


def test_text_is_refused(folder):
    with pytest.raises(ValueError, match="only text"):
        MynaModel("myna-hybrid", device="cpu").encode([{"text": ["a song"]}])


def test_similarity_is_the_cosine(folder):
    model = MynaModel("myna-hybrid", device="cpu")
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    expected = torch.tensor([[0.96, 0.8], [0.8, 0.0]])
    torch.testing.assert_close(model.similarity(a, b), expected)
    torch.testing.assert_close(model.similarity_pairwise(a, b), expected.diagonal())


def test_the_model_meta_says_what_is_known(folder, monkeypatch):
    package, models = ModuleType("mteb"), ModuleType("mteb.models")
    meta = ModuleType("mteb.models.model_meta")
    meta.ModelMeta = SimpleNamespace
    for module in (package, models, meta):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    stated = MynaModel("myna-hybrid", device="cpu").mteb_model_meta
    assert stated.name == "oriyonay/myna-hybrid"
    assert stated.embed_dim == 128
    assert stated.modalities == ["audio"]
    assert stated.loader is MynaModel
    encoder = load_model("myna-hybrid").encoder
    assert stated.n_parameters == sum(p.numel() for p in encoder.parameters())

    ours = MynaModel(str(folder / "myna-hybrid.pth"), device="cpu").mteb_model_meta
    assert "/" in ours.name
    assert (ours.license, ours.open_weights, ours.reference) == (None, None, None)
