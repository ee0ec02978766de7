"""CLMR's training: pairs, chain, loss, and runs that go on."""

import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from myna_plugin.common.errors import InputError
from myna_plugin.common.locks import locked
from myna_plugin.peers.clmr import SAMPLE_RATE, WINDOW, get_scene_embeddings, load_model
from recipes.clmr import augmentations, pretrain
from recipes.clmr.augmentations import build_chain, delay, reverb
from recipes.clmr.pretrain import Clmr, Pairs, Settings, Training, main
from recipes.clmr.waveforms import Waveforms

PIECE = 30 * SAMPLE_RATE


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Samples that tell where they lie: no two within a sound are alike for 59,049 samples."""
    folder = tmp_path_factory.mktemp("store")
    lengths = [2 * PIECE + WINDOW, WINDOW - 1, WINDOW, PIECE + WINDOW - 1]
    rng = np.random.default_rng(0)
    rng.integers(-9000, 9000, sum(lengths)).astype("<i2").tofile(folder / "waveforms.int16")
    rows = [{"audio": "/music", "sample_rate": SAMPLE_RATE}]
    rows += [{"path": f"{i}.wav", "samples": n} for i, n in enumerate(lengths)]
    lines = [json.dumps(row) for row in [*rows, {"sounds": len(lengths)}]]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n")
    return Waveforms(folder)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(pretrain, "build_chain", lambda: lambda samples, sample_rate: samples)


def test_an_epoch_takes_every_piece_once_and_both_views_of_it(store, plain):
    pairs = Pairs(store, Settings(batch_size=2))
    starts = [0, PIECE, 2 * PIECE, 2 * PIECE + 2 * WINDOW - 1, 2 * PIECE + 3 * WINDOW - 1]
    assert pairs.pieces[:, 0].tolist() == starts
    assert pairs.pieces[:, 1].tolist() == [PIECE, PIECE, WINDOW, WINDOW, PIECE]
    assert pairs.steps_per_epoch == 2
    epochs = []
    for epoch in range(2):
        taken = []
        for step in (2 * epoch, 2 * epoch + 1):
            views = np.round(pairs[step].numpy() * 32_767)
            assert views.shape == (2, 2, 1, WINDOW)
            for pair in range(2):
                places = [find(store.samples, views[view, pair, 0]) for view in range(2)]
                pieces = {np.searchsorted(starts, place, "right") - 1 for place in places}
                assert len(pieces) == 1
                (piece,) = pieces
                assert max(places) + WINDOW <= pairs.pieces[piece].sum()
                taken.append(piece)
        assert len(set(taken)) == 4  # of five: the fifth fills no batch
        epochs.append(taken)
    assert epochs[0] != epochs[1]
    assert pairs[3].equal(pairs[3])
    assert not pairs[3].equal(Pairs(store, Settings(batch_size=2, seed=1))[3])


def find(samples, crop):
    """Where a crop lies."""
    candidates = np.flatnonzero(samples[: len(samples) - WINDOW + 1] == crop[0])
    (place,) = (i for i in candidates if np.array_equal(samples[i : i + 9], crop[:9]))
    assert np.array_equal(samples[place : place + WINDOW], crop)
    return int(place)


def test_an_echo_comes_once_at_half_the_volume():
    random.seed(0)
    impulse = np.zeros(SAMPLE_RATE, np.float32)
    impulse[0] = 1
    seen = set()
    for _ in range(60):
        echoed = delay(impulse, SAMPLE_RATE)
        first, second = np.flatnonzero(echoed)
        assert (first, echoed[first], echoed[second]) == (0, 0.5, 0.25)
        seen.add(round(1000 * second / SAMPLE_RATE))
    assert seen == {200, 250, 300, 350, 400, 450}


def test_a_room_keeps_the_loudness_and_dies_away(monkeypatch):
    np.random.seed(0)
    noise = (0.1 * np.random.standard_normal(WINDOW)).astype(np.float32)
    noise[SAMPLE_RATE:] = 0
    monkeypatch.setattr(augmentations.random, "uniform", lambda low, high: 0.5)  # seconds
    monkeypatch.setattr(augmentations.random, "random", lambda: 1.0)  # nothing but the room
    heard = reverb(noise, SAMPLE_RATE)
    assert heard.dtype == np.float32
    assert np.square(heard).mean() == pytest.approx(np.square(noise).mean(), rel=1e-3)
    early, late = (
        np.square(heard[SAMPLE_RATE + at : SAMPLE_RATE + at + 1000]).mean()
        for at in (500, 500 + SAMPLE_RATE // 4)
    )
    # 60 dB in half a second are 30 in a quarter.
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)


def test_the_chain_follows_its_seeds_and_changes_the_sound():
    sound = (0.1 * np.random.default_rng(0).standard_normal(WINDOW)).astype(np.float32)
    chain = build_chain()

    def apply(seed):
        random.seed(seed)
        np.random.seed(seed)
        return chain(sound, sample_rate=SAMPLE_RATE)

    assert [step.p for step in chain.transforms] == [0.8, 0.01, 0.3, 0.8, 0.3, 0.6, 0.6]
    results = [apply(seed) for seed in (0, 0, 1, 2)]
    assert np.array_equal(results[0], results[1])
    assert len({result.tobytes() for result in results}) == 3
    assert all(result.shape == sound.shape and np.isfinite(result).all() for result in results)


def test_the_loss_is_nt_xent_of_the_projections(store):
    torch.manual_seed(0)
    model = Clmr(Settings(temperature=0.5)).eval()
    views = 0.1 * torch.randn(2, 3, 1, WINDOW)
    with torch.no_grad():
        z = torch.cat([model.projector(model.encoder.sequential(own).flatten(1)) for own in views])
        similar = torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=-1) / 0.5
        similar.fill_diagonal_(-torch.inf)
        expected = torch.nn.functional.cross_entropy(similar, torch.tensor([3, 4, 5, 0, 1, 2]))
        assert model(views).item() == pytest.approx(expected.item(), abs=1e-5)
    assert z.shape == (6, 64)


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(store, plain, tmp_path):
    settings = Settings(batch_size=2)
    begin = partial(Training, store, settings=settings, device="cpu", workers=0)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    begin(out=tmp_path / "whole").run(4, 1e6, 2)
    for steps in (3, 4):
        training = begin(out=tmp_path / "parts")
        training.run(steps, 1e6, 100)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert parts["step"] == whole["step"] == 4
    for name, tensor in whole["model"].items():
        assert tensor.equal(parts["model"][name]), name
    assert (tmp_path / "parts" / "train.csv").read_text().count("\n") == 3

    model = load_model(tmp_path / "whole" / "clmr.pt")
    assert not model.state_dict()["sequential.0.0.weight"].equal(
        Clmr(settings).encoder.state_dict()["sequential.0.0.weight"]
    )
    embedding = get_scene_embeddings(torch.randn(1, 2 * WINDOW).clamp(-1, 1), model)
    assert embedding.shape == (1, 512)
    assert embedding.isfinite().all()
    assert begin(out=tmp_path / "whole").run(4, 1e6, 2) is None  # nothing is left to do
    assert begin(out=tmp_path / "whole").run(9, 1e-9, 2) is None  # nor any time
    with pytest.raises(InputError, match="begun with batch_size=2"):
        Training(store, tmp_path / "whole", Settings(batch_size=3), "cpu", 0)


def test_a_run_goes_on_with_its_own_store_alone(store, plain, tmp_path):
    rows = [json.loads(line) for line in (store.path / "index.jsonl").read_text().splitlines()]
    rows[1]["sha256"] = "of other sounds as long"
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store.samples[::-1].tofile(other / "waveforms.int16")
    settings = Settings(batch_size=2)
    Training(store, tmp_path, settings, "cpu", 0).run(1, 1e6, 1)
    with pytest.raises(InputError, match="begun with store="):
        Training(Waveforms(other), tmp_path, settings, "cpu", 0)


def test_a_finished_run_has_its_encoder_whenever_it_was_killed(store, plain, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def save_one(*given):
        if any(tmp_path.glob("*.pt")):
            raise Killed
        torch_save(*given)

    torch_save, settings = torch.save, Settings(batch_size=2)
    monkeypatch.setattr(torch, "save", save_one)
    with pytest.raises(Killed):
        Training(store, tmp_path, settings, "cpu", 0).run(1, 1e6, 1)
    monkeypatch.setattr(torch, "save", torch_save)
    Training(store, tmp_path, settings, "cpu", 0).run(1, 1e6, 1)
    assert {"checkpoint.pt", "clmr.pt"} <= {path.name for path in tmp_path.iterdir()}


def test_the_command_says_what_is_wrong(store, tmp_path):
    def ends(*arguments):
        result = CliRunner().invoke(main, [*map(str, arguments)])
        return result.exit_code, result.output

    code, output = ends(store.path, tmp_path / "out")
    assert (code, "5 pieces of 30 s, fewer than a batch of 48" in output) == (2, True)
    assert not (tmp_path / "out").exists()
    code, output = ends(tmp_path, tmp_path / "out")
    assert (code, "no finished store of waveforms" in output) == (2, True)
    arguments = ("--steps", 1, "--batch-size", 2, "--workers", 0, "--device", "cpu")
    code, output = ends(store.path, tmp_path / "out", *arguments)
    assert (code, "1 steps" in output) == (0, True)
    with locked(tmp_path / "out" / "lock", "busy"):
        code, output = ends(store.path, tmp_path / "out", *arguments)
    assert (code, "another process is training there" in output) == (2, True)
    for other in ({}, [1], {"begun": {"rate": 3}}):
        torch.save(other, tmp_path / "out" / "checkpoint.pt")
        code, output = ends(store.path, tmp_path / "out", *arguments)
        assert (code, "give another OUT" in output) == (2, True)
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"torn")
    code, output = ends(store.path, tmp_path / "out", *arguments)
    assert (code, "damaged" in output) == (2, True)
