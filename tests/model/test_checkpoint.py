import json
import pickle
import random
import warnings
import zipfile
from functools import partial

import pytest
import torch
from conftest import published_state_dict
from safetensors.torch import load_file, save_file

from myna_plugin.model import sources
from myna_plugin.model.checkpoint import load_encoder, save_checkpoint
from myna_plugin.model.encoder import SIZES, EncoderConfig, MynaEncoder, initialise
from myna_plugin.model.layouts import read_weights
from myna_plugin.model.tensors import CheckpointError

TINY = {"embed_dim": 64, "depth": 2, "num_heads": 1, "mlp_dim": 128}


def save_published(path, tokenizers=2, **sizes):
    weights = published_state_dict(tokenizers, **sizes)
    torch.save(weights, path)
    return weights


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_published_layout_loads_from_every_file_kind(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    weights = published_state_dict(2)
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    encoder = load_encoder(path)
    assert encoder.config == EncoderConfig(**TINY)
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize("size", ["vit-ti", "vit-s"])
def test_architecture_is_read_from_the_tensors(tmp_path, size):
    expected = SIZES[size]
    save_published(tmp_path / "a.pth", dim=expected.embed_dim, depth=3, mlp_dim=expected.mlp_dim)
    config = load_encoder(tmp_path / "a.pth").config
    assert (config.embed_dim, config.num_heads, config.mlp_dim, config.depth) == (
        expected.embed_dim,
        expected.num_heads,
        expected.mlp_dim,
        3,
    )


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod."])
def test_wrapper_prefixes_are_stripped(tmp_path, prefix):
    torch.save({f"{prefix}{k}": v for k, v in published_state_dict(2).items()}, tmp_path / "a.pth")
    assert load_encoder(tmp_path / "a.pth").config.patchings == ("square", "vertical")


def test_wrapped_state_dict_is_found(tmp_path):
    torch.save({"state_dict": published_state_dict(2), "epoch": 3}, tmp_path / "a.pth")
    assert load_encoder(tmp_path / "a.pth").config.patchings == ("square", "vertical")


def test_a_bare_single_tokenizer_is_square_with_a_warning(tmp_path):
    save_published(tmp_path / "mine.pth", 1)
    with pytest.warns(UserWarning, match=r"mine\.pth: nothing says whether .* taken as square"):
        assert load_encoder(tmp_path / "mine.pth").config.patchings == ("square",)


@pytest.mark.parametrize(
    ("file", "embedding", "patchings", "frames"),
    [
        ("mine.pth", "vertical", ("vertical",), 98),
        ("mine.pth", "square", ("square",), 96),
        ("myna-vertical.pth", "auto", ("vertical",), 98),
        ("myna-base.pth", "auto", ("square",), 96),
    ],
)
def test_an_option_or_a_known_name_settles_it(tmp_path, file, embedding, patchings, frames):
    save_published(tmp_path / file, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = load_encoder(tmp_path / file, embedding=embedding).config
    assert (config.patchings, config.chunk_frames) == (patchings, frames)


@pytest.mark.parametrize(
    ("file", "tokenizers", "embedding"),
    [
        ("mine.pth", 1, "hybrid"),
        ("myna-base.pth", 1, "vertical"),
        ("myna-vertical.pth", 1, "square"),
        ("myna-base.pth", 1, "hybrid"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*nothing says whether")
def test_asking_for_what_a_model_cannot_give_is_an_error(tmp_path, file, tokenizers, embedding):
    save_published(tmp_path / file, tokenizers)
    with pytest.raises(CheckpointError, match=rf"{file}: cannot give {embedding} embeddings"):
        load_encoder(tmp_path / file, embedding=embedding)


def test_a_name_that_promises_another_number_of_tokenizers_is_an_error(tmp_path):
    save_published(tmp_path / "myna-base.pth", 2)
    with pytest.raises(CheckpointError, match=r"has 2 tokenizer.* promises square"):
        load_encoder(tmp_path / "myna-base.pth")


def test_every_key_and_shape_is_verified(tmp_path):
    weights = published_state_dict(2)
    del weights["transformer.norm.bias"]
    weights["transformer.layers.1.0.to_out.weight"] = torch.zeros(64, 65)
    weights["mystery"] = torch.zeros(1)
    weights["transformer.norm.weight"][3] = torch.nan
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_encoder(tmp_path / "a.pth")
    message = str(caught.value)
    assert str(tmp_path / "a.pth") in message
    assert "missing transformer.norm.bias" in message
    assert "unexpected mystery" in message
    assert "transformer.layers.1.0.to_out.weight (64, 65) instead of (64, 64)" in message
    assert "NaN or infinite numbers in transformer.norm.weight" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(2)}, "not a Myna encoder: to_patch_embedding.2.weight is missing"),
        ({"a": 3}, r"no weights under a \(int\)"),
        ([1, 2], "holds a list"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path / "a.pth")


def test_pickled_objects_are_never_executed(tmp_path):
    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"a": Attack()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="cannot be read as tensors alone"):
        load_encoder(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(CheckpointError, match="cannot be read as tensors alone"):
        load_encoder(tmp_path / "b.pth")
    assert not marker.exists()


def test_our_format_round_trips_with_its_configuration(tmp_path):
    config = EncoderConfig(
        **TINY,
        patchings=("vertical",),
        log_mel=True,
        chunk_frames=192,
        scene_layers=(1, 2),
        scene_pooling="mean-std",
        fixed_scaling=(1e3, 4.4, 3.0),
    )
    encoder = initialise(MynaEncoder(config), 1)
    save_checkpoint(encoder, tmp_path / "a.safetensors", {"licence": "CC0"})
    loaded = load_encoder(tmp_path / "a.safetensors")
    assert loaded.config == config
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in encoder.state_dict().items())
    assert read_weights(tmp_path / "a.safetensors")[1]["licence"] == "CC0"
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_projector_is_kept_in_the_file_and_dropped_on_loading(tmp_path):
    encoder = initialise(MynaEncoder(EncoderConfig(**TINY, projector=(32, 16))), 1)
    save_checkpoint(encoder, tmp_path / "a.safetensors")
    assert "linear_head.2.weight" in load_file(tmp_path / "a.safetensors")
    assert not any(
        "linear_head" in k for k in load_encoder(tmp_path / "a.safetensors").state_dict()
    )


def test_swapped_tokenizers_are_detected(tmp_path):
    save_checkpoint(initialise(MynaEncoder(EncoderConfig(**TINY)), 1), tmp_path / "a.safetensors")
    tensors, metadata = read_weights(tmp_path / "a.safetensors")
    swapped = {}
    for key, value in tensors.items():
        if key.startswith("to_patch_embedding."):
            key = key.replace("embedding.", "embedding_b.")
        elif key.startswith("to_patch_embedding_b."):
            key = key.replace("embedding_b.", "embedding.")
        swapped[key] = value
    save_file(swapped, tmp_path / "b.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="two tokenizers are swapped"):
        load_encoder(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", "99", "format version 99"),
        ("config", "{", "'config' is damaged"),
        ("config", "[" * 100_000, "'config' is damaged"),
        ("config", "[]", "'config' is not an object"),
        ("config", '{"patchings": ["square"], "wings": 2}', "stored configuration is damaged"),
    ],
)
def test_damaged_metadata_is_named(tmp_path, field, value, message):
    save_checkpoint(initialise(MynaEncoder(EncoderConfig(**TINY)), 1), tmp_path / "a.safetensors")
    tensors, metadata = read_weights(tmp_path / "a.safetensors")
    save_file(tensors, tmp_path / "a.safetensors", metadata={**metadata, field: value})
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path / "a.safetensors")


def test_what_unpacks_to_more_than_it_is_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(published_state_dict(2) | {"more": torch.zeros(100_000)}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "b.pth", "w") as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"b\.pth: .* unpack to .* bytes, more than it has"):
        load_encoder(tmp_path / "b.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.PTH", "a.bin", "a.safetensors", "a"])
def test_the_bytes_tell_the_kind_of_file_not_its_name(tmp_path, name):
    """Both kinds under each name, and what is neither."""
    path = tmp_path / name
    weights = published_state_dict(2)
    for save in (save_file, torch.save, partial(torch.save, _use_new_zipfile_serialization=False)):
        save(weights, path)
        found = load_encoder(path).state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in found.items())
    for content in (b"{}", b"\x89PNG\r\n\x1a\n", b"0123456789" * 99, "müsik".encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}: cannot be read as tensors alone"):
            load_encoder(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
def test_flipped_bytes_are_told_in_a_line(tmp_path, kind):
    """Or change a number, or nothing at all."""
    path = tmp_path / "a.pth"
    weights = {k: v for k, v in published_state_dict(1).items() if "layers.1" not in k}
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    generator = random.Random(0)
    told = []
    for i in range(150):
        damaged = bytearray(whole)
        # The first half of the damage where the structure is: at the file's start or its end.
        span = 4_000 if i % 2 else len(whole)
        for _ in range(3):
            place = generator.randrange(span)
            damaged[-place if i % 4 == 3 else place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            load_encoder(path, embedding="square")
        except CheckpointError as error:
            told.append(str(error))
    assert len(told) > 20
    assert all(line.startswith(str(path)) and "\n" not in line for line in told)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (torch.tensor(1.0), "scalar"),
        (torch.zeros(64, dtype=torch.int64), "int64"),
        (torch.zeros(64, dtype=torch.bool), "bool"),
        (torch.zeros(64, dtype=torch.complex64), "complex64"),
        (torch.zeros(64).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.eye(64).to_sparse(), "sparse_coo"),
        (torch.zeros(64, device="meta"), "meta tensor, without numbers"),
        (None, "NoneType"),
    ],
)
def test_what_cannot_be_weights_is_refused_in_a_line(tmp_path, value, fault):
    weights = published_state_dict(2)
    for name in ("to_patch_embedding.2.weight", "transformer.norm.bias", "mystery"):
        torch.save({**weights, name: value}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError) as caught:
            load_encoder(tmp_path / "a.pth")
        assert f"a.pth: not a state dict; no weights under {name} ({fault})" in str(caught.value)


def test_keys_that_are_no_names_are_refused(tmp_path):
    torch.save({**published_state_dict(2), 3: torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no weights under 3 \(not a name\)"):
        load_encoder(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"depth": 10**9}, "more weights than its"),
        ({"embed_dim": 2**40}, "more weights than its"),
        ({"mlp_dim": 10**4000}, "more weights than its"),
        ({"num_heads": 10**9}, "more weights than its"),
        ({"chunk_frames": 10**9 - 10**9 % 16}, "chunk_frames must be a multiple of 16"),
        ({"chunk_frames": 96.0}, r"chunk_frames must be a multiple of 16 .*, got 96\.0"),
        ({"embed_dim": True}, "whole numbers"),
        ({"embed_dim": "64"}, "whole numbers"),
        ({"embed_dim": 66}, "multiple of 4"),
        ({"log_mel": "false"}, "log_mel must be true or false"),
        ({"fixed_scaling": [1, 0, 1]}, "needs log_mel"),
        ({"log_mel": True, "fixed_scaling": [1, 0, 0]}, "the last above 0"),
        ({"log_mel": True, "fixed_scaling": [float("nan"), 0, 1]}, "three numbers"),
        ({"log_mel": True, "fixed_scaling": [1, 10**4000, 1]}, "three numbers"),
        ({"log_mel": True, "fixed_scaling": "abc"}, "three numbers"),
        ({"log_mel": True, "fixed_scaling": 3}, "damaged"),
        ({"scene_layers": [3]}, "scene_layers must list different blocks from 1 to 2"),
        ({"scene_layers": 2}, "scene_layers must list different blocks from 1 to 2"),
        ({"scene_pooling": "std"}, "scene_pooling must be mean or mean-std, got 'std'"),
        ({"scene_pooling": None}, "scene_pooling must be mean or mean-std, got None"),
        ({"timestamp_layer": 1.5}, "timestamp_layer must be 1 to 2"),
        ({"timestamp_hop_ms": 0}, "timestamp_hop_ms must be above 0, got 0"),
        ({"timestamp_hop_ms": "25"}, "timestamp_hop_ms must be above 0, got '25'"),
        ({"timestamp_reading": "deltas"}, "timestamp_reading must be tokens or vertical-deltas"),
        ({"timestamp_reading": None}, "timestamp_reading must be tokens or vertical-deltas"),
        ({"patchings": [["square"]]}, "damaged"),
        ({"patchings": 3}, "damaged"),
        ({"projector": 3}, None),
    ],
)
def test_a_configuration_is_held_against_the_file_before_anything_is_built(
    tmp_path, monkeypatch, claim, message
):
    encoder = initialise(MynaEncoder(EncoderConfig(**TINY)), 1)
    save_checkpoint(encoder, tmp_path / "a.safetensors")
    tensors, metadata = read_weights(tmp_path / "a.safetensors")
    config = json.dumps({**json.loads(metadata["config"]), **claim})
    save_file(tensors, tmp_path / "a.safetensors", metadata={**metadata, "config": config})
    if message is None:
        assert load_encoder(tmp_path / "a.safetensors").config == EncoderConfig(**TINY)
        return
    monkeypatch.setattr("myna_plugin.model.checkpoint.MynaEncoder", None)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(tmp_path / "a.safetensors")
    assert "a.safetensors: " in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer.layers.999999999.0.to_qkv.weight": (192, 64)}, "unexpected transformer.la"),
        ({"transformer.layers.x.0.to_qkv.weight": (192, 64)}, "unexpected transformer.layers.x"),
        ({"transformer.layers.": (1,)}, "unexpected transformer.layers."),
        ({f"transformer.layers.{'9' * 5000}.1": (1,)}, "unexpected transformer.layers.999"),
        ({"to_patch_embedding.2.weight": (2**40, 256)}, "more weights than its"),
        ({"to_patch_embedding.2.weight": (64,)}, "patches hold 0 values"),
        ({"to_patch_embedding.2.weight": (0, 256)}, "sizes must be positive"),
        ({"transformer.layers.0.0.to_qkv.weight": (0, 64)}, "sizes must be positive"),
        ({"transformer.layers.0.1.net.1.weight": (2**50, 64)}, "more weights than its"),
    ],
)
def test_shapes_that_claim_more_than_the_file_holds_are_refused(tmp_path, change, message):
    """An expanded tensor is of any shape, and of one number in the file."""
    claims = {name: torch.zeros(1).expand(*shape) for name, shape in change.items()}
    torch.save({**published_state_dict(2), **claims}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path / "a.pth")


def test_saving_elsewhere_than_safetensors_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"end in \.safetensors"):
        save_checkpoint(MynaEncoder(EncoderConfig(**TINY)), tmp_path / "a.pth")


def test_loading_leaves_the_global_generator_alone(tmp_path):
    save_published(tmp_path / "a.pth")
    before = torch.get_rng_state()
    load_encoder(tmp_path / "a.pth")
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_names_list_what_is_known():
    known = (
        "'' for the packaged model, tiny, myna-base, myna-vertical, myna-hybrid, myna-85m, owner/"
    )
    for name in ("myna-huge", "default"):
        with pytest.raises(CheckpointError, match=f"{name}: no such file, .* known are {known}"):
            load_encoder(name)


def test_unknown_embeddings_are_refused():
    with pytest.raises(ValueError, match="embedding must be auto, hybrid, square or vertical"):
        load_encoder("", embedding="round")


@pytest.mark.parametrize(("name", "size"), [("", "vit-s"), ("tiny", "vit-ti")])
def test_the_packaged_models_are_trained_hybrids(name, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = load_encoder(name)
    assert encoder.config == EncoderConfig.of_size(
        size,
        log_mel=True,
        fixed_scaling=(1000, 4.4, 3),
        timestamp_layer=4,
        timestamp_hop_ms=25.0,
        timestamp_reading="vertical-deltas",
        scene_layers=(2, 5, 8, 12),
        scene_pooling="mean-std",
    )
    assert {value.dtype for value in encoder.state_dict().values()} == {torch.float32}
    # Trained weights are no longer those that any seed gives: biases begin at 0.
    assert float(encoder.transformer.layers[0][1].net[1].bias.abs().mean()) > 0.01


@pytest.mark.parametrize(("name", "file"), sources.PACKAGED_FILES.items())
def test_a_packaged_model_that_is_not_there_is_told(monkeypatch, tmp_path, name, file):
    monkeypatch.setattr(sources, "PACKAGED_WEIGHTS", tmp_path)
    with pytest.raises(CheckpointError, match=rf"{file}: missing; install"):
        load_encoder(name)


def test_the_same_encoder_and_metadata_are_the_same_file_every_time(tmp_path):
    encoder = initialise(MynaEncoder(EncoderConfig(**TINY)), 0)
    facts = {name: "ü" * n for n, name in enumerate(("steps", "store", "data", "licence"), 1)}
    path = tmp_path / "a.safetensors"
    contents = set()
    for names in [sorted(facts), sorted(facts, reverse=True)] * 5:
        save_checkpoint(encoder, path, {name: facts[name] for name in names})
        contents.add(path.read_bytes())
    assert len(contents) == 1
    tensors, metadata = read_weights(path)
    assert facts.items() <= metadata.items()
    for name, value in encoder.state_dict().items():
        assert torch.equal(tensors[name], value)
    assert int.from_bytes(contents.pop()[:8], "little") % 8 == 0
