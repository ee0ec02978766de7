"""Grids that are interrupted: what was trained is kept, and the result is the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from myna_plugin.probing.heads import HeadScore, HeadTask, Split, build_grid, training
from myna_plugin.probing.probes import GridRecord, PartResult, digest_grid, probe_vectors
from myna_plugin.probing.tasks import TASKS, Item

REPOSITORY = Path(__file__).parents[2]

PARTS = {"square": slice(0, 6), "vertical": slice(6, 12)}

GRID = build_grid(
    standardize=(True,),
    hidden_units=(0, 16),
    batch_size=(16, 64),
    learning_rate=(1e-3, 1e-2),
    dropout=(0.25, 0.5),
    l2=(0.0,),
)

PATIENCE = 12

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_records import probe_both
probe_both(Path(sys.argv[1]))
"""


def make_items() -> tuple[list[Item], dict[str, np.ndarray]]:
    """Clips of which some vectors tell the genre."""
    task, rng = TASKS["gtzan"], np.random.default_rng(0)
    directions = rng.normal(size=(len(task.labels), 12))
    items, vectors = [], {}
    for split in ("train", "valid", "test"):
        for n in range(60):
            name, label = f"{split}-{n}", n % len(task.labels)
            items.append(Item(name, name, Path("x.wav"), task.labels[label], split))
            row = directions[label] + rng.normal(size=12)
            vectors[name] = row.astype(np.float32)[None]
    return items, vectors


def probe_both(records: Path | None) -> dict[str, PartResult]:
    """Both parts on one thread, so that stacks finish one after another."""
    torch.set_num_threads(1)
    items, vectors = make_items()
    task, folds = TASKS["gtzan"], {0: items}
    return probe_vectors(
        task, folds, vectors, PARTS, GRID, patience=PATIENCE, records=records
    ).results


def finished(folder: Path) -> int:
    """Heads in the records of a folder."""
    return sum(len(GridRecord(path).heads) for path in folder.glob("*.npz"))


def kill_in_the_middle(folder: Path) -> int:
    """Probe in another process and kill it once it has finished some stacks; heads they hold."""
    code = RUN.format(folder=str(Path(__file__).parent))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment)
    deadline = time.monotonic() + 120
    while finished(folder) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was not to reach its end"
    return finished(folder)


def assert_same(found: dict[str, PartResult], expected: dict[str, PartResult]) -> None:
    for part, result in expected.items():
        ((run,),), ((other,),) = found[part].folds, result.folds
        assert run.selection.heads == other.selection.heads
        assert run.selection.winner == other.selection.winner
        assert run.scores == other.scores
        for name, value in run.selection.head.state_dict().items():
            assert torch.equal(value, other.selection.head.state_dict()[name])


def test_a_killed_run_goes_on_where_it_was_and_comes_to_the_same(tmp_path, monkeypatch):
    done = kill_in_the_middle(tmp_path)
    assert 4 <= done < 2 * len(GRID)
    trained = []
    make_stack = training.HeadStack

    def count(configs, *arguments):
        trained.extend(configs)
        return make_stack(configs, *arguments)

    monkeypatch.setattr(training, "HeadStack", count)
    resumed = probe_both(tmp_path)
    assert len(trained) == 2 * len(GRID) - done
    assert finished(tmp_path) == 2 * len(GRID)
    assert_same(resumed, probe_both(None))
    trained.clear()
    assert_same(probe_both(tmp_path), resumed)
    assert not trained


def test_damaged_record_counts_as_none(tmp_path):
    path = tmp_path / "grid.npz"
    score = HeadScore(GRID[0], 0.5, 8, 16, 0)
    record = GridRecord(path)
    record.add([(3, score, {"output.bias": torch.ones(2)})])
    assert [head[:2] for head in GridRecord(path).heads] == [(3, score)]
    path.write_bytes(path.read_bytes()[:-40])
    assert GridRecord(path).heads == []
    path.write_bytes(b"")
    assert GridRecord(path).heads == []


@pytest.mark.parametrize(
    "change", ["features", "targets", "items", "grid", "seed", "device", "patience", "rules"]
)
def test_a_record_is_of_one_grid_on_one_set_of_data(change):
    def digest(changed: str) -> str:
        values = np.arange(12.0).reshape(6, 2)
        valid = Split(values + (changed == "features"), np.arange(6) % 2, np.arange(6))
        train = Split(
            values,
            (np.arange(6) + (changed == "targets")) % 2,
            None if changed == "items" else np.array(list("abcdef")),
        )
        rules = ("max",) if changed == "rules" else ("vote",)
        task = HeadTask("cross_entropy", 2, "accuracy", lambda *_: {}, rules)
        grid = GRID[1:] if changed == "grid" else GRID
        return digest_grid(
            train,
            valid,
            task,
            grid,
            int(changed == "seed"),
            "cuda" if changed == "device" else "cpu",
            3 if changed == "patience" else 256,
        )

    assert digest("") == digest("")
    assert digest(change) != digest("")
