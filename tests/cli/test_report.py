"""The report: joined tables, one page without a network, and what it refuses."""

import base64
import json
import re

import pytest
from click.testing import CliRunner
from written_results import Page, table_row, write_result

from myna_plugin.cli.report import report
from myna_plugin.probing.report.figures import draw_cost
from myna_plugin.probing.report.results import explain_marks, read_result
from myna_plugin.probing.report.tables import describe_result
from myna_plugin.probing.tasks.published import PUBLISHED, average_columns

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

FAST, EARLY = {"grid": "fast"}, {"grid": "full", "patience": 3}

HYBRID = next(row for row in PUBLISHED if row.model == "Myna-Hybrid")


def read_row(output: str, start: str) -> list[str]:
    """Cells of the row that starts so."""
    (line,) = [line for line in output.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


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


def test_what_was_left_out_is_said_beside_the_score(tmp_path):
    known = {"clip_id": "b", "path": "b.wav", "reason": "empty"}
    left_out = {"a": "a.wav: no such file", "b": "b.wav: empty"}
    for missing, mark in ((("a", "b"), "§"), (("b",), ""), ((), "")):
        told = {"left_out": {name: left_out[name] for name in missing}, "check": {"known": [known]}}
        folder = write_result(tmp_path / f"left {missing}", "gtzan", "mine", 0.8, data=told)
        output = run(folder, "--out", tmp_path / "r.html").output
        assert table_row(output, "mine")[3] == f"80.0{mark} (+2.1)"
        assert read_row(output, "| mine | GTZAN |")[-1] == str(len(missing))
        texts = (output, (tmp_path / "r.html").read_text(), describe_result(read_result(folder)))
        for text in texts:
            assert ("§ Some clips were left out" in text) == bool(mark)
        assert f"| 80.0{mark} |" in texts[2]


def test_marks_are_told_once_beneath_the_tables(tmp_path):
    """Each cell has those of its own score, an average and neighbours those that they go by."""
    scores = {"gtzan": 0.8, "giantsteps": 0.7, "emomusic": 0.6, "magnatagatune": 0.5}
    fast, early = ({"folds": 1, "seeds": 1, **how} for how in (FAST, EARLY))
    changes = {
        "gtzan": {"probe": fast, "data": {"left_out": {"a": "gone"}}},
        "giantsteps": {"probe": early},
    }
    folders = [
        write_result(tmp_path / task, task, "mine", score, **changes.get(task, {}))
        for task, score in scores.items()
    ]
    path = folders[0] / "results.json"
    content = json.loads(path.read_text())
    voted = {"accuracy": {"mean": 0.3, "deviation": None}}
    content["parts"]["hybrid"]["neighbours"] = voted
    path.write_text(json.dumps(content))
    output = run(*folders, "--out", tmp_path / "r.html").output
    row = table_row(output, "mine")
    assert row[1:5] == ["50.0 (-41.0)", "50.0 (+10.2)", "80.0†§", "70.0‡"]
    assert row[-1] == "65.0†‡§"
    assert "| accuracy, nearest neighbours | mine | 30.0§ |" in output
    assert read_row(output, "| mine | GTZAN |")[4] == "fast"
    assert read_row(output, "| mine | GiantSteps |")[4] == "full, patience 3"
    legend = output.splitlines()[-3]
    assert legend == explain_marks("†‡§")
    assert output.count(legend) == 1


def test_the_figure_marks_points_and_says_why(tmp_path):
    probe = {"folds": 1, "seeds": 1, **FAST}
    fast = write_result(tmp_path / "fast", "gtzan", "quick", 0.8, probe=probe)
    full = write_result(tmp_path / "full", "gtzan", "whole", 0.7)
    figure = draw_cost([read_result(path) for path in (fast, full)])
    assert {text.get_text() for text in figure.axes[0].texts} == {"quick†", "whole"}
    whole = draw_cost([read_result(full)])
    (told, none) = (one.legends[0].get_title().get_text() for one in (figure, whole))
    assert told.startswith("† The fast grid is for a quick look")
    assert none == ""


@pytest.mark.parametrize(
    ("probe", "mark"),
    [
        ({"grid": "full"}, ""),
        (FAST, "†"),
        (EARLY, "‡"),
    ],
)
def test_what_is_not_comparable_is_not_compared(tmp_path, probe, mark):
    scores = {"gtzan": 0.8, "giantsteps": 0.7, "emomusic": 0.6, "magnatagatune": 0.5}
    probes = {task: {"grid": "full", "folds": 1, "seeds": 1} for task in scores}
    probes["gtzan"] |= probe
    folders = [
        write_result(tmp_path / task, task, "mine", score, probe=probes[task])
        for task, score in scores.items()
    ]
    output = run(*folders, "--out", tmp_path / "r.html").output
    row = table_row(output, "mine")
    assert row[3:5] == [f"80.0{mark}" if mark else "80.0 (+2.1)", "70.0 (+2.0)"]
    assert row[-1] == (f"65.0{mark}" if mark else "65.0 (-3.6)")
    told = describe_result(read_result(folders[0]))
    page = (tmp_path / "r.html").read_text()
    assert ("not comparable" in told, "not comparable" in page) == (bool(mark),) * 2
    assert ("ours − theirs" in told) == (not mark)
    assert f"| mine, square | 40.0 | 80.0{mark} |" in told


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
