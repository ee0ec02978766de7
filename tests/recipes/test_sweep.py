"""The sweep command: one run a value, one table, one figure, resumable run by run."""

from pathlib import Path

import pytest
import torch
from tiny_store import write_store

from myna_plugin.pretraining import trainer
from myna_plugin.pretraining.step import TrainingStep
from myna_plugin.recipes.sweep import main, read_sweep

SWEEPS = Path(__file__).parents[2] / "recipes" / "sweeps"

YAML = """\
vary: mask_ratio
values: [0.5, 0.9]
settings:
  size: vit-ti
  depth: 1
  patchings: [square]
  batch_size: 4
  max_steps: 4
  held_out_clips: 4
  device: cpu
  tensorboard: false
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "store"
    write_store(folder)
    return str(folder)


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(YAML)
    return path


def test_sweeps_of_the_paper():
    masks = read_sweep(SWEEPS / "mask_ratio.yaml", {})
    assert [settings.mask_ratio for settings in masks.runs.values()] == [
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95,
    ]  # fmt: skip
    batches = read_sweep(SWEEPS / "batch_size.yaml", {"epochs": 3})
    assert [(s.batch_size, s.epochs) for s in batches.runs.values()] == [
        (256, 3),
        (512, 3),
        (1024, 3),
        (2048, 3),
        (4096, 3),
    ]


def test_a_sweep_is_resumed_run_by_run(store, sweep, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = [str(sweep), "--store", store, "--out", str(out)]
    made, begin = [], trainer.Trainer.run

    def stop_in_the_second(self):
        made.append(self.settings.mask_ratio)
        if len(made) == 2:
            raise OSError("pulled the plug")
        return begin(self)

    monkeypatch.setattr(trainer.Trainer, "run", stop_in_the_second)
    assert main(arguments) == 1
    assert "| 0.5 | 4 |" in (out / "table.md").read_text()
    assert "| 0.9 |" not in (out / "table.md").read_text()

    assert main(arguments) == 0
    assert made == [0.5, 0.9, 0.9]  # the finished run was not begun again
    table = (out / "table.md").read_text()
    assert (
        "| mask_ratio | steps | contrastive loss | alignment | uniformity | effective rank |"
        in table
    )
    assert table in capsys.readouterr().out
    rows = [line.split(",") for line in (out / "table.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["mask_ratio", "0.5", "0.9"]
    assert rows[1][2:] != rows[2][2:]
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "mask_ratio=0.9" / "final.safetensors").exists()


def test_a_run_that_diverges_does_not_end_the_others(store, sweep, tmp_path, monkeypatch, capsys):
    take, taken = TrainingStep.__call__, []

    def diverge_at_first(self, views):
        taken.append(1)
        return take(self, views) * (torch.nan if len(taken) <= 4 else 1)

    monkeypatch.setattr(TrainingStep, "__call__", diverge_at_first)
    assert main([str(sweep), "--store", store, "--out", str(tmp_path / "out")]) == 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| 0.5 | diverged |" in table
    assert "| 0.9 | 4 |" in table
    assert "the loss is nan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (("vary: mask_ratio", "vary: mask"), [], "mask: unknown setting; did you mean mask"),
        (("values: [0.5, 0.9]", "values: []"), [], "values must be a list"),
        (("values: [0.5, 0.9]", "values: [0.5, 1.5]"), [], "mask_ratio must lie in"),
        (("settings:", "setting:"), [], "it holds setting too"),
        (("batch_size: 4", "batch_size: 40"), [], "fewer than one batch of 40"),
        (("", ""), ["mask_ratio=0.3"], "this sweep varies it"),
    ],
)
def test_bad_input_is_refused_before_the_first_run(
    store, sweep, tmp_path, capsys, change, arguments, message
):
    sweep.write_text(YAML.replace(*change))
    out = tmp_path / "out"
    assert main([str(sweep), "--store", store, "--out", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
