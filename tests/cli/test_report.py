"""The report: joined tables, one page without a network, and what it refuses."""

import base64
import re

import pytest
from click.testing import CliRunner
from written_results import Page, table_row, write_result

from myna_plugin.cli.report import report
from myna_plugin.probing.report.results import read_result
from myna_plugin.probing.report.tables import describe_result
from myna_plugin.probing.tasks.published import PUBLISHED, average_columns

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

HYBRID = next(row for row in PUBLISHED if row.model == "Myna-Hybrid")


def run(*arguments: object):
    return CliRunner().invoke(report, [str(argument) for argument in arguments])


def test_all_tasks_of_a_model_make_a_row_with_the_average(tmp_path):
    scores = {"gtzan": 0.8, "giantsteps": 0.7, "emomusic": 0.6, "magnatagatune": 0.5}
    folders = [write_result(tmp_path / t, t, "mine", s) for t, s in scores.items()]
    result = run(*folders, "--out", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    row = table_row(result.output, "mine")
    assert row[1:3] == ["50.0 (-41.0)", "50.0 (+10.2)"]
    assert row[3:5] == ["80.0 (+2.1)", "70.0 (+2.0)"]
    columns = {"MTT AUC": 50, "MTT AP": 50, "GTZAN": 80, "GS": 70, "Emo A": 60, "Emo V": 60}
    assert average_columns(columns) == 65.0
    assert row[-1] == "65.0 (-3.6)"
    printed = next(line for line in result.output.splitlines() if line.startswith("| Myna-Hybrid"))
    assert f"| {HYBRID.average} |" in printed


def test_models_stand_side_by_side(tmp_path):
    a = write_result(tmp_path / "a", "gtzan", "mine", 0.8)
    b = write_result(tmp_path / "b", "gtzan", "theirs <b>", 0.6)
    arguments = (a, b / "results.json", "--out", tmp_path / "r.html", "--against", "MAE")
    result = run(*arguments)
    assert table_row(result.output, "mine")[3] == "80.0 (+4.5)"
    assert table_row(result.output, "theirs <b>")[3] == "60.0 (-15.5)"
    assert table_row(result.output, "mine")[-1] == ""  # no average of one task
    page = (tmp_path / "r.html").read_text()
    assert "theirs &lt;b&gt;" in page
    assert "<b>" not in page


def test_runs_of_one_model_are_named_apart(tmp_path):
    folders = [write_result(tmp_path / n, "gtzan", "mine", 0.8) for n in ("first", "second")]
    result = run(*folders, "--out", tmp_path / "r.html")
    assert table_row(result.output, f"mine [{tmp_path / 'first'}]")
    assert table_row(result.output, f"mine [{tmp_path / 'second'}]")


def test_the_page_needs_no_network(tmp_path):
    folder = write_result(tmp_path / "a", "gtzan", "mine", 0.8)
    (folder / "figures").mkdir()
    (folder / "figures" / "confusion.png").write_bytes(PNG)
    assert run(folder, "--out", tmp_path / "deep" / "r.html").exit_code == 0
    text = (tmp_path / "deep" / "r.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.addresses) == 2  # the cost of embedding, and the one figure that there is
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert base64.b64decode(page.addresses[1].partition(",")[2]) == PNG
    assert not re.search(r"https?:|@import|url\(|<script|<link", text)
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "r.html"]


def test_what_was_left_out_is_said(tmp_path):
    data = {"left_out": {"a": "a.wav: no such file"}}
    folder = write_result(tmp_path / "a", "gtzan", "mine", 0.8, data=data)
    run(folder, "--out", tmp_path / "r.html")
    assert "1 clips of the data set were left out" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("probe", "is_comparable"),
    [
        ({"grid": "full"}, True),
        ({"grid": "fast"}, False),
        ({"grid": "full", "patience": 3}, False),
    ],
)
def test_what_is_not_comparable_is_not_compared(tmp_path, probe, is_comparable):
    scores = {"gtzan": 0.8, "giantsteps": 0.7, "emomusic": 0.6, "magnatagatune": 0.5}
    probes = {task: {"grid": "full", "folds": 1, "seeds": 1} for task in scores}
    probes["gtzan"] |= probe
    folders = [
        write_result(tmp_path / task, task, "mine", score, probe=probes[task])
        for task, score in scores.items()
    ]
    output = run(*folders, "--out", tmp_path / "r.html").output
    row = table_row(output, "mine")
    assert row[3:5] == ["80.0 (+2.1)" if is_comparable else "80.0", "70.0 (+2.0)"]
    assert row[-1] == ("65.0 (-3.6)" if is_comparable else "65.0")
    told = describe_result(read_result(folders[0]))
    page = (tmp_path / "r.html").read_text()
    assert ("not comparable" in told, "not comparable" in page) == (not is_comparable,) * 2
    assert ("ours − theirs" in told) == is_comparable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "field 'format' is not 1"),
        ({"reported": "polka"}, "no field 'polka'"),
        ({"parts": {}}, "no field 'hybrid'"),
        ({"probe": {"grid": "huge", "seeds": 1}}, "probe.grid is 'huge'"),
        ({"module": {"pool": "clip"}}, "no field 'cost'"),
        ({"data": None}, "results.json: "),
        ({"reported": ["hybrid"]}, "results.json: "),
        ({"probe": {"grid": "full", "seeds": 1}}, "no field 'folds'"),
        ({"probe": {"grid": "full", "folds": "5", "seeds": 1}}, "'5' stands where a finite number"),
        ({"module": {"cost": None}}, "no field 'pool'"),
        (
            {"module": {"pool": "clip", "cost": {"seconds_per_hour": "3", "device": ""}}},
            "'3' stands",
        ),
        ({"score": float("nan")}, "nan stands where a finite number must"),
        ({"score": "high"}, "'high' stands where a finite number must"),
        ({"name": "\ud800"}, "not JSON"),
    ],
)
def test_refusals(tmp_path, change, message):
    told = {"task": "gtzan", "name": "mine", "score": 0.8} | change
    folder = write_result(tmp_path / "a", **told)
    result = run(folder, "--out", tmp_path / "r.html")
    assert result.exit_code == 2
    assert result.output.startswith(f"report: {folder / 'results.json'}: ")
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_refusals_of_arguments(tmp_path):
    folder = write_result(tmp_path / "a", "gtzan", "mine", 0.8)
    (tmp_path / "text.json").write_text("{")
    for arguments, message in (
        ((tmp_path / "none",), "none: cannot be read"),
        ((tmp_path / "text.json",), "text.json: not JSON"),
        ((folder, folder), "given 2 times"),
        ((folder, "--against", "Polka"), "--against Polka: no published row"),
    ):
        result = run(*arguments, "--out", tmp_path / "r.html")
        assert result.exit_code == 2
        assert message in result.output
