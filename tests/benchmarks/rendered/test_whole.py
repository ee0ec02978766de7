"""The benchmark in tiny: scores to table in one command, and again without rendering."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.rendered import __main__ as whole
from benchmarks.rendered import table
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise

pytest_plugins = ("rendered_fixtures",)


@pytest.fixture
def tiny(tmp_path, soundfont, monkeypatch) -> list[object]:
    """Arguments of a benchmark of seconds."""
    pytest.importorskip("pretty_midi", reason="brings the soundfont to test with")
    # As with `python -m`; else tests/benchmarks comes first, where modules are looked for by name.
    monkeypatch.syspath_prepend(str(Path(whole.__file__).parents[2]))
    plan = replace(
        whole.SMALL,
        sizes=(30, 20, 20),
        clip_seconds=2.0,
        composed=60,
        patience=3,
        baselines=("chroma", "krumhansl"),
    )
    monkeypatch.setattr(whole, "SMALL", plan)
    config = EncoderConfig(embed_dim=64, depth=1, num_heads=1, mlp_dim=64)
    weights = tmp_path / "tiny.safetensors"
    save_checkpoint(initialise(MynaEncoder(config), seed=0), weights)
    return ["--small", "--weights", weights, "--soundfonts", soundfont, "--workers", 1]


def run(*arguments: object):
    return CliRunner().invoke(whole.main, [str(argument) for argument in arguments])


def run_table(tasks: Path, out: Path, *arguments: object):
    options = [tasks, "--out", out, "--grid", "fast", "--seeds", 1, "--device", "cpu"]
    options += ["--patience", 3, "--workers", 1, "--cache", out.with_name("cache")]
    return CliRunner().invoke(table.main, [str(o) for o in (*options, *arguments)])


def test_scores_to_table(tmp_path, tiny):
    out: Path = tmp_path / "small"
    first = run(out, *tiny)
    assert first.exit_code == 0, first.output
    text = (out / "table" / "table.md").read_text()
    assert text in first.output
    for name in ("tiny", "… square", "… vertical", "… hybrid", "chroma", "krumhansl", "goal"):
        assert f"\n| {name} |" in text
    models = json.loads((out / "table" / "results.json").read_text())["models"]
    assert all("rendered_key" in tasks for tasks in models.values())
    assert models["tiny"]["rendered_key"]["task"]["clips"]["test"] == 20
    again = run(out, *tiny)
    assert again.exit_code == 0, again.output
    assert f"{out / 'tasks'}: kept" in again.output
    assert "probed in" not in again.output
    assert text in again.output
    for more, named in (
        (("--sizes", 31, 20, 20), "clips"),
        (("--seed", 1), "seed"),
        (("--test-soundfonts", tiny[4]), "soundfonts (test)"),
    ):
        other = run(out, *tiny, *more)
        assert other.exit_code == 2
        assert f"{out / 'tasks'}: was rendered with other {named}; " in other.output
    alone = run_table(out / "tasks", tmp_path / "alone", "--baselines", "krumhansl")
    assert alone.exit_code == 0, alone.output
    models = json.loads((tmp_path / "alone" / "results.json").read_text())["models"]
    untrained = models["krumhansl"]["rendered_key"]["untrained"]["weighted_key_score"]
    assert untrained > 0.2  # by chance 0.09
    assert f"\n| … untrained | {untrained:.3f} |" in alone.output
    assert models["krumhansl"]["rendered_style"]["untrained"] is None


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "absent.pt"), "absent.pt: no such file"),
        (("--baselines", "melody"), "--baselines melody: there are mel-statistics"),
        (("--baselines", "none"), "nothing to score"),
        (("--model-options", "[1]"), "'--model-options': '[1]' is no JSON object"),
        ((), "python -m benchmarks.rendered.tasks"),
    ],
)
def test_bad_arguments_of_the_table_are_one_line(tmp_path, arguments, message):
    result = run_table(tmp_path, tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
