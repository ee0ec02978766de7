"""The contract of s3prl's upstreams.

s3prl is not installed for these tests: 0.4.18 asks for much that nothing here needs. The contract
is written out from its source (`s3prl/hub.py`, `s3prl/nn/upstream.py`); the real `S3PRLUpstream`
has been run by hand, see docs/adapters.md.
"""

import importlib.util
import sys
import warnings

import pytest
import torch

from myna_plugin import get_timestamp_embeddings, load_model
from myna_plugin.common.torchaudio_bridge import load_torchaudio

NAME = "myna_plugin.adapters.s3prl"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for `s3prl.hub`: a module whose callables are the upstreams."""
    (tmp_path / "s3prl").mkdir()
    for name in ("__init__.py", "hub.py"):
        (tmp_path / "s3prl" / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("s3prl", "s3prl.hub", NAME):
        monkeypatch.delitem(sys.modules, name, raising=False)
    torchaudio = load_torchaudio()
    before = set(vars(torchaudio))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        importlib.import_module(NAME)
    sys.modules["s3prl.hub"].told = [str(w.message) for w in told if "s3prl" in str(w.message)]
    yield sys.modules["s3prl.hub"]
    for name in set(vars(torchaudio)) - before:
        delattr(torchaudio, name)
    for name in ("s3prl", "s3prl.hub", "torchaudio.sox_effects", NAME):
        sys.modules.pop(name, None)


def test_what_torchaudio_lacks_is_put_there_and_told(hub):
    torchaudio = load_torchaudio()
    assert torchaudio.set_audio_backend("sox_io") is None
    from torchaudio.sox_effects import apply_effects_tensor

    with pytest.raises(RuntimeError, match="no sox effects"):
        apply_effects_tensor(torch.zeros(1, 8), 16_000, [["norm"]])
    assert len(hub.told) == 1
    assert "stand-ins of set_audio_backend and sox_effects" in hub.told[0]
    assert sys.modules[NAME]._complete(torchaudio) == []


def test_torchaudio_is_left_alone_where_s3prl_is_not():
    assert not hasattr(load_torchaudio(), "set_audio_backend")
    assert "torchaudio.sox_effects" not in sys.modules


def test_importing_the_adapter_registers_the_upstream(hub, checkpoint, sound):
    upstream = hub.myna(ckpt=checkpoint, refresh=False)
    sounds = [sound[0, :70_000], sound[0, :16_000], sound[0, 9_000:25_000]]
    with torch.no_grad():
        result = upstream(sounds)
    states = result["hidden_states"]
    assert len(states) == 2
    assert all(state.shape == (3, 88, 128) for state in states)
    assert result["last_hidden_state"] is states[-1]

    model = load_model(checkpoint)
    for i, own in enumerate(sounds):
        expected, _ = get_timestamp_embeddings(own.unsqueeze(0), model)
        n = expected.shape[1]
        torch.testing.assert_close(states[-1][i, :n], expected[0], rtol=1e-5, atol=1e-5)
        assert not states[-1][i, n:].any()


@pytest.mark.parametrize("hop_ms", [20, 50])
def test_the_downsample_rate_is_what_the_lengths_show(hub, checkpoint, sound, hop_ms):
    upstream = hub.myna(checkpoint, hop_ms=hop_ms)
    rate = upstream.get_downsample_rates("hidden_states")
    assert type(rate) is int
    (state, *_) = upstream([sound[0]])["hidden_states"]
    assert abs(state.shape[1] - sound.shape[1] / rate) <= 1


def test_gradients_flow_where_they_are_wanted(hub, checkpoint, sound):
    upstream = hub.myna(checkpoint)
    assert not upstream([sound[0, :16_000]])["last_hidden_state"].requires_grad
    upstream.requires_grad_(True)
    upstream([sound[0, :16_000]])["last_hidden_state"].sum().backward()
    assert all(parameter.grad is not None for parameter in upstream.parameters())


def test_a_hop_between_samples_is_refused(hub, checkpoint):
    with pytest.raises(ValueError, match="whole number of samples"):
        hub.myna(checkpoint, hop_ms=33.33)


def test_without_s3prl_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    adapter = importlib.import_module(NAME)
    monkeypatch.setitem(sys.modules, "s3prl", None)
    with pytest.raises(ImportError, match="needs s3prl: pip install s3prl"):
        adapter.register()
