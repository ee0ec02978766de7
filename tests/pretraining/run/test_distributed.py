"""Two gloo processes on the CPU against one process, on the same global batch."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
from stand_ins import MemoryStore
from tiny_store import write_store

from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.pretraining.run import distributed
from myna_plugin.pretraining.step.crops import Views, ViewSampler
from myna_plugin.pretraining.step.losses import ContrastiveLoss
from myna_plugin.pretraining.step.objective import ContrastiveObjective
from myna_plugin.pretraining.step.patches import ResidentFrames

PATCHINGS = ("square", "vertical")
STEPS = 3
"""More than one, so that the averages of sogclr count."""

CASES = [
    (kind, tile_rows) for kind in ("decoupled", "nt_xent", "sogclr") for tile_rows in (None, 3)
]


def global_views():
    """The batches of all steps, of 6 clips each."""
    store = MemoryStore()
    sampler = ViewSampler(store.offsets, store.frames, batch_size=6, patchings=PATCHINGS)
    return [sampler.draw(step) for step in range(STEPS)]


def part_of(views, rank, world_size):
    """A process's part of a batch."""
    share = len(views.sounds) // world_size
    mine = slice(rank * share, (rank + 1) * share)
    return Views(
        views.sounds[mine], views.starts[:, :, mine], views.tokens[:, :, mine].contiguous()
    )


def losses_and_gradients(rank, world_size):
    """Of every case and step: losses averaged over processes, and the gradients updates use."""
    config = EncoderConfig(PATCHINGS, 64, 1, 1, 96, projector=(32, 16))
    frames = ResidentFrames(MemoryStore(), "cpu")
    results = []
    for kind, tile_rows in CASES:
        encoder = initialise(MynaEncoder(config), 0)
        loss = ContrastiveLoss(kind, tile_rows=tile_rows, n_samples=8, n_groups=2)
        objective = ContrastiveObjective(encoder, loss, frames)
        # A rate of 0 keeps the weights, so every step compares the same model.
        optimiser = torch.optim.SGD(encoder.parameters(), lr=0.0)
        distributed.average_before_update(optimiser)
        for views in global_views():
            optimiser.zero_grad()
            losses = objective(part_of(views, rank, world_size))
            losses.mean().backward()
            optimiser.step()
            gradient = torch.cat([p.grad.flatten() for p in encoder.parameters()])
            results.append((distributed.average(losses.detach()), gradient))
        if kind == "sogclr":
            results.append((loss.log_average.clamp_min(-100), torch.zeros(1)))
    return results


def work(rank, world_size, port, folder):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with distributed.process_group(torch.device("cpu")):
        results = losses_and_gradients(rank, world_size)
        flags = [
            distributed.any_process(rank == 1, torch.device("cpu")),
            distributed.any_process(False, torch.device("cpu")),
            distributed.agree(5, torch.device("cpu")),
            distributed.agree(5 + rank, torch.device("cpu")),
        ]
        torch.save({"results": results, "flags": flags}, f"{folder}/{rank}.pt")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_equal_one(tmp_path):
    mp.spawn(work, (2, free_port(), str(tmp_path)), nprocs=2)
    expected = losses_and_gradients(0, 1)
    assert len(expected) == len(CASES) * STEPS + 2
    for rank in range(2):
        told = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert told["flags"] == [True, False, True, False]
        for got, wanted in zip(told["results"], expected, strict=True):
            torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=1e-5)
            assert (got[1] - wanted[1]).norm() <= 1e-5 * wanted[1].norm()


def test_alone_nothing_is_exchanged():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    distributed.average_gradients([parameter])
    assert torch.equal(parameter.grad, torch.full((3,), 2.0))
    assert torch.equal(distributed.average(torch.ones(2)), torch.ones(2))
    assert distributed.agree(7, torch.device("cpu"))
    assert distributed.any_process(True, torch.device("cpu"))
    with distributed.process_group(torch.device("cpu")):
        assert distributed.is_first()
    distributed.wait_for_all()


@pytest.mark.slow
def test_torchrun_trains_and_resumes(tmp_path):
    store = write_store(tmp_path / "store")
    arguments = ["--store", str(store.path), "--out", str(tmp_path / "run"), "size=vit-ti"]
    arguments += ["depth=1", "batch_size=8", "max_steps=6", "log_every=2", "device=cpu"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-port", str(free_port()), "-m", "myna_plugin.recipes.pretrain", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for extra in (["max_steps=4"], ["--resume"]):
        result = subprocess.run([*launch, *extra], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
    assert result.stdout.count("load the model with") == 1
    assert (tmp_path / "run" / "final.safetensors").exists()
    result = subprocess.run(launch, capture_output=True, text=True, env=environment)
    assert result.returncode != 0
    assert result.stderr.count("already holds a run") == 1
