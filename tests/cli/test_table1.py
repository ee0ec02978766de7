"""The paper's table measured: every layout, a kill, the paper's own averages, what cannot run."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run_command
from conftest import published_state_dict
from matplotlib.figure import Figure
from task_layouts import BUILDERS, SIZES
from written_results import Page, table_row, write_result

from myna_plugin.cli.probe import probe
from myna_plugin.cli.table1 import table1
from myna_plugin.probing.heads import FAST_GRID, GRIDS
from myna_plugin.probing.report.results import read_result
from myna_plugin.probing.report.side_by_side import Measured, draw_figure_1, table_rows
from myna_plugin.probing.table1 import TABLE_TASKS, check_entrants, list_entrants, parse_entrants
from myna_plugin.probing.tasks.published import COLUMNS, PAPER, PUBLISHED

pytest_plugins = ("tiny_data_sets", "tiny_module")

TABLE_1 = [row for row in PUBLISHED if row.source == PAPER]


def run(data: Path, out: Path, *arguments: object) -> tuple[int, str, str]:
    return run_command(table1, *arguments_of(data, out, *arguments))


def arguments_of(data: Path, out: Path, *arguments: object) -> list[str]:
    options = ("--data", data, "--out", out, "--grid", "fast", "--device", "cpu", *arguments)
    return [*map(str, options)]


def gather(built, folder: Path, layout: str, tasks=TABLE_TASKS) -> Path:
    """A data folder with every task's in one layout."""
    folder.mkdir()
    for task in tasks:
        (folder / task).symlink_to(built(task, layout), target_is_directory=True)
    return folder


@pytest.fixture
def small(built, tmp_path) -> Path:
    """Two tasks in a layout whose splits need no list of ours."""
    return gather(built, tmp_path / "data", "jukemir", ("gtzan", "emomusic"))


TWO = ("--tasks", "emomusic,gtzan")


# --- Every layout


@pytest.mark.parametrize("layout", ["folder", "jukemir", "marble"])
def test_every_task_in_every_layout(quick, built, bands, tmp_path, layout):
    data, out = gather(built, tmp_path / "data", layout), tmp_path / "out"
    status, said, errors = run(data, out, "--modules", "bands,mfcc")
    assert status == 0, errors
    for module in ("bands", "mfcc"):
        row = table_row(said, f"{module}, measured")
        assert all(re.fullmatch(r"-?\d+\.\d†", cell) for cell in row[2:9])
        for task, sizes in SIZES.items():
            assert read_result(out / module / task).content["task"]["clips"] == sizes
    page = (out / "table1.html").read_text()
    assert Page(page).open == []
    assert all(address.startswith("data:") for address in Page(page).addresses)
    assert "://" not in page  # not "http", which base64 spells now and then
    table, legend = (out / "table1.md").read_text().split("\n\n")[-2:]
    assert legend.startswith("† The fast grid")
    assert said.startswith(f"{table}\n\n{legend}")


def test_a_folder_of_marbles_with_all_tasks_in_it(quick, bands, tmp_path):
    (tmp_path / "marble").mkdir()
    for task in ("gtzan", "emomusic"):
        BUILDERS[task]["marble"](tmp_path / "marble")
    status, _, errors = run(tmp_path / "marble", tmp_path / "out", "--modules", "bands", *TWO)
    assert status == 0, errors
    assert read_result(tmp_path / "out/bands/gtzan").content["task"]["clips"] == SIZES["gtzan"]


# --- It goes on

DYING = '''
"""As `bands`, but its process is killed after so many clips, if there is a file that says so."""
import os, signal
from pathlib import Path
import bands
from bands import load_model

def get_scene_embeddings(audio, model):
    vectors = bands.get_scene_embeddings(audio, model)
    folder = Path(__file__).parent
    with open(folder / "clips", "a") as log:
        log.write("x" * len(audio))
    limit = folder / "limit"
    if limit.exists() and (folder / "clips").stat().st_size > int(limit.read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    return vectors
'''


KILLED = """
from myna_plugin.probing import scoring
from myna_plugin.probing.heads import FAST_GRID, GRIDS
GRIDS["fast"] = FAST_GRID[-4:]  # as `quick`
scoring.draw_figures = lambda *arguments: None
from myna_plugin.cli.table1 import table1
table1()
"""


def test_a_killed_run_goes_on_and_gives_the_same_table(quick, small, bands, tmp_path, monkeypatch):
    site = Path(bands.__file__).parent
    (site / "dying.py").write_text(DYING)
    monkeypatch.delitem(sys.modules, "dying", raising=False)

    def options(out: str, cache: str) -> tuple[object, ...]:
        return (tmp_path / out, "--cache", tmp_path / cache, "--modules", "dying,mfcc", *TWO)

    def count() -> int:
        return (site / "clips").stat().st_size

    status, _, errors = run(small, *options("whole", "apart"))
    assert status == 0, errors
    n_gtzan, n_emomusic = 3, 7  # different sounds
    assert count() == n_gtzan + n_emomusic
    (site / "clips").unlink()
    (site / "limit").write_text("4")
    command = [sys.executable, "-c", KILLED, *arguments_of(small, *options("out", "cache"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first = tmp_path / "out" / "dying" / "gtzan" / "results.json"
    kept = first.stat().st_mtime_ns
    assert not (first.parents[1] / "emomusic" / "results.json").exists()
    (site / "limit").unlink()
    (site / "clips").unlink()
    status, _, errors = run(small, *options("out", "cache"))
    assert status == 0, errors
    assert "dying: gtzan: is there" in errors
    assert first.stat().st_mtime_ns == kept
    assert count() == n_emomusic
    tables = [(tmp_path / name / "table1.md").read_text() for name in ("whole", "out")]
    assert tables[0] == tables[1]


def test_what_is_there_is_taken_only_while_it_is_of_the_same(
    quick, small, bands, tmp_path, monkeypatch
):
    monkeypatch.setitem(GRIDS, "full", FAST_GRID[:4])  # what it holds is not looked at
    monkeypatch.setattr(
        "myna_plugin.probing.report.side_by_side.draw_figure_1", lambda *given: Figure()
    )
    arguments = (small, tmp_path / "out", "--modules", "bands", *TWO)
    assert "is there" not in run(*arguments)[2]
    assert run(*arguments)[2].count("is there") == 2
    assert "is there" not in run(*arguments, "--grid", "full")[2]
    assert run(*arguments, "--grid", "full")[2].count("is there") == 2
    path = tmp_path / "out" / "bands" / "gtzan" / "results.json"
    path.write_text(path.read_text()[:100])
    assert run(*arguments, "--grid", "full")[2].count("is there") == 1
    source = Path(bands.__file__)
    source.write_text(source.read_text() + "\n# changed\n")
    assert "is there" not in run(*arguments, "--grid", "full")[2]


# --- The paper's numbers


def measured(folder: Path, scores: dict[str, float], **changes: object) -> Measured:
    """A row whose scores are these, percent by column, beside MERT-95M."""
    results = {}
    for task in TABLE_TASKS:
        path = write_result(folder / task, task, "mine", 0.0, **changes) / "results.json"
        content = json.loads(path.read_text())
        for metric, column in content["task"]["reported_as"].items():
            content["parts"]["hybrid"]["scores"][metric]["mean"] = scores[column] / 100
        path.write_text(json.dumps(content))
        results[task] = read_result(path)
    published = next(row for row in TABLE_1 if row.model == "MERT-95M")
    return Measured("mine", published, results, [])


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: row.model)
def test_the_average_is_the_one_that_the_paper_prints(tmp_path, row):
    mine = table_rows([measured(tmp_path, row.scores)])
    (cells,) = [cells for cells in mine if cells[0] == "mine, measured"]
    average, difference = cells[-2].split(" ")
    # 69.65 is printed as 69.7.
    assert float(average) == pytest.approx(row.average, abs=0.051 if "330M" in row.model else 0.01)
    assert difference == f"({float(average) - 68.9:+.1f})"


def test_a_measured_row_stands_below_its_systems_with_differences(tmp_path):
    better = {column: value + 1 for column, value in TABLE_1[5].scores.items()}
    assert TABLE_1[5].model == "MERT-95M"
    rows = table_rows([measured(tmp_path, better)])
    names = [cells[0] for cells in rows]
    assert names[names.index("mine, measured") - 1].startswith("MERT-95M (")
    cells = rows[names.index("mine, measured")]
    assert cells[2:8] == [f"{value:.1f} (+1.0)" for value in better.values()]
    assert cells[8] == "69.9 (+1.0)"


def test_another_protocol_is_not_compared(tmp_path):
    quick = {"probe": {"grid": "fast", "folds": 1, "seeds": 1}}
    rows = table_rows([measured(tmp_path, dict.fromkeys(COLUMNS, 50.0), **quick)])
    assert not any("(+" in cell or "(-" in cell for cells in rows for cell in cells)
    (cells,) = [cells for cells in rows if cells[0] == "mine, measured"]
    assert cells[2:9] == ["50.0†"] * 7


def test_figure_1_marks_what_is_not_by_the_papers_protocol(tmp_path):
    data = {"left_out": {"a": "gone"}}
    mine = measured(tmp_path, dict.fromkeys(COLUMNS, 50.0), data=data)
    figure = draw_figure_1([mine], TABLE_TASKS)
    assert {text.get_text() for text in figure.axes[1].texts} == {"mine§"}
    assert figure.get_supxlabel().startswith("§ Some clips were left out")


def test_figure_1_has_what_is_known(tmp_path):
    mine = measured(tmp_path, dict.fromkeys(COLUMNS, 50.0))
    panels = draw_figure_1([mine], TABLE_TASKS).axes
    shown = [{text.get_text() for text in panel.texts} for panel in panels]
    assert shown[0] == {row.model for row in TABLE_1}  # these results tell no parameters
    assert shown[1] == {"mine"}
    hybrid = {"Myna-Base", "Myna-Vertical", "Myna-Hybrid"}
    assert shown[2] == {*hybrid, "MULE", "MERT-95M"}
    points = panels[2].collections[0].get_offsets()
    assert {float(x) for x, _ in points} == {1, 16, 64}
    assert max(float(y) for _, y in points) == pytest.approx(68.9, abs=0.05)


def test_figure_1_can_be_read_where_values_are_near_and_one_is_far_below_zero(tmp_path):
    good = measured(tmp_path / "good", dict.fromkeys(COLUMNS, 70.0))
    bad = measured(tmp_path / "bad", dict.fromkeys(COLUMNS, -900.0))
    figure = draw_figure_1([good, bad], TABLE_TASKS)
    figure.canvas.draw()
    for panel in figure.axes:
        assert panel.get_ylim()[0] > 40
        assert not any(label.get_text() for label in panel.get_xticklabels(minor=True))
        assert len([label for label in panel.get_xticklabels() if label.get_text()]) > 2


# --- Who takes part


def test_what_cannot_run_is_a_row_that_says_so(quick, small, bands, tmp_path, monkeypatch):
    site = Path(bands.__file__).parent
    broken = "from bands import load_model\ndef get_scene_embeddings(audio, model):\n    1 / 0\n"
    (site / "broken.py").write_text(broken)
    names = "clmr,broken,bands"
    status, said, errors = run(small, tmp_path / "out", "--modules", names, *TWO)
    assert status == 1
    assert "needs --model FILE" in table_row(said, "clmr, measured")[-1]
    assert "gtzan: " in (told := table_row(said, "broken, measured")[-1])
    assert "ZeroDivisionError" in told
    assert table_row(said, "bands, measured")[-1] == ""
    assert "clmr: left out" in errors
    # Who was not asked for by name may be absent.
    monkeypatch.setattr("myna_plugin.cli.table1.list_entrants", lambda: parse_entrants("clmr"))
    status, said, _ = run(small, tmp_path / "out", *TWO)
    assert status == 0
    assert "needs --model FILE" in table_row(said, "clmr, measured")[-1]


def test_all_that_is_registered_takes_part_and_the_checkpoints_that_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_PLUGIN_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    names = {entrant.name for entrant in list_entrants()}
    assert {"myna", "mert-95m", "clmr", "mfcc", "random-vit"} <= names
    # What a Myna is probed with anyway.
    assert not {"myna-square", "myna-vertical"} & names
    torch.save(published_state_dict(2), tmp_path / "myna-hybrid.pth")
    assert {e.name for e in list_entrants()} - names == {"myna myna-hybrid"}
    cached = tmp_path / "hub" / "models--oriyonay--myna-base"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "snapshots" / "abc" / "config.json").write_text("{}")
    assert len(list_entrants()) == len(names) + 1  # no weights yet
    (cached / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    assert {e.name for e in list_entrants()} - names == {"myna myna-base", "myna myna-hybrid"}


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("mert-95m", "MERT-95M"),
        ("mert-95m-public=folder", "MERT-95M-public"),
        ("clmr=clmr_checkpoint_10000.pt", "CLMR"),
        ("myna=weights/myna-hybrid.pth", "Myna-Hybrid"),
        ("myna_plugin=myna-vertical", "Myna-Vertical"),
        ("myna", None),
        ("myna=runs/model.safetensors", None),
        ("myna-vertical", None),  # the packaged model's vertical half
        ("mfcc", None),
    ],
)
def test_the_papers_row_of_the_same_system(text, model):
    (entrant,) = parse_entrants(text)
    published = entrant.published
    assert (published and published.model) == model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modules", "no_such"), "unknown module no_such"),
        (("--modules", "bands,,mfcc"), "'' is not an import path"),
        (("--modules", "bands,myna-hybrid"), "myna-hybrid is weights, not a module: write myna="),
        (("--modules", "tiny"), "--modules: tiny is weights, not a module: write myna=tiny"),
        (("--modules", "a/b.pt"), "--modules: a/b.pt is weights, not a module: write myna=a/b.pt"),
        (("--modules", "json,bands=a.pt"), "--modules: json is no HEAR module: it has no function"),
        (("--modules", "json,bands=a.pt"), "; a.pt: no such file"),
        (("--modules", "bands,bands"), "--modules: bands twice"),
        (("--modules", "bands=a/x.pt,bands=b/x.pt"), "--modules: bands x twice"),
        (("--tasks", "gtzan,emotify_genre"), "--tasks: 'emotify_genre' is no column"),
        (("--tasks", "magnatagatune"), "magnatagatune: no such folder; put the data"),
        (("--tasks", "giantsteps,gtzan,magnatagatune"), "giantsteps: no such folder; put the"),
        (("--tasks", "giantsteps,gtzan,magnatagatune"), "magnatagatune: no such folder; "),
        (("--tasks", ""), "--tasks: '' is no column"),
        (("--device", "cuda:99"), "device cuda:99"),
    ],
)
def test_bad_input_is_a_line(small, bands, tmp_path, arguments, message):
    out = tmp_path / "out"
    status, said, errors = run(small, out, "--modules", "bands", *TWO, *arguments)
    assert (status, said) == (2, "")
    (line,) = [line for line in errors.splitlines() if line.startswith("table1: ")]
    assert message in line
    assert not out.exists()
    assert not bands.CALLS


def test_an_incomplete_set_is_refused_before_anything_is_embedded(quick, bands, tmp_path):
    for task in ("gtzan", "emomusic"):
        (tmp_path / "data" / task).mkdir(parents=True)
        BUILDERS[task]["jukemir"](tmp_path / "data" / task)
    (tmp_path / "data" / "emomusic" / "clips_45seconds" / "5.mp3").unlink()
    arguments = (tmp_path / "data", tmp_path / "out", "--modules", "bands", *TWO)
    status, _, errors = run(*arguments)
    assert status == 2
    assert "5.mp3: no such file" in errors
    assert not bands.CALLS
    assert not (tmp_path / "out").exists()
    status, said, _ = run(*arguments, "--allow-missing")
    assert status == 0
    assert table_row(said, "bands, measured")[-1] == "emomusic: 1 left out"


def test_faults_of_all_data_sets_are_told_at_once(quick, bands, tmp_path):
    for task in ("gtzan", "emomusic"):
        (tmp_path / "data" / task).mkdir(parents=True)
        BUILDERS[task]["jukemir"](tmp_path / "data" / task)
    (tmp_path / "data" / "emomusic" / "clips_45seconds" / "5.mp3").unlink()
    for path in (tmp_path / "data" / "gtzan" / "genres").glob("*/*.wav"):
        path.unlink()
    arguments = (tmp_path / "data", tmp_path / "out", "--modules", "bands", *TWO)
    status, _, errors = run(*arguments)
    assert status == 2
    line = errors.splitlines()[-1]
    assert ".wav: no such file; " in line
    assert "5.mp3: no such file; the data set is incomplete: --allow-missing goes on" in line
    for path in (tmp_path / "data" / "emomusic" / "clips_45seconds").iterdir():
        path.unlink()
    status, _, errors = run(*arguments, "--allow-missing")
    assert status == 2
    assert "gtzan: no clips" in errors.splitlines()[-1]
    assert "; emomusic: no clips" in errors.splitlines()[-1]
    assert not bands.CALLS
    assert not (tmp_path / "out").exists()


def test_no_file_is_looked_at_while_a_data_set_cannot_be_used(small, bands, tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        "myna_plugin.probing.table1.check", lambda task, *_, **__: looked_at.append(task)
    )
    (small / "emomusic").unlink()
    (small / "emomusic").mkdir()
    status, _, errors = run(small, tmp_path / "out", "--modules", "bands", *TWO)
    assert status == 2
    assert "emomusic: holds none of songs_info.csv" in errors
    assert not looked_at


def test_a_module_of_a_published_checkpoints_name_is_told_apart(capsys):
    check_entrants(parse_entrants("myna-vertical,myna=myna-vertical,mfcc"))
    assert capsys.readouterr().err == (
        "myna-vertical: the authors' weights of that name are myna=myna-vertical\n"
    )


def test_two_runs_in_one_folder_are_one_too_many(quick, small, bands, tmp_path):
    from myna_plugin.probing.experiment import writing

    with writing(tmp_path / "out"):
        status, _, errors = run(small, tmp_path / "out", "--modules", "bands", *TWO)
    assert status == 2
    assert "another probe is writing there" in errors


@pytest.mark.parametrize("command", [table1, probe])
def test_that_out_cannot_be_written_is_told_before_the_data_are_looked_at(
    small, tmp_path, monkeypatch, command
):
    looked_at = []
    monkeypatch.setattr("myna_plugin.cli.table1.find_sources", looked_at.append)
    monkeypatch.setattr("myna_plugin.cli.probe.load_folds", looked_at.append)
    (tmp_path / "file").touch()
    data = ("--data", small) if command is table1 else ("--root", small, "--task", "gtzan")
    status, _, errors = run_command(command, *data, "--out", tmp_path / "file" / "out")
    assert status == 2
    assert f"{tmp_path / 'file'}: cannot be written into; choose another folder" in errors
    assert not looked_at
