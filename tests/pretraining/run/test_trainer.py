"""Whole runs on a tiny model: resumption to the bit, stopping, divergence, and early refusals."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import published_state_dict
from safetensors.torch import load_file
from tiny_store import write_store

from myna_plugin import load_model
from myna_plugin.model.checkpoint import load_encoder, save_checkpoint
from myna_plugin.pretraining.run import trainer
from myna_plugin.pretraining.run.monitoring import choose_clips
from myna_plugin.pretraining.run.plan import checkpoint_bytes, plan_run
from myna_plugin.pretraining.run.run_files import RunError, WriteError, read_table
from myna_plugin.pretraining.run.settings import PretrainSettings
from myna_plugin.pretraining.run.trainer import DivergedError, Trainer, train

TINY = PretrainSettings(
    size="vit-ti",
    depth=1,
    projector=(32,),
    batch_size=4,
    max_steps=40,
    held_out_clips=4,
    log_every=5,
    monitor_every=20,
    checkpoint_every=20,
    keep_every=20,
    device="cpu",
    tensorboard=False,
)

DIES = """
import json, os, signal, sys
from pathlib import Path
from myna_plugin.pretraining.run.settings import PretrainSettings
from myna_plugin.pretraining.run.trainer import train
from myna_plugin.pretraining.run.plan import plan_run
from myna_plugin.pretraining.store.reading import Store

def die_after_the_8th(step, losses):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)

store, out, settings = sys.argv[1:]
settings = PretrainSettings().with_changes(json.loads(settings))
plan = plan_run(settings, Store.open(Path(store)), Path(out), resume=False)
train(plan, on_step=die_after_the_8th)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("data") / "store")


def run(settings, store, out, resume=False, say=lambda _: None, on_step=None):
    return train(plan_run(settings, store, out, resume), say, on_step=on_step)


def assert_same_state(first, second):
    """Two checkpoints, equal to the bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same_state(first[key], second[key])
    elif isinstance(first, list):
        for a, b in zip(first, second, strict=True):
            assert_same_state(a, b)
    else:
        assert first == second


def without_speed(path):
    return [row | {"examples_per_s": ""} for row in read_table(path)]


@pytest.mark.parametrize(
    "changes",
    [
        {"masking": "disjoint", "versions": 2, "version_stride": 2},
        {"loss": "sogclr", "clips_per_block": 2, "schedule": "cosine", "warmup_steps": 5},
    ],
)
def test_killed_and_resumed_equals_never_killed(store, tmp_path, changes):
    settings = replace(TINY, max_steps=12, log_every=1, checkpoint_every=6, keep_every=6, **changes)
    run(settings, store, tmp_path / "whole")

    (tmp_path / "child.py").write_text(DIES)
    arguments = [str(store.path), str(tmp_path / "killed"), json.dumps(settings.to_mapping())]
    # As many threads as here: sums in another order differ in the last bit.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    result = subprocess.run(
        [sys.executable, str(tmp_path / "child.py"), *arguments],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    killed = plan_run(settings, store, tmp_path / "killed", resume=True)
    assert killed.first_step == 6
    assert int(read_table(killed.folder.table)[-1]["step"]) > 6

    assert train(killed, lambda _: None).step == 12
    whole = plan_run(settings, store, tmp_path / "whole", resume=True)
    resumed = plan_run(settings, store, tmp_path / "killed", resume=True)
    assert_same_state(whole.state, resumed.state)
    assert without_speed(whole.folder.table) == without_speed(resumed.folder.table)
    assert whole.folder.final.read_bytes() == resumed.folder.final.read_bytes()
    assert any("log_average" in name for name in whole.state["objective"]) == ("loss" in changes)


def test_a_run_leaves_what_it_promises(store, tmp_path):
    said = []
    settings = replace(TINY, max_steps=10, tensorboard=True)
    outcome = run(settings, store, tmp_path, say=said.append)
    assert outcome.step == 10
    assert outcome.stopped_by is None
    assert f"myna_plugin.load_model('{tmp_path / 'final.safetensors'}')" in said[-1]
    rows = read_table(tmp_path / "train.csv")
    assert [row["step"] for row in rows] == ["5", "10"]
    assert float(rows[0]["epoch"]) == 1.0  # 24 clips less 4 held out, 4 at a time
    assert float(rows[0]["loss"]) == pytest.approx(
        (float(rows[0]["loss_square"]) + float(rows[0]["loss_vertical"])) / 2, rel=1e-6
    )
    assert rows[0]["rank"] == ""
    assert 1 < float(rows[1]["rank"]) <= 8
    assert (tmp_path / "loss.png").exists()
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))

    model = load_model(tmp_path / "final.safetensors")
    assert model.scene_embedding_size == 2 * 192
    state = plan_run(settings, store, tmp_path, resume=True).state
    weights = model.state_dict()
    name = next(name for name in weights if name.endswith("transformer.norm.weight"))
    trained = state["objective"]["encoder.transformer.norm.weight"]
    assert torch.equal(weights[name], trained)
    assert not torch.equal(trained, torch.ones_like(trained))


def test_the_learning_rate_follows_its_schedule(store, tmp_path):
    used = []
    changes = {"schedule": "cosine", "warmup_steps": 4, "learning_rate": 1e-3}
    settings = replace(TINY, max_steps=20, **changes)

    def note(step, losses):
        used.extend(group["lr"] for group in made.optimiser.param_groups)

    plan = plan_run(settings, store, tmp_path, resume=False)
    made = Trainer(plan, torch.device("cpu"), lambda _: None, on_step=note)
    made.run()
    assert used[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert used[4:] == pytest.approx(
        [0.5e-3 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    )
    told = {row["step"]: float(row["learning_rate"]) for row in read_table(tmp_path / "train.csv")}
    assert told == pytest.approx({str(step): used[step - 1] for step in (5, 10, 15, 20)})
    with pytest.raises(RunError, match=r"begun with max_steps=20 \(now 30\)"):
        plan_run(replace(settings, max_steps=30), store, tmp_path, resume=True)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """Weights of a run of three steps."""
    out = tmp_path_factory.mktemp("trained")
    run(replace(TINY, max_steps=3, seed=1), store, out)
    return out / "final.safetensors"


def initial_state(settings, store, out, say=lambda _: None, resume=False):
    plan = plan_run(settings, store, out, resume)
    return Trainer(plan, torch.device("cpu"), say).encoder.state_dict()


def test_a_run_starts_from_initial_weights(store, tmp_path, trained):
    settings = replace(TINY, initial_weights=str(trained))
    said = []
    assert_same_state(initial_state(settings, store, tmp_path, said.append), load_file(trained))
    assert not said
    run(settings, store, tmp_path / "run")
    assert not torch.equal(
        load_file(tmp_path / "run" / "final.safetensors")["linear_head.0.weight"],
        load_file(trained)["linear_head.0.weight"],
    )


def test_what_may_be_other_than_of_the_initial_weights(store, tmp_path, trained):
    """Crops, projector, and how embeddings are pooled."""
    changes = {"projector": (64, 16), "crop_frames": 64}
    encoder = load_encoder(trained)
    encoder.config = replace(encoder.config, scene_layers=(1,), scene_pooling="mean-std")
    pooled = tmp_path / "pooled.safetensors"
    save_checkpoint(encoder, pooled)
    said = []
    random = initial_state(replace(TINY, **changes), store, tmp_path / "random")
    settings = replace(TINY, initial_weights=str(pooled), **changes)
    state = initial_state(settings, store, tmp_path / "run", said.append)
    expected = {k: v for k, v in load_file(trained).items() if "linear_head" not in k}
    expected |= {k: v for k, v in random.items() if "linear_head" in k}
    assert_same_state(state, {k: expected[k] for k in state})
    assert "no projector of these widths" in "".join(said)


def test_a_run_goes_on_without_its_initial_weights(store, tmp_path, trained):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(trained.read_bytes())
    settings = replace(TINY, initial_weights=str(weights))
    run(settings, store, tmp_path / "run")
    weights.unlink()
    state = initial_state(settings, store, tmp_path / "run", resume=True)
    assert_same_state(state, load_file(tmp_path / "run" / "final.safetensors"))
    # Without a checkpoint there is nothing to go on from.
    with pytest.raises(RunError, match=r"initial_weights: .*no such file"):
        plan_run(settings, store, tmp_path / "another", resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 2}, "has depth 1 instead of 2"),
        ({"patchings": ("vertical",)}, "has patchings"),
        ({"log_mel": True}, "has log_mel False instead of True"),
        (
            {"log_mel": True, "fixed_scaling": (1e3, 4.4, 3.0)},
            "log_mel False instead of True.*fixed_scaling None instead of",
        ),
        ({"size": "vit-s", "depth": 1}, "has embed_dim 192 instead of 384"),
    ],
)
def test_initial_weights_of_another_shape_are_refused(store, tmp_path, trained, changes, message):
    settings = replace(TINY, initial_weights=str(trained), **changes)
    with pytest.raises(RunError, match=rf"initial_weights: .*final.safetensors: .*{message}"):
        plan_run(settings, store, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("patching", ["square", "vertical"])
def test_published_weights_can_be_trained_further(store, tmp_path, patching):
    weights = published_state_dict(1, dim=192, depth=1, mlp_dim=768)
    torch.save(weights, tmp_path / "some.pth")
    settings = replace(TINY, patchings=(patching,), initial_weights=str(tmp_path / "some.pth"))
    state = initial_state(settings, store, tmp_path / "run")
    assert_same_state(
        {k: v for k, v in state.items() if "linear_head" not in k},
        {k: weights[k] for k in state if "linear_head" not in k},
    )


PROBED = replace(TINY, probe_tasks=("any",), probe_every=10)

GLOBAL_STATES = []
"""Of torch's global generator at the beginning of each probe."""


def intrusive_probe(encoder):
    """A score that follows the weights, and as much disturbance as a probe can make."""
    GLOBAL_STATES.append(torch.get_rng_state())
    torch.rand(7)
    weights = encoder.transformer.norm.weight
    score = weights.square().mean().item()
    assert not weights.requires_grad
    encoder.half().train()
    weights.data.zero_()
    return {"any": score, "less": 1 - score}


def test_probes_leave_training_as_it_is_and_resumption_exact(store, tmp_path):
    said = []
    plain = plan_run(TINY, store, tmp_path / "plain", resume=False)
    train(plain, lambda _: None)
    probed = plan_run(PROBED, store, tmp_path / "probed", resume=False)
    train(probed, said.append, intrusive_probe)
    assert all(torch.equal(state, GLOBAL_STATES[0]) for state in GLOBAL_STATES)
    states = [plan.folder.load_newest() for plan in (plain, probed)]
    for state in states:
        del state["settings"]
    assert_same_state(*states)

    rows = {int(row["step"]): row for row in read_table(probed.folder.table)}
    told = {step: row["probe_any"] for step, row in rows.items() if row["probe_any"]}
    assert list(told) == [10, 20, 30, 40]
    assert len(set(told.values())) == 4
    final = load_file(probed.folder.final)["transformer.norm.weight"]
    assert float(told[40]) == pytest.approx(final.square().mean().item(), rel=1e-6)

    part = replace(PROBED, max_steps=20)
    train(plan_run(part, store, tmp_path / "parts", resume=False), lambda _: None, intrusive_probe)
    parts = plan_run(PROBED, store, tmp_path / "parts", resume=True)
    train(parts, lambda _: None, intrusive_probe)
    assert without_speed(parts.folder.table) == without_speed(probed.folder.table)
    best = [load_file(plan.folder.best_probe) for plan in (probed, parts)]
    assert_same_state(*best)


def test_the_best_probe_is_named_and_its_encoder_kept(store, tmp_path):
    scores = iter([0.2, 0.7, 0.7, 0.1])
    seen, said = [], []

    def probe(encoder):
        seen.append(encoder.transformer.norm.weight.clone())
        return {"any": next(scores)}

    train(plan_run(PROBED, store, tmp_path, resume=False), said.append, probe)
    assert [line for line in said if "on validation" in line][-1] == (
        "best probe on validation: any 0.700, after step 20"
    )
    assert f"  {tmp_path / 'best_probe.safetensors'}" in said
    kept = load_file(tmp_path / "best_probe.safetensors")["transformer.norm.weight"]
    assert torch.equal(kept, seen[1])
    # The last three of the probes' steps, and what stays for good.
    folder = plan_run(PROBED, store, tmp_path, resume=True).folder
    assert folder.saved_steps() == [20, 30, 40]
    assert load_model(tmp_path / "best_probe.safetensors").scene_embedding_size == 2 * 192


def test_without_probe_every_the_end_alone_is_probed(store, tmp_path):
    settings = replace(PROBED, probe_every=0, max_steps=12)
    run_with = plan_run(settings, store, tmp_path, resume=False)
    train(run_with, lambda _: None, lambda _: {"any": 0.5})
    rows = read_table(tmp_path / "train.csv")
    assert [row["step"] for row in rows if row["probe_any"]] == ["12"]


def test_a_probe_that_fails_does_not_end_the_run(store, tmp_path):
    def probe(encoder):
        if len(said) < 1:
            raise OSError("the disk with the task has gone")
        return {"any": 0.5}

    said = []
    outcome = train(plan_run(PROBED, store, tmp_path, resume=False), said.append, probe)
    assert outcome.step == 40
    assert said[0] == "step 10: the probe failed (the disk with the task has gone)"
    rows = read_table(tmp_path / "train.csv")
    assert [row["step"] for row in rows if row["probe_any"]] == ["20", "30", "40"]


def test_without_matplotlib_a_run_ends_well_and_says_what_is_missing(store, tmp_path, monkeypatch):
    def refuse(*_):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.figure")

    monkeypatch.setattr("myna_plugin.pretraining.run.monitoring.new_figure", refuse)
    said = []
    run(replace(TINY, max_steps=4), store, tmp_path, say=said.append)
    assert ["pip install matplotlib" in line for line in said].count(True) == 1
    assert "load_model" in said[-1]
    assert load_model(tmp_path / "final.safetensors").encoder.config.depth == 1
    assert not (tmp_path / "loss.png").exists()


def test_a_finished_run_is_not_trained_again(store, tmp_path, monkeypatch):
    first = run(replace(TINY, max_steps=4), store, tmp_path)
    monkeypatch.setattr(trainer, "Trainer", None)
    said = []
    again = run(replace(TINY, max_steps=4), store, tmp_path, resume=True, say=said.append)
    assert again == first
    assert "already finished after 4 steps" in said[0]


def test_a_finished_run_can_be_made_longer(store, tmp_path):
    run(replace(TINY, max_steps=4), store, tmp_path / "longer")
    run(replace(TINY, max_steps=8), store, tmp_path / "longer", resume=True)
    run(replace(TINY, max_steps=8), store, tmp_path / "whole")
    finals = [load_file(tmp_path / name / "final.safetensors") for name in ("longer", "whole")]
    assert_same_state(*finals)


def test_a_run_from_a_gpu_goes_on_on_a_cpu(store, tmp_path):
    run(replace(TINY, max_steps=2), store, tmp_path)
    plan = plan_run(TINY, store, tmp_path, resume=True)
    for group in plan.state["optimiser"]["param_groups"]:
        group.update(fused=True, capturable=True)  # as `build_optimiser` sets them on a GPU
    assert train(plan, lambda _: None).step == 40


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(store, tmp_path, number):
    def interrupt(step, losses):
        if step == 7:
            os.kill(os.getpid(), number)

    outcome = run(TINY, store, tmp_path, on_step=interrupt)
    assert (outcome.step, outcome.stopped_by) == (7, number)
    assert not (tmp_path / "final.safetensors").exists()
    assert plan_run(TINY, store, tmp_path, resume=True).first_step == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loss_that_is_not_finite_stops_and_names_the_last_checkpoint(store, tmp_path):
    def diverge(step, losses):
        if step == 23:
            losses.fill_(torch.nan)

    with pytest.raises(
        DivergedError, match=r"loss is nan in steps 21 to 25; .* is .*step-00000020\.pt"
    ):
        run(TINY, store, tmp_path, on_step=diverge)
    assert plan_run(TINY, store, tmp_path, resume=True).folder.saved_steps() == [20]


def test_weights_that_are_not_finite_are_not_saved(store, tmp_path, monkeypatch):
    plan = plan_run(TINY, store, tmp_path, resume=False)
    made = Trainer(plan, torch.device("cpu"), lambda _: None)
    with torch.no_grad():
        made.encoder.transformer.norm.bias[3] = torch.inf
    with pytest.raises(DivergedError, match=r"weights are not finite .* no checkpoint yet"):
        made._save(20)
    assert plan.folder.saved_steps() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 32},
            "20 clips to train on, fewer than one batch of 32; say batch_size=20",
        ),
        ({"crop_frames": 144}, "14 clips of the store are shorter than a crop of 144 frames"),
        ({"held_out_clips": 22}, "are 2 clips to train on, .* of 4; .* \\(22 of 24 clips are held"),
        ({"held_out_clips": 24}, "held_out_clips=24 leaves none of its 24 clips.*=2, or so"),
        ({"held_out_clips": 1024}, "held_out_clips=1024 leaves none of its 24 clips"),
        ({"frames_on": "device"}, "frames_on: device needs a GPU"),
        ({"checkpoint_every": 1, "keep_every": 1, "epochs": 10**9, "max_steps": None}, "MB need"),
    ],
)
def test_refused_before_anything_is_trained(store, tmp_path, changes, message):
    with pytest.raises(RunError, match=message):
        plan_run(replace(TINY, **changes), store, tmp_path / "run", resume=False)


@pytest.mark.parametrize(
    ("block", "versions", "stride", "told"),
    [(1, 4, 1, "of files"), (6, 4, 1, "in blocks of 6"), (6, 2, 2, "in blocks of 6")],
)
def test_neighbours_are_no_versions_unless_made_so(tmp_path, block, versions, stride, told):
    store = write_store(tmp_path / "store", clips_per_block=block)
    settings = replace(TINY, versions=versions, version_stride=stride)
    message = rf"versions={versions} takes every 4 neighbouring clips .* {told}.*; say versions=1"
    with pytest.raises(RunError, match=message):
        plan_run(settings, store, tmp_path / "run", resume=False)
    settings = replace(settings, version_share=(0.0,))
    plan_run(settings, store, tmp_path / "run", resume=False)


@pytest.mark.parametrize(
    "changes", [{}, {"loss": "sogclr"}, {"objective": "mae", "decoder_depth": 2}]
)
def test_the_disk_needed_is_estimated_well(store, tmp_path, changes):
    settings = replace(TINY, max_steps=1, **changes)
    run(settings, store, tmp_path)
    (written,) = (tmp_path / "checkpoints").iterdir()
    estimate = checkpoint_bytes(settings, 20)
    assert estimate == pytest.approx(written.stat().st_size, rel=0.1)


def test_a_run_that_another_version_began_with_other_probes_goes_on(store, tmp_path):
    begun = replace(TINY, max_steps=2)
    run(begun, store, tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    state = torch.load(path, weights_only=True)
    state["settings"]["probe_grid"] = "linear"  # the default of 0.1.0
    torch.save(state, path)
    assert plan_run(begun, store, tmp_path / "run", resume=True).first_step == 2


def test_resumption_with_other_settings_or_store_is_refused(store, tmp_path):
    run(replace(TINY, max_steps=2), store, tmp_path / "run")
    with pytest.raises(RunError, match=r"begun with mask_ratio=0.9 \(now 0.5\), seed=0 \(now 3\)"):
        plan_run(replace(TINY, mask_ratio=0.5, seed=3), store, tmp_path / "run", resume=True)
    other = write_store(tmp_path / "other", seed=1)
    with pytest.raises(RunError, match=r"begun with another store than .*other"):
        plan_run(TINY, other, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="already holds a run"):
        plan_run(TINY, store, tmp_path / "run", resume=False)


@pytest.mark.parametrize(("clips_per_block", "versions"), [(1, 1), (4, 1), (1, 4)])
def test_held_out_clips_are_never_drawn(store, tmp_path, clips_per_block, versions):
    settings = replace(TINY, clips_per_block=clips_per_block, versions=versions)
    plan = plan_run(settings, store, tmp_path, resume=False)
    made = Trainer(plan, torch.device("cpu"), lambda _: None)
    _, held_out = choose_clips(24, 4, TINY.seed, settings.clips_together)
    forbidden = {
        int(frame)
        for clip in held_out
        for frame in range(store.offsets[clip], store.offsets[clip] + store.frames[clip])
    }
    assert set(plan.monitored) == set(held_out)
    for step in range(25):
        views = made.sampler.draw(step)
        assert not forbidden & set(views.starts.flatten().tolist())
        if clips_per_block == 4:
            # One block of the store fills a batch of 4.
            rows = plan.trained[views.sounds.numpy()]
            assert sorted(rows) == list(range(min(rows), min(rows) + 4))
            assert min(rows) % 4 == 0


def test_autoencoder_runs_and_draws(store, tmp_path):
    settings = replace(
        TINY,
        objective="mae",
        patchings=("square",),
        mask_ratio=0.75,
        decoder_depth=1,
        max_steps=20,
        learning_rate=1e-3,
    )
    run(settings, store, tmp_path / "whole")
    rows = read_table(tmp_path / "whole" / "train.csv")
    assert float(rows[-1]["loss"]) < 0.9 * float(rows[0]["loss"])
    picture = Path(tmp_path / "whole" / "reconstruction_square.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    run(replace(settings, max_steps=10), store, tmp_path / "parts")
    run(settings, store, tmp_path / "parts", resume=True)
    states = [
        plan_run(settings, store, tmp_path / name, resume=True).state for name in ("whole", "parts")
    ]
    states[1]["settings"]["max_steps"] = states[0]["settings"]["max_steps"]
    assert_same_state(*states)


def test_a_disk_that_fills_up_ends_the_run_with_the_last_checkpoint(store, tmp_path, monkeypatch):
    save = torch.save

    def full(state, file):
        if state["step"] > 20:
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match=r"No space left.*step-00000020\.pt"):
        run(TINY, store, tmp_path)
