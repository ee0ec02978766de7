"""The table of recordings: heads that never saw a clip's group, ranking without its own."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from task_layouts import write_emotify, write_strokes

from benchmarks import recordings as table
from benchmarks.recordings import rank, read_recordings


def test_the_table_of_tones(tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_PLUGIN_CACHE", str(tmp_path / "cache"))
    write_emotify(tmp_path / "e", range(1, 101), artists=5)
    write_strokes(tmp_path / "m")
    arguments = ["--emotify", tmp_path / "e", "--mridangam", tmp_path / "m"]
    arguments += ["--out", tmp_path / "out", "--baselines", "mfcc", "--seconds", 0.1]
    arguments += ["--repetitions", 1, "--device", "cpu", "--workers", 1, "--strokes", 1]
    done = CliRunner().invoke(table.main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert "| mfcc | 1.000 ± 0.000 | 1.000 |" in done.output
    scores = json.loads((tmp_path / "out/results.json").read_text())["models"]["mfcc"]
    stroke, tonic = scores["mridangam_stroke"], scores["mridangam_tonic"]
    assert stroke["accuracy"]["mean"] == stroke["retrieval, standardised"] == 1
    # Strokes sound the same on each of these drums.
    assert tonic["accuracy"]["mean"] <= 0.5


def test_ranking_leaves_out_the_own_group(tmp_path):
    write_strokes(tmp_path)
    recordings = read_recordings("mridangam_stroke", tmp_path, 1.0, 8, 1)
    # Sessions alone are told apart: what is left is ranked by chance, half of it being right.
    sessions = np.eye(6)[np.unique(recordings.groups, return_inverse=True)[1]]
    assert rank(sessions, recordings) == pytest.approx(0.5)
    strokes = np.eye(2)[np.unique(recordings.targets, return_inverse=True)[1]]
    assert rank(np.hstack([strokes, 0.1 * sessions]), recordings) == pytest.approx(1)


def test_models_of_one_name_are_refused(tmp_path):
    arguments = ["--mridangam", str(tmp_path), "--out", str(tmp_path / "out")]
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "final.pt").touch()
        arguments += ["--weights", str(tmp_path / folder / "final.pt")]
    done = CliRunner().invoke(table.main, arguments)
    assert done.exit_code == 2
    assert "two models are called 'final': use --weights NAME=FILE" in done.output


def test_without_data_it_says_what_to_give(tmp_path):
    done = CliRunner().invoke(table.main, ["--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "give --emotify or --mridangam" in done.output
