"""Weights however others lay them out: in a file, a folder, the hub's cache, or the hub."""

import json
import os
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import published_state_dict
from huggingface_hub import errors
from safetensors.torch import save_file

from myna_plugin.model.checkpoint import load_encoder
from myna_plugin.model.tensors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"

HYBRID = {"patch_size": 16, "additional_patch_size": [128, 2], "n_samples": 50_000, "sr": 16_000}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty weights folder, and a hub that is offline with an empty cache."""
    monkeypatch.setenv("MYNA_PLUGIN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def save(folder, name, content):
    """A file of weights of the kind that its name says; what is shared is written twice."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in content.items()}, path)
    else:
        torch.save(content, path)


def split(content, ending):
    """A model in two shards and their index."""
    keys = list(content)
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{n}-of-00002.{ending}" for n in (1, 2)]
    halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    shards = {
        name: {key: content[key] for key in half} for name, half in zip(names, halves, strict=True)
    }
    listed = {key: name for name, half in shards.items() for key in half}
    return {**shards, f"{stem}.{ending}.index.json": {"metadata": {}, "weight_map": listed}}


def prefixed(prefix, content, **more):
    return {f"{prefix}{key}": value for key, value in content.items()} | more


BOTH, ONE = published_state_dict(2), published_state_dict(1)

BUFFERS = {
    "preprocessor.mel_spec.mel_basis": torch.ones(128, 1025),
    "preprocessor.mel_spec.stft.wsin": torch.ones(4, 1, 2048),
    "preprocessor.n_seen": torch.tensor(3),
}

LAYOUTS = {
    "a bare state dict as safetensors": {"model.safetensors": BOTH},
    "pytorch_model.bin": {"pytorch_model.bin": BOTH},
    "the released file": {"README.md": None, "some-model.pth": BOTH},
    "model. before each key": {
        "config.json": HYBRID,
        "model.safetensors": prefixed("model.", BOTH),
    },
    "vit. and a front-end": {
        "config.json": HYBRID,
        "pytorch_model.bin": prefixed("vit.", BOTH, **BUFFERS),
    },
    "buffers of the front-end within": {
        "model.safetensors": prefixed("myna.", BOTH | dict(list(BUFFERS.items())[:2])),
    },
    "positions stored": {
        "model.safetensors": prefixed(
            "backbone.encoder.",
            BOTH | {"pos_embedding": torch.ones(48, 64), "pos_embedding_b": torch.ones(48, 64)},
        ),
    },
    "a classifier beside": {
        "model.safetensors": prefixed("encoder.", BOTH, **{"classifier.weight": torch.ones(2, 64)}),
    },
    "shards": split(prefixed("model.", BOTH), "safetensors"),
    "shards of torch.save, with a front-end": split(prefixed("vit.", BOTH, **BUFFERS), "bin"),
    "a sub-folder": {"checkpoints/best.pt": {"state_dict": prefixed("module.", BOTH)}},
    "what training left beside": {
        "training_args.bin": {"lr": 1},
        "optimizer.pt": {"state": 1},
        "best.bin": BOTH,
    },
    "half precision, and a projector": {
        "model.safetensors": {
            k: v.half()
            for k, v in prefixed(
                "m.", BOTH, **{"m.linear_head.0.weight": torch.ones(8, 64)}
            ).items()
        },
    },
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return {name: content for name, content in LAYOUTS[request.param].items() if content}


def check(source):
    encoder = load_encoder(source)
    assert encoder.config.patchings == ("square", "vertical")
    assert encoder.config.chunk_frames == 96
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, BOTH[name], rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_downloaded_folder_is_read(tmp_path, layout):
    for name, content in layout.items():
        save(tmp_path / "some-model", name, content)
    check(tmp_path / "some-model")


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("address", ["hf://someone/some-model", "someone/some-model"])
def test_what_the_cache_holds_needs_no_network(tmp_path, weights, layout, address):
    repository = tmp_path / "hub" / "models--someone--some-model"
    for name, content in layout.items():
        save(repository / "snapshots" / COMMIT, name, content)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    check(address)
    check(f"{address}@{COMMIT}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has what is in a folder; what is asked of it is noted."""
    asked = []

    def get(repository, name, revision=None):
        asked.append((repository, name, revision))
        if not (tmp_path / "remote" / name).is_file():
            raise errors.RemoteEntryNotFoundError(name, response=SimpleNamespace(headers={}))
        source, copy = tmp_path / "remote" / name, tmp_path / "snapshot" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
        return str(copy)

    def describe(repository, revision=None):
        root = tmp_path / "remote"
        files = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", get)
    monkeypatch.setattr("huggingface_hub.model_info", describe)
    return asked


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_repository_is_downloaded_in_its_layout(tmp_path, hub, layout):
    for name, content in layout.items():
        save(tmp_path / "remote", name, content)
    check("hf://someone/some-model@abc")
    assert {revision for _, _, revision in hub} == {"abc"}
    unused = {"README.md", "training_args.bin", "optimizer.pt"}
    assert {name for _, name, _ in hub} == set(layout) - unused


def test_safetensors_come_before_pickles(tmp_path, hub):
    save(tmp_path / "remote", "pytorch_model.bin", {"other": torch.ones(1)})
    save(tmp_path / "remote", "model.safetensors", BOTH)
    check("hf://someone/some-model")


@pytest.mark.parametrize(
    ("config", "patchings", "frames"),
    [
        ({"patch_size": [128, 2], "n_samples": 50_000}, ("vertical",), 98),
        ({"patch_size": [128, 2], "n_samples": 100_000}, ("vertical",), 196),
        ({"patch_size": [16, 16], "additional_patch_size": None}, ("square",), 96),
        ({"patch_size": 16, "n_frames": 200}, ("square",), 192),
    ],
)
def test_a_configuration_beside_tells_patches_and_chunks(tmp_path, config, patchings, frames):
    save(tmp_path, "config.json", config)
    save(tmp_path, "model.safetensors", ONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = load_encoder(tmp_path)
    assert (encoder.config.patchings, encoder.config.chunk_frames) == (patchings, frames)


def test_a_published_name_tells_where_no_configuration_does(tmp_path, hub, weights, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    save(tmp_path / "remote", "model.safetensors", prefixed("vit.", ONE))
    for source in ("myna-vertical", "oriyonay/myna-vertical", "hf://oriyonay/myna-vertical@abc"):
        assert load_encoder(source).config.patchings == ("vertical",)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_size": [8, 8]}, r"config\.json: its patches are \[8, 8\]; Myna's are 16×16 or"),
        ({"patch_size": "big"}, r"config\.json: its patches are 'big'"),
        ({"patch_size": 16, "n_frames": 7}, r"config\.json: a chunk of 7 frames holds no patch"),
        (
            HYBRID,
            r"has 1 tokenizer\(s\) where its name or its config\.json promises square and ver",
        ),
    ],
)
def test_a_configuration_of_another_model_is_refused(tmp_path, config, message):
    save(tmp_path, "config.json", config)
    save(tmp_path, "model.safetensors", ONE)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path)


def test_what_is_left_out_is_told(tmp_path):
    save(tmp_path, "a.pth", prefixed("vit.", ONE, **BUFFERS))
    with pytest.warns(UserWarning, match=r"a\.pth: preprocessor\.mel_spec\.mel_basis, .* left out"):
        load_encoder(tmp_path / "a.pth", embedding="square")


def test_an_unknown_tensor_within_the_encoder_is_refused_all_the_same(tmp_path):
    save(tmp_path, "a.pth", prefixed("vit.", BOTH | {"transformer.extra": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"unexpected transformer\.extra"):
        load_encoder(tmp_path / "a.pth")


def test_two_encoders_in_a_file_are_refused(tmp_path):
    save(tmp_path, "a.pth", prefixed("student.", BOTH) | prefixed("teacher.", BOTH))
    with pytest.raises(CheckpointError, match=r"several encoders, student\.to_.*, teacher\.to_"):
        load_encoder(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../secret.bin"}}, "names '../secret.bin', which is no file beside"),
        ({"weight_map": {"a": 3}}, "not a list of shards|names 3"),
        ({"weight_map": []}, "not a list of shards"),
        ([], "not a list of shards"),
        ({"weight_map": {"a": "gone.safetensors"}}, r"gone\.safetensors: missing, and .* lists it"),
    ],
)
def test_a_list_of_shards_that_is_wrong_is_named(tmp_path, index, message):
    save(tmp_path, "model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_several_weights_are_named(tmp_path, hub):
    for name in ("one.pth", "two.pth"):
        save(tmp_path / "remote", name, BOTH)
    for source in (tmp_path / "remote", "hf://someone/some-model"):
        with pytest.raises(CheckpointError, match=r"several weights, one\.pth, two\.pth: give the"):
            load_encoder(source)


def test_a_place_without_weights_says_what_is_there(tmp_path, hub):
    save(tmp_path / "remote", "config.json", HYBRID)
    for source in (tmp_path / "remote", "hf://someone/some-model"):
        with pytest.raises(CheckpointError, match=r"no weights.*, only config\.json"):
            load_encoder(source)


def test_chunks_may_have_another_length(tmp_path):
    """There are no weights of a length: the tokens of a longer chunk are those of its frames."""
    save(tmp_path, "a.pth", BOTH)
    encoder = load_encoder(tmp_path / "a.pth", chunk_frames=192)
    assert encoder.config.chunk_frames == 192
    assert not encoder.training
    with pytest.raises(ValueError, match=r"chunk_frames must be a multiple of 16 .*, got 100"):
        load_encoder(tmp_path / "a.pth", chunk_frames=100)


def test_a_published_name_is_found_in_the_weights_folder(weights):
    torch.save(ONE, weights / "myna-vertical.pth")
    assert load_encoder("myna-vertical").config.patchings == ("vertical",)


@pytest.mark.parametrize(
    ("source", "way"),
    [
        ("myna-hybrid", "`myna import FILE --as myna-hybrid`"),
        ("hf://someone/some-model", "give its path"),
    ],
)
def test_offline_says_what_to_do_with_a_file_brought_by_hand(weights, source, way):
    with pytest.raises(CheckpointError) as caught:
        load_encoder(source)
    assert str(caught.value).endswith(way)
    assert "cannot be downloaded (the Hugging Face hub cannot be reached)." in str(caught.value)


def test_an_impossible_repository_name_is_named(weights):
    with pytest.raises(CheckpointError, match="hf://not a repo: cannot be downloaded"):
        load_encoder("hf://not a repo")


def test_a_mistyped_path_asks_no_network(tmp_path, weights, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for source in (f"there{os.sep}final.safetensors", "there/x/final", "runs/final"):
        with pytest.raises(CheckpointError, match="no such file"):
            load_encoder(source)
    assert not hub
