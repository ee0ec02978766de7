"""The benchmark in tiny: scores to table in one command, and again without rendering."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.rendered import __main__ as whole
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from recipes.rendered.soundfont_writer import write_soundfont


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> list[object]:
    """Arguments of a benchmark of seconds."""
    pytest.importorskip("pretty_midi", reason="brings the soundfont to test with")
    # As with `python -m`; else tests/benchmarks comes first, where modules are looked for by name.
    monkeypatch.syspath_prepend(str(Path(whole.__file__).parents[2]))
    plan = replace(whole.SMALL, sizes=(30, 20, 20), clip_seconds=3.0, composed=60, patience=3)
    monkeypatch.setattr(whole, "SMALL", plan)
    config = EncoderConfig(embed_dim=64, depth=1, num_heads=1, mlp_dim=64)
    weights = tmp_path / "tiny.safetensors"
    save_checkpoint(initialise(MynaEncoder(config), seed=0), weights)
    soundfont = write_soundfont(tmp_path / "own.sf2", seed=0)
    return ["--small", "--weights", weights, "--soundfonts", soundfont, "--workers", 1]


def run(*arguments: object):
    return CliRunner().invoke(whole.main, [str(argument) for argument in arguments])


def test_scores_to_table(tmp_path, tiny):
    out: Path = tmp_path / "small"
    first = run(out, *tiny)
    assert first.exit_code == 0, first.output
    text = (out / "table" / "table.md").read_text()
    assert text in first.output
    for name in ("tiny", "… square", "… vertical", "… hybrid", "mel statistics", "chroma", "goal"):
        assert f"\n| {name} |" in text
    models = json.loads((out / "table" / "results.json").read_text())["models"]
    assert all("rendered_key" in tasks for tasks in models.values())
    assert models["tiny"]["rendered_key"]["task"]["clips"]["test"] == 20
    again = run(out, *tiny)
    assert again.exit_code == 0, again.output
    assert f"{out / 'tasks'}: kept" in again.output
    assert "probed in" not in again.output
    assert text in again.output


def test_without_small_it_is_the_whole_plan_and_options_prevail(tmp_path, tiny, monkeypatch):
    whole_plan = replace(whole.SMALL, baselines=("chroma",), grid="full", seeds=3)
    monkeypatch.setattr(whole, "WHOLE", whole_plan)
    out = tmp_path / "whole"
    options = ["--sizes", 28, 21, 22, "--grid", "four", "--seeds", 2]
    result = run(out, *tiny[1:], *options)
    assert result.exit_code == 0, result.output
    models = json.loads((out / "table" / "results.json").read_text())["models"]
    assert list(models) == ["tiny", "chroma"]
    scored = models["chroma"]["rendered_instruments"]
    assert scored["task"]["clips"] == {"train": 28, "valid": 21, "test": 22}
    assert (scored["probe"]["grid"], scored["probe"]["seeds"]) == ("four", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "absent.pt"), "--weights absent.pt: no such file"),
        (("--midi", "absent"), "absent: no MIDI files"),
        (("--soundfonts", "absent.sf2"), "absent.sf2"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    result = run(tmp_path / "small", "--small", *arguments)
    assert result.exit_code == 2
    assert message in result.output.splitlines()[-1]
    assert not (tmp_path / "small" / "tasks").exists()
