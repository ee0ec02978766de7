"""The run folder: what is kept, what is refused, and that nothing half-written counts."""

import errno
import shutil

import pytest
import torch

from myna_plugin.pretraining.run.run_files import (
    ProgressTable,
    RunError,
    RunFolder,
    WriteError,
    find_best_probe,
    read_table,
)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run", keep_last=2, keep_every=30)
    folder.begin(resume=False)
    return folder


def test_keeps_the_last_and_every_mth(folder):
    for step in range(10, 101, 10):
        folder.save(step, {"x": torch.tensor(step)})
    assert folder.saved_steps() == [30, 60, 90, 100]
    state = folder.load_newest()
    assert state["step"] == 100
    assert state["x"] == 100


def test_a_failed_write_leaves_the_last_checkpoint_and_names_it(folder, monkeypatch):
    folder.save(10, {"x": torch.ones(3)})

    def fail(state, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(WriteError, match=r"No space left.*last good checkpoint is .*00000010\.pt"):
        folder.save(20, {"x": torch.ones(3)})
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000010.pt"]


def test_another_run_is_not_overwritten(folder):
    with pytest.raises(RunError, match=r"already holds a run \(checkpoints\); --resume"):
        folder.begin(resume=False)
    (folder.checkpoints / "step-00000020.pt.123.tmp").write_bytes(b"half")
    folder.begin(resume=True)
    assert list(folder.checkpoints.iterdir()) == []


def test_a_full_disk_is_noticed_beforehand(folder, monkeypatch):
    folder.check_room(1000, 100, 10)
    usage = shutil.disk_usage(folder.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=56_000_000))
    # Two kept, one being written, three of 100 steps kept for good.
    with pytest.raises(RunError, match="6 checkpoints of 1 MB need 56 MB, and 56 MB are free"):
        folder.check_room(1_000_001, 100, 10)
    folder.check_room(1_000_000, 100, 10)
    folder.check_room(1_500_000, 100, 20)  # of these only step 60 is a multiple of 30


def test_damaged_and_foreign_checkpoints(folder):
    folder.save(10, {})
    path = folder.checkpoint(10)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"00000010\.pt: damaged .*delete it"):
        folder.load_newest()
    torch.save({"format": "myna-training", "version": 99}, path)
    with pytest.raises(RunError, match="version is 99, and this program reads 1"):
        folder.load_newest()
    torch.save([1], path)
    with pytest.raises(RunError, match="format is 'list'"):
        folder.load_newest()


def test_table_drops_rows_after_the_resumed_step_and_cut_off_rows(tmp_path):
    path = tmp_path / "train.csv"
    table = ProgressTable(path, 0)
    for step in (10, 20, 30):
        table.add({"step": step, "loss": 1 / step, "rank": 2.5})
    with path.open("a") as file:
        file.write("40,1.0,0.0")
    assert [row["step"] for row in read_table(path)] == ["10", "20", "30"]
    table = ProgressTable(path, 20)
    table.add({"step": 30, "loss": 0.5})
    rows = read_table(path)
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert rows[1] == rows[0] | {"step": "20", "loss": "0.05"}
    assert rows[2]["loss"] == "0.5"
    assert rows[2]["rank"] == ""


def test_a_step_that_two_processes_wrote_is_one_row_after_a_resume(tmp_path):
    path = tmp_path / "train.csv"
    first, second = ProgressTable(path, 0), ProgressTable(path, 0)
    for step in (10, 20):
        first.add({"step": step, "loss": 1.0})
        second.add({"step": step, "loss": 0.5})
    second.add({"step": 30, "loss": 0.25})
    first.add({"step": 25, "loss": 1.0})
    ProgressTable(path, 30)
    rows = read_table(path)
    assert [row["step"] for row in rows] == ["10", "20", "25", "30"]
    assert [row["loss"] for row in rows] == ["0.5", "0.5", "1", "0.25"]


def test_a_probe_adds_its_column_and_keeps_the_rows_before(tmp_path):
    path = tmp_path / "train.csv"
    table = ProgressTable(path, 0)
    table.add({"step": 5, "loss": 1.5})
    table.add({"step": 10, "loss": 1.25, "probe_b": 0.5})
    table.add({"step": 15, "loss": 1.0, "probe_a": 0.25})
    table = ProgressTable(path, 15)
    table.add({"step": 20, "loss": 0.5})
    rows = read_table(path)
    assert [row["loss"] for row in rows] == ["1.5", "1.25", "1", "0.5"]
    assert [row["probe_a"] for row in rows] == ["", "", "0.25", ""]
    assert [row["probe_b"] for row in rows] == ["", "0.5", "", ""]


def test_the_best_probe_is_the_first_of_the_highest_means_over_the_last_tasks():
    rows = [
        {"step": "1", "probe_a": "0.9", "probe_b": ""},
        {"step": "2", "probe_a": "0.5", "probe_b": "0.6"},
        {"step": "3", "probe_a": "0.8", "probe_b": "0.3"},
        {"step": "4", "probe_a": "0.3", "probe_b": "0.8"},
        {"step": "5", "probe_a": "", "probe_b": ""},
    ]
    assert find_best_probe(rows) == (2, {"a": 0.5, "b": 0.6})
    assert find_best_probe(rows[1:2] + rows[:1]) == (1, {"a": 0.9})
    assert find_best_probe(rows[-1:]) is None
    assert find_best_probe([]) is None
