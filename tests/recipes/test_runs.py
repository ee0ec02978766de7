"""The loop that the recipes' own training runs share."""

import csv
import os
import signal

import pytest
import torch

from myna_plugin.common.errors import InputError, UnfinishedError
from recipes.runs import Run


class Losses(Run):
    """A run whose loss is the step's number, and NaN at some step."""

    columns = ("step", "epoch", "loss", "told", "per_s", "minutes")
    examples, steps_per_epoch = 3, 4

    def __init__(self, out, averages, fails_at=-1):
        self.averages, self.fails_at = averages, fails_at
        self.go_on(out, {"averages": averages})

    def batches(self, first, last):
        yield from range(first, last)

    def take_step(self, batch):
        return torch.tensor(torch.nan if batch == self.fails_at else float(batch))

    def state(self):
        return {}

    def save_encoder(self):
        (self.folder.path / "encoder").write_text(str(self.step))

    def told(self):
        return (self.step + 0.5,)


@pytest.mark.parametrize(
    ("averages", "steps", "losses"),
    [
        (True, [40, 50, 80, 90, 100, 110], [19.5, 44.5, 64.5, 84.5, 94.5, 104.5]),
        (False, [50, 90, 100, 110], [49, 89, 99, 109]),
    ],
)
def test_a_row_has_its_steps_loss_or_the_mean_since_the_row_before(
    tmp_path, averages, steps, losses
):
    assert Losses(tmp_path, averages).run(90, 1e6, 40) is None
    Losses(tmp_path, averages).run(110, 1e6, 40)
    rows = [*csv.DictReader((tmp_path / "train.csv").open())]
    assert [int(row["step"]) for row in rows] == steps
    assert [float(row["loss"]) for row in rows] == losses
    assert [float(row["told"]) for row in rows] == [step + 0.5 for step in steps]
    assert [float(row["epoch"]) for row in rows] == [step / 4 for step in steps]
    assert (tmp_path / "encoder").read_text() == "110"


def test_a_signal_ends_a_run_after_a_checkpoint(tmp_path, capsys):
    class Interrupted(Losses):
        def take_step(self, batch):
            if batch == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().take_step(batch)

    stopped = Interrupted(tmp_path, True)
    assert stopped.run(9, 1e6, 100) == signal.SIGTERM
    gone_on = Losses(tmp_path, True)
    assert gone_on.step == 7
    for stopped_by, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with pytest.raises(SystemExit) as ended:
            gone_on.end("load it so", stopped_by)
        assert ended.value.code == status
    gone_on.end("load it so", None)
    told = capsys.readouterr().out
    assert told.count(f"{tmp_path}: 7 steps, 0.0 minutes; load it with\n  load it so\n") == 3
    assert told.count("the same command goes on") == 2


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints"])
def test_a_run_of_pretraining_is_not_written_over(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{tmp_path}: holds a run of `myna pretrain`"):
        Losses(tmp_path, True)


@pytest.mark.parametrize(("averages", "place"), [(True, "before"), (False, "at")])
def test_a_loss_that_is_no_number_ends_a_run_before_its_checkpoint(tmp_path, averages, place):
    with pytest.raises(UnfinishedError, match=f"the loss is nan {place} step 50"):
        Losses(tmp_path, averages, fails_at=49).run(99, 1e6, 50)
    assert not (tmp_path / "checkpoint.pt").exists()
