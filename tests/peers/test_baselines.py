"""The baselines are what they claim: invariances, keys found by templates, the HEAR contract."""

import numpy as np
import pytest
import torch

from myna_plugin.peers import chroma, krumhansl, mel_statistics, mfcc, random_vit
from myna_plugin.probing.tasks.giantsteps import KEYS

RATE = 16_000
MODULES = (chroma, krumhansl, mel_statistics, mfcc, random_vit)
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}
TRIADS = {"major": (0, 4, 7), "minor": (0, 3, 7)}


def load(module):
    return module.load_model(**({"size": "vit-ti"} if module is random_vit else {}))


def tone(pitch: float, seconds: float) -> np.ndarray:
    """A note with five overtones."""
    time = np.arange(round(seconds * RATE)) / RATE
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    waves = [np.sin(2 * np.pi * k * frequency * time) / k for k in range(1, 6)]
    return np.sum(waves, axis=0) * np.exp(-2 * time)


def passage(key: str, detuning: float = 0.0) -> torch.Tensor:
    """A scale up and down over tonic triads, shape (1, S)."""
    tonic, mode = key.split()
    root = 48 + KEYS.index(f"{tonic} major")
    steps = [*SCALES[mode], 12]
    line = [tone(root + 12 + step + detuning, 0.25) for step in (*steps, *steps[::-1])]
    melody = np.concatenate(line)
    chord = sum(tone(root + step + detuning, 1.0) for step in TRIADS[mode])
    sound = melody + np.tile(chord, len(melody) // len(chord))
    return torch.from_numpy(0.1 * sound).float().unsqueeze(0)


@pytest.fixture(scope="module")
def templates():
    return krumhansl.load_model()


@pytest.mark.parametrize("key", KEYS)
def test_template_finds_the_key(templates, key):
    scores = krumhansl.get_scene_embeddings(passage(key), templates)
    assert KEYS[int(scores.argmax())] == key


@pytest.mark.parametrize("cents", [-20, 20])
def test_template_finds_the_key_out_of_tune(templates, cents):
    scores = krumhansl.get_scene_embeddings(passage("Eb minor", cents / 100), templates)
    assert KEYS[int(scores.argmax())] == "Eb minor"


def test_mel_statistics_against_numpy():
    model, sound = mel_statistics.load_model(), passage("A minor")
    mel = np.log(model.mel(sound).numpy() + mel_statistics.FLOOR)[0]
    change = np.abs(np.diff(mel, axis=1)).sum(1) / mel.shape[1]
    expected = np.concatenate([mel.mean(1), mel.std(1), change])
    actual = mel_statistics.get_scene_embeddings(sound, model)[0].numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_scene_contract(module):
    model = load(module)
    sounds = torch.cat([passage("C major"), passage("F minor")])
    vectors = module.get_scene_embeddings(sounds, model)
    assert vectors.shape == (2, model.scene_embedding_size)
    assert vectors.dtype == torch.float32
    assert not model.training
    alone = module.get_scene_embeddings(sounds[1:], model)
    torch.testing.assert_close(vectors[1:], alone, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(module.get_scene_embeddings(torch.zeros(1, RATE), model)).all()
    with pytest.raises(ValueError, match=r"weights\.pt"):
        module.load_model("weights.pt")


@pytest.mark.parametrize(
    "module", [chroma, mel_statistics, mfcc], ids=lambda module: module.__name__
)
def test_timestamp_contract(module):
    model, sound = load(module), passage("C major")
    vectors, times = module.get_timestamp_embeddings(sound, model)
    assert vectors.shape == (1, times.shape[1], model.timestamp_embedding_size)
    assert times[0, 0] == 0
    assert times[0, -1] <= 1000 * sound.shape[1] / RATE
