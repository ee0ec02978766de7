"""What training does on a CUDA device alone: frames from the host, recorded steps, their rates."""

from dataclasses import replace

import pytest
import torch
from tiny_store import write_store

from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.pretraining.run.plan import plan_run
from myna_plugin.pretraining.run.run_files import read_table
from myna_plugin.pretraining.run.settings import PretrainSettings
from myna_plugin.pretraining.run.trainer import Trainer, train
from myna_plugin.pretraining.step.crops import ViewSampler
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from myna_plugin.pretraining.step.objective import ContrastiveObjective
from myna_plugin.pretraining.step.optimiser import (
    OPTIMISERS,
    build_optimiser,
    rate_at,
    set_learning_rate,
)
from myna_plugin.pretraining.step.patches import HostViews, ResidentFrames, all_tokens
from myna_plugin.pretraining.step.training_step import EAGER_STEPS, TrainingStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

BOTH = ("square", "vertical")

TINY = PretrainSettings(
    size="vit-ti",
    depth=1,
    projector=(32,),
    batch_size=4,
    max_steps=24,
    log_every=4,
    monitor_every=12,
    checkpoint_every=12,
    device="cuda",
    precision="float32",
    tensorboard=False,
)

PROBES = {"probe_tasks": ("any",), "probe_every": 8}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("data") / "store")


def cpu_sampler(store):
    return ViewSampler(store.offsets, store.frames, batch_size=4, patchings=BOTH, seed=3)


def flat_weights(encoder):
    return torch.cat([p.detach().flatten() for p in encoder.parameters()]).cpu()


@pytest.mark.parametrize("whole", [False, True])
def test_views_from_the_host_hold_the_patches_of_resident_frames(store, whole):
    resident = ResidentFrames(store, "cuda")
    draws = cpu_sampler(store)
    host = HostViews(store, cpu_sampler(store), "cuda", whole=whole)
    for step, views in enumerate(host.stream(2, 12), 2):
        assert views.patches.is_cuda
        expected = draws.draw(step).to(torch.device("cuda"))
        assert torch.equal(views.tokens, expected.tokens)
        wanted = all_tokens(expected.tokens, 96) if whole else expected.tokens
        for group, patching in enumerate(BOTH):
            patches = resident.patches(
                expected.starts[group].flatten(), wanted[group].flatten(0, 1).contiguous(), patching
            )
            assert torch.equal(views.patches[group].flatten(0, 1).float(), patches)


@pytest.mark.parametrize(
    "changes", [{}, {"objective": "mae", "decoder_depth": 1, "mask_ratio": 0.75}]
)
def test_training_from_the_host_equals_training_from_resident_frames(
    store, tmp_path, monkeypatch, changes
):
    """The same views by both ways; as set, each way draws its own where its frames are."""
    losses, weights = {}, {}
    config = replace(TINY, **changes).encoder_config()
    begun = initialise(MynaEncoder(config), TINY.seed)
    for frames_on in ("host", "device"):
        settings = replace(TINY, frames_on=frames_on, **changes)
        plan = plan_run(settings, store, tmp_path / frames_on, resume=False)
        trainer = Trainer(plan, torch.device("cuda"), lambda _: None)
        assert (trainer.resident is None) == (frames_on == "host")
        if frames_on == "device":
            resident, trainer.resident = trainer.resident, None
            draws = trainer._build_sampler(plan.trained, settings.batch_size, trainer.device)
            trainer.resident = resident
            monkeypatch.setattr(
                trainer,
                "_views",
                lambda draws=draws: (
                    draws.draw(step).to(torch.device("cuda")) for step in range(24)
                ),
            )
        trainer.run()
        rows = read_table(tmp_path / frames_on / "train.csv")
        losses[frames_on] = [float(row["loss"]) for row in rows]
        weights[frames_on] = flat_weights(trainer.encoder)
    assert len(losses["host"]) == 6
    assert losses["host"] == pytest.approx(losses["device"], rel=1e-4)
    way = (weights["device"] - flat_weights(begun)).norm()
    assert way > 0
    assert (weights["host"] - weights["device"]).norm() < 0.02 * way


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_recorded_step_follows_the_learning_rate(store, name):
    """A schedule by graph equals one step by step, and differs from a rate that stays."""
    frames = ResidentFrames(store, "cuda")
    config = EncoderConfig(BOTH, 64, 1, 1, 96, projector=(32,))
    begun = flat_weights(initialise(MynaEncoder(config), 0))
    ends = {}
    for schedule, graph in (("cosine", False), ("cosine", True), ("constant", True)):
        encoder = initialise(MynaEncoder(config), 0).to("cuda")
        objective = ContrastiveObjective(encoder, ContrastiveLoss(n_groups=2).to("cuda"), frames)
        optimiser = build_optimiser(name, encoder, 1e-3, scheduled=True)
        take = TrainingStep(objective, optimiser, graph)
        draws = cpu_sampler(store)
        for step in range(EAGER_STEPS + 20):
            set_learning_rate(optimiser, rate_at(step, EAGER_STEPS + 20, 1e-3, schedule))
            take(draws.draw(step).to(torch.device("cuda")))
        assert (take._captured is not None) == graph
        ends[schedule, graph] = flat_weights(encoder)
    way = (ends["cosine", False] - begun).norm()
    assert (ends["cosine", True] - ends["cosine", False]).norm() < 0.02 * way
    assert (ends["constant", True] - ends["cosine", False]).norm() > 0.1 * way


def test_a_probe_between_recorded_steps_changes_nothing(store, tmp_path):
    def probe(encoder):
        crops = torch.rand(64, 128, 96, device="cuda")
        vectors = encoder(crops, "square")
        for parameter in encoder.parameters():
            parameter.zero_()
        return {"any": vectors.std().item()}

    losses = []
    for name, settings in (("plain", TINY), ("probed", replace(TINY, **PROBES))):
        plan = plan_run(settings, store, tmp_path / name, resume=False)
        train(plan, lambda _: None, probe)
        rows = read_table(plan.folder.table)
        losses.append([float(row["loss"]) for row in rows])
        assert [row["step"] for row in rows if row.get("probe_any")] == (
            ["8", "16", "24"] if name == "probed" else []
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_scheduled_run_goes_on_where_it_stopped(store, tmp_path):
    settings = replace(TINY, schedule="cosine", warmup_steps=4, clips_per_block=2)
    train(plan_run(settings, store, tmp_path, resume=False), lambda _: None)
    whole = [float(row["loss"]) for row in read_table(tmp_path / "train.csv")]
    (tmp_path / "checkpoints" / "step-00000024.pt").unlink()
    (tmp_path / "final.safetensors").unlink()
    plan = plan_run(settings, store, tmp_path, resume=True)
    assert plan.first_step == 12
    train(plan, lambda _: None)
    again = [float(row["loss"]) for row in read_table(tmp_path / "train.csv")]
    assert again[:3] == whole[:3]
    assert again == pytest.approx(whole, rel=1e-2)
