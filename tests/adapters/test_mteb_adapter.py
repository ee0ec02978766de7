"""The contract of mteb's audio encoders.

mteb is not installed for these tests (it brings sentence-transformers, datasets and polars). The
contract is written out from `mteb/models/models_protocols.py` and `model_meta.py` (2.26); the real
one has been run by hand, see docs/adapters.md.
"""

import contextlib
import copy
import inspect
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import published_state_dict
from safetensors import safe_open

from myna_plugin import load_model
from myna_plugin.adapters.mteb import ENTRIES, MynaModel, main, register
from myna_plugin.model.sources import PACKAGED_FILES, PACKAGED_WEIGHTS

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


# --- mteb's registry

REQUIRED = {
    *("loader", "name", "revision", "release_date", "languages", "n_parameters", "max_tokens"),
    *("memory_usage_mb", "embed_dim", "license", "open_weights", "public_training_code"),
    *("public_training_data", "framework", "similarity_fn_name", "use_instructions"),
    "training_datasets",
}
OPTIONAL = {
    *("loader_kwargs", "n_active_parameters_override", "n_embedding_parameters", "reference"),
    *("adapted_from", "superseded_by", "modalities", "model_type", "citation", "contacts"),
    *("experiment_kwargs", "output_dtypes", "extra_requirements_groups"),
}
"""Fields of `ModelMeta`, which takes no others."""


class ModelMeta(SimpleNamespace):
    """What mteb checks of an entry, and how it loads a model by it."""

    def __init__(self, **fields):
        assert set(fields) >= REQUIRED, REQUIRED - set(fields)
        assert set(fields) <= REQUIRED | OPTIONAL
        if fields["name"] is not None and "/" not in fields["name"]:
            raise ValueError("Model name must be in the format 'organization/model_name'")
        super().__init__(**fields)

    def load_model(self, device):
        model = self.loader(self.name, revision=self.revision, device=device)
        model.mteb_model_meta = ModelMeta(**copy.deepcopy(vars(self)))
        return model


@pytest.fixture
def registry(monkeypatch):
    """mteb's table of models, with one of its own in it."""
    known: dict[str, object] = {"google/yamnet": "theirs"}
    parts = {"model_meta": {"ModelMeta": ModelMeta}, "model_implementations": {}}
    parts["model_implementations"]["MODEL_REGISTRY"] = known
    for name in ("mteb", "mteb.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for part, content in parts.items():
        module = ModuleType(f"mteb.models.{part}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return known


def test_models_are_in_the_registry_by_organization_and_name(registry):
    registry["oriyonay/myna-base"] = "theirs too, one day"
    register()
    assert set(registry) == {"google/yamnet", *ENTRIES}
    assert registry["oriyonay/myna-base"] == "theirs too, one day"
    hybrid = registry["oriyonay/myna-hybrid"]
    assert (hybrid.embed_dim, hybrid.license, hybrid.modalities) == (768, "mit", ["audio"])
    assert "AudioSetMini" in hybrid.training_datasets
    assert registry["myna-plugin/myna-open-22m-hybrid"].training_datasets == set()


def test_a_published_model_is_loaded_by_its_name_from_weights_that_are_here(registry, folder):
    register()
    model = registry["oriyonay/myna-hybrid"].load_model("cpu")
    assert isinstance(model, MynaModel)
    assert model.model.scene_embedding_size == 128  # of the small one in the folder
    assert model.mteb_model_meta == registry["oriyonay/myna-hybrid"]


def test_a_revision_is_the_hubs(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "myna_plugin.adapters.mteb.load_model", lambda name, **_: asked.append(name)
    )
    for name, revision in (("oriyonay/myna-hybrid", "abc"), ("runs/mine", "abc")):
        with contextlib.suppress(AttributeError):  # there is no model
            MynaModel(name, revision)
    assert asked == ["hf://oriyonay/myna-hybrid@abc", "runs/mine"]


@pytest.mark.parametrize(
    ("name", "file"),
    [("myna-plugin/myna-open-22m-hybrid", ""), ("myna-plugin/myna-open-5m-hybrid", "tiny")],
)
def test_entries_of_packaged_models_are_these_files(registry, name, file):
    model = MynaModel(name, device="cpu").model
    assert ENTRIES[name].size == model.scene_embedding_size
    assert ENTRIES[name].parameters == sum(p.numel() for p in model.encoder.parameters())
    with safe_open(PACKAGED_WEIGHTS / PACKAGED_FILES[file], "pt") as opened:
        assert name == f"myna-plugin/{opened.metadata()['name']}"


def test_parameters_of_the_published_are_the_papers():
    millions = [round(ENTRIES[f"oriyonay/myna-{n}"].parameters / 1e6) for n in ("hybrid", "85m")]
    assert millions == [21, 85]


def test_any_other_model_has_an_entry_too(registry, folder):
    ours = MynaModel(str(folder / "myna-hybrid.pth"), device="cpu").mteb_model_meta
    assert ours.name == "myna-plugin/local"
    assert (ours.license, ours.open_weights, ours.reference) == (None, None, None)
    stated = MynaModel("myna-hybrid", device="cpu").mteb_model_meta
    assert stated.name == "oriyonay/myna-hybrid"
    assert stated.embed_dim == 128
    encoder = load_model("myna-hybrid").encoder
    assert stated.n_parameters == sum(p.numel() for p in encoder.parameters())


def test_the_command_is_mtebs(registry, monkeypatch):
    called = []
    cli = ModuleType("mteb.cli.build_cli")
    cli.main = lambda: called.append("mteb")
    for module in (ModuleType("mteb.cli"), cli):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    main()
    assert called == ["mteb"]


def test_without_mteb_its_command_is_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "pip install mteb" in capsys.readouterr().err
