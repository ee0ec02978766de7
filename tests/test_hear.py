import copy
import importlib
import inspect
import io
import pickle
import warnings

import pytest
import torch

import myna_plugin
from myna_plugin import get_scene_embeddings, get_timestamp_embeddings, load_model


@pytest.fixture
def model(checkpoint):
    return load_model(str(checkpoint))


def test_the_contract_of_load_model(model):
    assert inspect.signature(load_model).parameters["model_file_path"].default == ""
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    for name, value in (
        ("sample_rate", 16_000),
        ("scene_embedding_size", 128),
        ("timestamp_embedding_size", 128),
    ):
        assert type(getattr(model, name)) is int
        assert getattr(model, name) == value


def test_the_contract_of_scene_embeddings(model, sound):
    embeddings = get_scene_embeddings(torch.cat([sound, sound, 0 * sound]), model)
    assert embeddings.shape == (3, model.scene_embedding_size)
    assert embeddings.dtype == torch.float32
    assert not embeddings.requires_grad
    assert embeddings.isfinite().all()


def test_the_contract_of_timestamp_embeddings(model, sound):
    embeddings, times = get_timestamp_embeddings(torch.cat([sound, sound]), model)
    assert embeddings.shape == (2, 241, model.timestamp_embedding_size)
    assert times.shape == (2, 241)
    assert embeddings.dtype == times.dtype == torch.float32
    assert times[0, 0] == 0
    assert times[0, -1] == 12_000
    assert (times.diff(dim=1) == 50).all()


def test_embeddings_can_be_trained_on(model, sound):
    """Tensors made in inference mode would be refused by autograd."""
    head = torch.nn.Linear(128, 2)
    head(get_scene_embeddings(sound, model)).sum().backward()
    head(get_timestamp_embeddings(sound, model)[0]).sum().backward()
    assert head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("embedding", "width"), [("auto", 128), ("hybrid", 128), ("square", 64), ("vertical", 64)]
)
def test_hybrid_is_the_concatenation_of_its_halves(checkpoint, sound, embedding, width):
    hybrid = get_scene_embeddings(sound, load_model(checkpoint))
    model = load_model(checkpoint, embedding=embedding)
    assert model.scene_embedding_size == model.timestamp_embedding_size == width
    expected = {"square": hybrid[:, :64], "vertical": hybrid[:, 64:]}.get(embedding, hybrid)
    torch.testing.assert_close(get_scene_embeddings(sound, model), expected)


@pytest.mark.parametrize("variant", ["square", "vertical"])
def test_variant_modules_load_their_patching_alone(checkpoint, sound, variant):
    module = importlib.import_module(f"myna_plugin.hear.{variant}")
    model = module.load_model(str(checkpoint))
    expected = load_model(checkpoint, embedding=variant)
    assert torch.equal(
        module.get_scene_embeddings(sound, model), get_scene_embeddings(sound, expected)
    )


def test_state_dict_round_trips(model, sound, tmp_path):
    other = load_model(tmp_path / "weights.pth")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(get_scene_embeddings(sound, other), get_scene_embeddings(sound, model))


def test_deepcopy_and_pickle_keep_the_embeddings(model, sound):
    expected = get_scene_embeddings(sound, model)
    buffer = io.BytesIO(pickle.dumps(model))
    for twin in (copy.deepcopy(model), pickle.load(buffer)):  # noqa: S301
        assert torch.equal(get_scene_embeddings(sound, twin), expected)
        assert twin.sample_rate == 16_000


def test_options_arrive_as_json_would_send_them(checkpoint, sound):
    options = {
        "model_file_path": str(checkpoint),
        "embedding": "vertical",
        "hop_ms": 25,
        "timestamp_layer": 2,
        "scene_layers": [1, 2],
        "scene_pooling": "mean-std",
        "tokens": 0.5,
        "batch_size": 4,
        "precision": "float32",
    }
    model = load_model(**options)
    embeddings, times = get_timestamp_embeddings(sound[:, :16_000], model)
    assert embeddings.shape == (1, 41, 64)
    assert times[0, 1] == 25
    assert get_scene_embeddings(sound, model).shape == (1, model.scene_embedding_size) == (1, 256)


def test_float64_audio_is_taken_as_float32(model, sound):
    assert torch.equal(
        get_scene_embeddings(sound.double(), model), get_scene_embeddings(sound, model)
    )


def test_numpy_arrays_and_halves_are_taken(model, sound):
    expected = get_scene_embeddings(sound, model)
    array = sound.numpy()
    for audio in (array, array.astype(">f8"), array[:, ::-1][:, ::-1]):
        assert torch.equal(get_scene_embeddings(audio, model), expected)
        assert torch.equal(
            get_timestamp_embeddings(audio, model)[0], get_timestamp_embeddings(sound, model)[0]
        )
    half = sound.bfloat16()
    assert torch.equal(get_scene_embeddings(half, model), get_scene_embeddings(half.float(), model))


@pytest.mark.parametrize("embed", [get_scene_embeddings, get_timestamp_embeddings])
def test_what_is_no_audio_and_no_model_is_refused(model, sound, embed):
    for audio in (None, "a.wav", [0.1, 0.2], sound.numpy().astype(int)):
        with pytest.raises(TypeError, match="audio must be a floating point tensor or array, got"):
            embed(audio, model)
    for audio in (sound.to("meta"), sound.to_sparse()):
        with pytest.raises(ValueError, match="audio must be a dense tensor"):
            embed(audio, model)
    for other in (None, "model", type(model)):
        with pytest.raises(TypeError, match="model must be what load_model returned"):
            embed(sound, other)


def test_the_default_model_is_a_hybrid_vit_s():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = myna_plugin.load_model()
    assert model.scene_embedding_size == 2 * 4 * 2 * 384  # statistics, blocks, patchings, width
    assert model.encoder.config.depth == 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("precision", "bound"), [("float32", 1e-3), ("bfloat16", 3e-2), ("float16", 1e-2)]
)
def test_cuda_agrees_with_the_cpu(checkpoint, sound, precision, bound):
    expected = get_scene_embeddings(sound, load_model(checkpoint))
    model = load_model(checkpoint, precision=precision).to("cuda")
    actual = get_scene_embeddings(sound.cuda(), model)
    assert actual.dtype == torch.float32
    assert ((actual.cpu() - expected).norm() / expected.norm()).item() < bound
