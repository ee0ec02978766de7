"""The sweep command: one run a value, one table, one figure, resumable run by run."""

import pytest
from commands import run_command
from hear_eval.generate_tasks import scene_task
from tiny_store import write_store

from myna_plugin.cli.recipe_files import FILES
from myna_plugin.cli.sweep import sweep as command
from myna_plugin.pretraining.run import sweep as sweeping
from myna_plugin.pretraining.run import trainer
from myna_plugin.pretraining.run.sweep import read_sweep
from myna_plugin.probing.encoders import EncoderProbe

SWEEPS = FILES / "sweeps"

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


def test_a_sweep_is_resumed_run_by_run(store, sweep, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = [str(sweep), "--store", store, "--out", str(out)]
    made, begin = [], trainer.Trainer.run

    def stop_in_the_second(self):
        made.append(self.settings.mask_ratio)
        if len(made) == 2:
            raise OSError("pulled the plug")
        return begin(self)

    monkeypatch.setattr(trainer.Trainer, "run", stop_in_the_second)
    assert run_command(command, *arguments)[0] == 1
    assert "| 0.5 | 4 |" in (out / "table.md").read_text()
    assert "| 0.9 |" not in (out / "table.md").read_text()

    status, said, _ = run_command(command, *arguments)
    assert status == 0
    assert made == [0.5, 0.9, 0.9]  # the finished run was not begun again
    table = (out / "table.md").read_text()
    assert (
        "| mask_ratio | steps | contrastive loss | alignment | uniformity | effective rank |"
        in table
    )
    assert table in said
    rows = [line.split(",") for line in (out / "table.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["mask_ratio", "0.5", "0.9"]
    assert rows[1][2:] != rows[2][2:]
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "mask_ratio=0.9" / "final.safetensors").exists()


def test_runs_are_scored_on_tasks_once_each(store, sweep, tmp_path, monkeypatch):
    out, tasks = tmp_path / "out", [scene_task(tmp_path / name) for name in ("a", "b")]
    arguments = [str(sweep), "--store", store, "--out", str(out)]
    plain = "| mask_ratio | steps | contrastive loss | alignment | uniformity | effective rank |"
    assert run_command(command, *arguments)[0] == 0
    assert plain in (out / "table.md").read_text()

    drawn = []
    monkeypatch.setattr(sweeping, "draw_sweep", lambda *arguments: drawn.append(arguments))
    scored, score = [], EncoderProbe.test

    def stop_at_the_second(self, encoder):
        scored.append(encoder)
        if len(scored) == 2:
            raise OSError("pulled the plug")
        return score(self, encoder)

    monkeypatch.setattr(EncoderProbe, "test", stop_at_the_second)
    arguments.append(f"probe_tasks=[{tasks[0]}, {tasks[1]}]")
    assert run_command(command, *arguments)[0] == 1  # trained runs are not trained again
    assert f"{plain} a, accuracy | b, accuracy | mean of tasks |" in (out / "table.md").read_text()
    assert run_command(command, *arguments)[0] == 0
    assert len(scored) == 3  # the first run was scored once
    assert run_command(command, *arguments)[0] == 0
    assert len(scored) == 3
    table = (out / "table.md").read_text()
    assert "of the fast grid" in table
    assert "no scores on any task" not in table
    for line in (out / "table.csv").read_text().splitlines()[1:]:
        first, second, mean = map(float, line.split(",")[-3:])
        assert mean == pytest.approx((first + second) / 2, abs=1e-3)
        assert 0 <= first <= 1
    assert (out / "mask_ratio=0.5" / "probe.json").exists()
    _, _, measured, titles = drawn[-1]
    assert titles[-3:] == ["a, accuracy", "b, accuracy", "mean of tasks"]
    assert all(set(titles) == set(row) for row in measured.values())


def test_a_run_that_cannot_be_scored_is_named(store, sweep, tmp_path, monkeypatch):
    task, out = scene_task(tmp_path / "task"), tmp_path / "out"

    def fail(self, encoder):
        raise ValueError("task/a.wav: no such file")

    monkeypatch.setattr(EncoderProbe, "test", fail)
    arguments = [str(sweep), "--store", store, "--out", str(out), f"probe_tasks=[{task}]"]
    status, _, error = run_command(command, *arguments)
    assert status == 1
    told = f"sweep: {out}/mask_ratio=0.5: trained, but not scored: task/a.wav: no such file"
    assert error.splitlines()[-1] == told
    assert "| 0.5 | 4 |" in (out / "table.md").read_text()


def test_a_run_that_diverges_does_not_end_the_others(store, sweep, tmp_path):
    varied = "learning_rate\nvalues: [1.0e+30, 0.0001]"
    sweep.write_text(YAML.replace("mask_ratio\nvalues: [0.5, 0.9]", varied))
    out = tmp_path / "out"
    status, _, error = run_command(command, sweep, "--store", store, "--out", out)
    assert status == 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| 1e+30 | diverged |" in table
    assert "| 0.0001 | 4 |" in table
    assert "the loss is nan" in error


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (("vary: mask_ratio", "vary: mask"), [], "mask: unknown setting; did you mean mask"),
        (("values: [0.5, 0.9]", "values: []"), [], "values must be a list"),
        (("values: [0.5, 0.9]", "values: [0.5, 1.5]"), [], "mask_ratio must lie in"),
        (("settings:", "setting:"), [], "it holds setting too"),
        (("batch_size: 4", "batch_size: 40"), [], "fewer than one batch of 40"),
        (("", ""), ["mask_ratio=0.3"], "this sweep varies it"),
        (("", ""), ["probe_tasks=[nowhere]"], "probe_tasks: nowhere"),
        (
            ("vary: mask_ratio\nvalues: [0.5, 0.9]", "vary: probe_grid\nvalues: [fast]"),
            [],
            "all runs of a sweep are probed alike",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_run(
    store, sweep, tmp_path, change, arguments, message
):
    sweep.write_text(YAML.replace(*change))
    out = tmp_path / "out"
    arguments = (sweep, "--store", store, "--out", out, *arguments)
    status, _, error = run_command(command, *arguments)
    assert status == 2
    assert message in error
    assert not out.exists()
