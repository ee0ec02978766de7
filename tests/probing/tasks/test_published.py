"""The paper's own table, and its averages reproduced."""

import pytest

from myna_plugin.probing.tasks import TaskError
from myna_plugin.probing.tasks.published import COLUMNS, PAPER, PUBLISHED, average_columns

TABLE_1 = [row for row in PUBLISHED if row.source == PAPER]


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: row.model)
def test_average_of_table_1(row):
    # Scores are printed to 0.1, so their mean is known to 0.05 and printed to 0.05.
    assert average_columns(row.scores) == pytest.approx(row.average, abs=0.1)


def test_table_1_is_whole():
    assert len(TABLE_1) == 11
    assert all(list(row.scores) == list(COLUMNS) for row in TABLE_1)


def test_average_is_within_tasks_first():
    scores = dict.fromkeys(COLUMNS, 0.0) | {"MTT AUC": 80.0, "MTT AP": 40.0, "GTZAN": 20.0}
    assert average_columns(scores) == pytest.approx((60.0 + 20.0) / 4)


def test_an_average_of_fewer_tasks_is_refused():
    with pytest.raises(TaskError, match="absent: Emo V"):
        average_columns({column: 50.0 for column in COLUMNS if column != "Emo V"})


def test_names_are_unique_and_columns_known():
    assert len({row.model for row in PUBLISHED}) == len(PUBLISHED)
    assert all(set(row.scores) <= set(COLUMNS) for row in PUBLISHED)
