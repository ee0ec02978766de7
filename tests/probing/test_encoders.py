"""Probes of an encoder in memory: the same as those of its file, and what is refused."""

from typing import get_args, get_type_hints

import pytest
import torch
from hear_eval.generate_tasks import scene_task
from task_layouts import BUILDERS

from myna_plugin.common.errors import InputError
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.pretraining.run.settings import PretrainSettings
from myna_plugin.probing.embeddings import Handling, open_cache
from myna_plugin.probing.encoders import EncoderProbe, read_task, read_tasks
from myna_plugin.probing.experiment import Protocol, run
from myna_plugin.probing.heads import GRIDS
from myna_plugin.probing.modules import load_module
from myna_plugin.probing.tasks import check, load_task
from myna_plugin.probing.tasks.task_data import find_data


@pytest.fixture
def encoder():
    config = EncoderConfig(("square", "vertical"), 64, 1, 1, 96, projector=(32,))
    return initialise(MynaEncoder(config), 0)


def quiet(_: str) -> None:
    """Says nothing."""


def test_grids_are_those_that_the_settings_name():
    assert set(get_args(get_type_hints(PretrainSettings)["probe_grid"])) <= set(GRIDS)


def test_a_probe_in_memory_is_that_of_the_file(encoder, tmp_path):
    root = scene_task(tmp_path / "task")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    probe = EncoderProbe(read_tasks([str(root)], 2, quiet), "fast", "cpu", 2)
    state = torch.get_rng_state()
    (valid,), (test,) = probe(encoder).values(), probe.test(encoder).values()
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])

    save_checkpoint(encoder, tmp_path / "encoder.safetensors")
    module = load_module("myna_plugin", str(tmp_path / "encoder.safetensors"))
    task, items = load_task("hear", root)
    cache = open_cache(tmp_path / "cache", module)
    data = find_data(task, {0: items}, check(task, items))
    expected = run(data, module, cache, Protocol("fast"), Handling(1)).probed.results["hybrid"]
    assert valid == expected.valid_score
    assert test == {"accuracy": expected.scores["accuracy"][0]}
    assert valid > 0.8  # two octaves apart: even an untrained encoder hears that


def test_missing_clips_are_left_out_and_counted(tmp_path):
    root = scene_task(tmp_path / "pitches")
    (root / "48000" / "train" / "train3.wav").unlink()
    said = []
    read = read_task(str(root), 2, said.append)
    assert len(read.items) == 17
    assert said == ["pitches: 1 of 18 clips are left out"]


def test_a_task_whose_audio_is_not_there_says_which(tmp_path):
    root = scene_task(tmp_path / "task")
    for path in (root / "48000" / "train").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"no clips in split 'train'; left out: 6 .*train.*.wav"):
        read_task(str(root), 2, quiet)


def test_one_of_the_papers_tasks_by_its_name(tmp_path):
    root = tmp_path / "emomusic"
    root.mkdir()
    BUILDERS["emomusic"]["jukemir"](root)
    read = read_task(f"emomusic={root}", 2, quiet)
    assert read.task.name == "emomusic"
    assert read.digest == read_task(f"emomusic={root}", 2, quiet).digest


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["nowhere"], "nowhere"),
        (["esc50=task"], "no task 'esc50'; there are magnatagatune, gtzan"),
        (["gtzan=nowhere"], "nowhere: no such folder"),
        (["task", "twin/task"], "two of task, twin/task are called 'task'"),
    ],
)
def test_tasks_that_cannot_be_probed_are_named(tmp_path, monkeypatch, texts, message):
    monkeypatch.chdir(tmp_path)
    scene_task(tmp_path / "task")
    scene_task(tmp_path / "twin" / "task")
    with pytest.raises(InputError, match=message):
        read_tasks(texts, 1, quiet)
