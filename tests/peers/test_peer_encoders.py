"""Encoders of others: rate, shape, determinism, batches, lengths, and each against its own class.

Random weights in the published layouts; nothing is downloaded.
"""

import numpy as np
import pytest
import torch
from tiny_peers import (
    MERT_SETTINGS,
    dasheng_package,
    transformers,
    write_clap,
    write_clmr,
    write_dasheng,
    write_mert,
)

from myna_plugin.common.errors import InputError
from myna_plugin.peers import clap_music, clmr, dasheng, mert_95m, mert_95m_public, mert_330m
from myna_plugin.peers.card import LicenceWarning, PeerError
from myna_plugin.peers.frames import encode_windows
from myna_plugin.peers.weights import find_folder

pytestmark = pytest.mark.filterwarnings("ignore::myna_plugin.peers.card.LicenceWarning")

MODULES = {
    "mert-95m": (mert_95m, lambda folder: write_mert(folder)),
    "mert-330m": (
        mert_330m,
        lambda folder: write_mert(folder, do_stable_layer_norm=True, feat_extract_norm="layer"),
    ),
    "mert-95m-public": (mert_95m_public, lambda folder: write_mert(folder, rate=16_000)),
    "clap-music": (clap_music, lambda folder: write_clap(folder)),
    "clmr": (clmr, lambda folder: write_clmr(folder.with_suffix(".pt"))),
    "dasheng": (dasheng, lambda folder: write_dasheng(folder.with_suffix(".pt"))),
}
RATES = {"mert-95m-public": 16_000, "clap-music": 48_000, "clmr": 22_050, "dasheng": 16_000}


@pytest.fixture(scope="module", params=MODULES)
def loaded(request, tmp_path_factory):
    """A module and its model."""
    module, write = MODULES[request.param]
    return module, module.load_model(write(tmp_path_factory.mktemp("peer") / "weights"))


def noise(n_sounds, n_samples, seed=0):
    return 0.1 * torch.randn(n_sounds, n_samples, generator=torch.Generator().manual_seed(seed))


def test_rate_width_and_shape(loaded):
    module, model = loaded
    assert model.sample_rate == RATES.get(module.CARD.name, 24_000)
    vectors = module.get_scene_embeddings(noise(2, model.sample_rate), model)
    assert vectors.shape == (2, model.scene_embedding_size)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    assert not model.training
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-5)


def test_a_vector_is_the_same_again_and_in_any_company(loaded):
    module, model = loaded
    levels = torch.tensor([[1.0], [0.1], [10.0]])
    sounds = levels * noise(3, round(1.3 * model.sample_rate))
    vectors = module.get_scene_embeddings(sounds, model)
    assert torch.equal(vectors, module.get_scene_embeddings(sounds, model))
    alone = module.get_scene_embeddings(sounds[1:2].clone(), model)
    torch.testing.assert_close(vectors[1:2], alone, rtol=1e-4, atol=1e-5)
    given = module.get_scene_embeddings(sounds.numpy().astype(np.float64), model)
    torch.testing.assert_close(given, vectors, rtol=1e-4, atol=1e-5)


def test_length_from_a_sample_to_a_minute(loaded):
    module, model = loaded
    for n_samples in (1, 2, 399, 401, model.window + 1, 60 * model.sample_rate):
        vectors = module.get_scene_embeddings(noise(1, n_samples), model)
        assert vectors.shape == (1, model.scene_embedding_size)
        assert torch.isfinite(vectors).all(), n_samples
    assert torch.isfinite(module.get_scene_embeddings(torch.zeros(1, 1000), model)).all()


def test_a_scene_is_its_windows_mean_by_length(loaded):
    module, model = loaded
    sound = noise(1, round(2.5 * model.window))
    windows = list(encode_windows(model.prepare(sound), model))
    assert [w.length for w in windows] == [model.window] * 2 + [sound.shape[1] - 2 * model.window]
    with torch.no_grad():
        means = [w.frames.mean(1) for w in encode_windows(model.prepare(sound), model)]
    expected = (means[0] + means[1] + 0.5 * means[2]) / 2.5
    actual = module.get_scene_embeddings(sound, model)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_timestamps_are_even_and_within(loaded):
    module, model = loaded
    if not hasattr(module, "get_timestamp_embeddings"):
        assert module in (clap_music, clmr)  # a vector a window: nothing to tell moments apart
        return
    for seconds, n_times in ((1e-4, 1), (0.12, 2), (5.02, 100), (11.0, 220)):
        sound = noise(2, max(round(seconds * model.sample_rate), 1))
        vectors, times = module.get_timestamp_embeddings(sound, model)
        assert vectors.shape == (2, n_times, model.timestamp_embedding_size)
        assert times.shape == (2, n_times)
        assert times[0, 0] > 0
        assert times[0, -1] < 1000 * sound.shape[1] / model.sample_rate
        assert np.allclose(np.diff(times.numpy()), 50)


def test_timestamps_are_the_nearest_frames(tmp_path):
    model = mert_95m.load_model(write_mert(tmp_path / "m"))
    sound = noise(1, 24_000 * 12)
    vectors, times = mert_95m.get_timestamp_embeddings(sound, model)
    frames, centres = [], []
    for start in range(0, 12, 5):
        cut = model.prepare(sound)[:, 24_000 * start : 24_000 * (start + 5)]
        with torch.no_grad():
            encoded = model.encode(cut)[0]
        duration = cut.shape[1] / 24_000
        for number, frame in enumerate(encoded):
            frames.append(frame)
            centres.append(start + (number + 0.5) * duration / len(encoded))
    for vector, time in zip(vectors[0], times[0].tolist(), strict=True):
        nearest = int(np.abs(np.array(centres) - time / 1000).argmin())
        torch.testing.assert_close(vector, frames[nearest])


# ------------------------------------------------------------------------------------------
# MERT
# ------------------------------------------------------------------------------------------


def hubert_states(folder, sound):
    """All hidden states of the published steps: extractor, then model."""
    settings = {k: v for k, v in MERT_SETTINGS.items() if k not in ("model_type", "auto_map")}
    model = transformers.HubertModel(transformers.HubertConfig(**settings)).eval()
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for number, old in enumerate(("weight_g", "weight_v")):
        state[f"encoder.pos_conv_embed.conv.parametrizations.weight.original{number}"] = state.pop(
            f"encoder.pos_conv_embed.conv.{old}"
        )
    model.load_state_dict(state)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = extractor(list(sound.numpy()), sampling_rate=24_000, return_tensors="pt")
    with torch.no_grad():
        return model(values.input_values, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("layer", [None, 0, 2])
@pytest.mark.parametrize("own", [False, True])
def test_mert_is_what_its_class_gives(tmp_path, monkeypatch, layer, own):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "c"))
    folder = write_mert(tmp_path / "mert")
    sound = noise(2, 30_000)
    states = hubert_states(folder, sound)
    expected = torch.stack(states).mean((0, 2)) if layer is None else states[layer].mean(1)
    model = mert_95m.load_model(folder, layer=layer, trust_remote_code=own)
    assert (type(model.backbone).__name__ == "OwnModel") == own
    actual = mert_95m.get_scene_embeddings(sound, model)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_mert_tells_its_licence(tmp_path):
    folder = write_mert(tmp_path / "mert")
    with pytest.warns(LicenceWarning, match="mert-95m are under CC BY-NC 4.0, not for commercial"):
        mert_95m.load_model(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"feature_extractor_cqt": True}, "feature_extractor_cqt, which its own code alone"),
        ({"deepnorm": True}, "deepnorm"),
        ({"rate": 16_000}, "listens at 16000 Hz, mert-95m at 24000"),
    ],
)
def test_mert_of_another_kind_is_refused(tmp_path, changes, told):
    with pytest.raises(PeerError, match=told):
        mert_95m.load_model(write_mert(tmp_path / "mert", **changes))


def test_mert_that_lacks_tensors_is_refused(tmp_path):
    folder = write_mert(tmp_path / "mert")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state["encoder.layers.1.attention.k_proj.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(PeerError, match=r"lack encoder\.layers\.1\.attention\.k_proj\.weight"):
        mert_95m.load_model(folder)
    with pytest.raises(ValueError, match="from 0 to 3, got 4"):
        mert_95m.load_model(write_mert(tmp_path / "whole"), layer=4)


@pytest.mark.parametrize("module", [mert_95m, mert_330m, mert_95m_public, clap_music])
def test_weights_are_fetched_on_request_alone(module, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PeerError, match="--model-options") as told:
        module.load_model()
    (line,) = told.value.lines
    assert module.CARD.repository in line
    assert len(line) < 280
    with pytest.raises(PeerError, match="cannot be reached"):
        module.load_model(download=True)
    with pytest.raises(PeerError, match=r"no config\.json"):
        module.load_model(tmp_path)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_one_copy_of_the_weights_is_fetched(tmp_path, monkeypatch, kind):
    source, cache, asked = write_mert(tmp_path / "hub"), tmp_path / "cache", []
    if kind == "safetensors":
        (source / "model.safetensors").touch()
    cache.mkdir()

    def snapshot_download(repository, local_files_only=False, allow_patterns=()):
        assert (repository, local_files_only) == ("m-a-p/MERT-v1-95M", False)
        for file in (file for pattern in allow_patterns for file in source.glob(pattern)):
            asked.append(file.name)
            (cache / file.name).write_bytes(file.read_bytes())
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    weights = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    assert find_folder(mert_95m.CARD, "", download=True) == cache
    assert sorted(asked) == sorted(["config.json", "preprocessor_config.json", weights])
    asked.clear()
    find_folder(mert_95m.CARD, "", download=True, code=True)
    assert "own_code.py" in asked


# ------------------------------------------------------------------------------------------
# CLAP and CLMR
# ------------------------------------------------------------------------------------------


def test_clap_is_what_its_class_gives(tmp_path):
    folder = write_clap(tmp_path / "clap")
    sound = noise(2, 70_000)
    features = transformers.ClapFeatureExtractor.from_pretrained(folder)(
        list(sound.numpy()), sampling_rate=48_000, return_tensors="pt"
    )
    tower = transformers.ClapAudioModelWithProjection.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = tower(input_features=features.input_features).audio_embeds
    actual = clap_music.get_scene_embeddings(sound, clap_music.load_model(folder))
    expected = torch.nn.functional.normalize(expected, dim=-1)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("content", ["", "[1]", '{"a": '])
@pytest.mark.parametrize(("module", "write"), [(mert_95m, write_mert), (clap_music, write_clap)])
def test_damaged_settings_are_named(tmp_path, module, write, content):
    folder = write(tmp_path / "weights")
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: ") as told:
        module.load_model(folder)
    assert len(told.value.lines) == 1


def test_a_clap_that_draws_is_refused(tmp_path):
    with pytest.raises(PeerError, match="draws at random"):
        clap_music.load_model(write_clap(tmp_path / "clap", enable_fusion=True))


def literal_sample_cnn(state, audio):
    """SampleCNN written out: one convolution after another."""
    x = audio[:, None]
    for number in range(11):
        name = f"encoder.sequential.{number}"
        weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
        stride, padding = (3, 0) if number == 0 else (1, 1)
        x = torch.nn.functional.conv1d(x, weight, bias, stride=stride, padding=padding)
        mean, variance = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
        x = (x - mean[:, None]) / (variance[:, None] + 1e-5).sqrt()
        x = x * state[f"{name}.1.weight"][:, None] + state[f"{name}.1.bias"][:, None]
        x = x.relu()
        if 1 <= number <= 9:
            x = x.unflatten(2, (-1, 3)).amax(3)
    return x[:, :, 0]


def test_clmr_is_the_network_written_out(tmp_path):
    path = write_clmr(tmp_path / "clmr.pt")
    state = torch.load(path, weights_only=True)
    assert len([name for name in state if name.endswith(".0.weight") and "seq" in name]) == 11
    assert state["encoder.sequential.9.0.weight"].shape == (512, 256, 3)
    sound = noise(2, 3**10)
    actual = clmr.get_scene_embeddings(sound, clmr.load_model(path))
    torch.testing.assert_close(actual, literal_sample_cnn(state, sound), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prefix", "wrap"), [("", False), ("model.encoder.", True)])
def test_clmr_reads_every_layout(tmp_path, prefix, wrap):
    sound = noise(1, 50_000)
    paths = [
        write_clmr(tmp_path / "release.pt"),
        write_clmr(tmp_path / "other.ckpt", prefix=prefix, wrap=wrap),
    ]
    first, second = (clmr.get_scene_embeddings(sound, clmr.load_model(path)) for path in paths)
    torch.testing.assert_close(first, second)


def test_clmr_of_another_kind_is_refused(tmp_path):
    with pytest.raises(PeerError, match="clmr needs --model FILE"):
        clmr.load_model()
    with pytest.raises(PeerError, match="cannot be read"):
        clmr.load_model(tmp_path / "absent.pt")
    path = write_clmr(tmp_path / "clmr.pt")
    whole = torch.load(path, weights_only=True)
    for changed, told in (
        ({"a": torch.zeros(1)}, "holds no encoder"),
        (whole | {"other.sequential.0.0.weight": torch.zeros(1)}, "holds 2 encoders"),
        (whole | {"encoder.sequential.3.0.weight": torch.zeros(1)}, r"sequential\.3\.0\.weight"),
        (whole | {"encoder.sequential.11.0.weight": torch.zeros(1)}, r"sequential\.11\.0\.weight"),
        ([1], "holds no encoder"),
    ):
        torch.save(changed, path)
        with pytest.raises(PeerError, match=told):
            clmr.load_model(path)


# ------------------------------------------------------------------------------------------
# Dasheng
# ------------------------------------------------------------------------------------------


def test_dasheng_is_what_its_class_gives(tmp_path):
    path = write_dasheng(tmp_path / "d.pt")
    content = torch.load(path, weights_only=True)
    encoder = dasheng_package().Dasheng(embed_dim=32, depth=2, num_heads=2).eval()
    encoder.load_state_dict(content["model"])
    sound = noise(1, 16_000)
    with torch.no_grad():
        expected = encoder(sound).mean(1)
    actual = dasheng.get_scene_embeddings(sound, dasheng.load_model(path))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_dasheng_of_another_kind_is_refused(tmp_path):
    with pytest.raises(PeerError, match=r"dasheng needs .*zenodo"):
        dasheng.load_model()
    path = write_dasheng(tmp_path / "d.pt")
    content = torch.load(path, weights_only=True)
    for changed in (
        {},
        [1],
        {**content, "model": {}},
        {**content, "config": {"target_length": "x"}},
    ):
        torch.save(changed, path)
        with pytest.raises(PeerError, match=r"d\.pt: cannot be read as a Dasheng"):
            dasheng.load_model(path)
    content["model"].popitem()
    torch.save(content, path)
    with pytest.raises(PeerError, match="Missing key"):
        dasheng.load_model(path)
