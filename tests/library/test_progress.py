"""Progress reads right for three files as for a hundred thousand."""

import sys

import pytest

from myna_plugin.library.progress import Progress


@pytest.fixture
def run(capsys, monkeypatch):
    def run(total, before, steps, is_terminal, quiet=False):
        """What is said where a step takes some seconds, ends some tracks and hears some audio."""
        clock = [0.0]
        monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
        monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
        with Progress(total, before, quiet) as progress:
            for seconds, tracks, audio_s in steps:
                clock[0] += seconds
                progress.heard(audio_s)
                progress.done(tracks)
        return capsys.readouterr().err

    return run


def test_three_short_files_say_nothing_but_on_a_terminal(run):
    assert run(3, 0, [(1, 1, 180)] * 3, False) == ""
    bar = run(3, 0, [(1, 1, 180)] * 3, True)
    assert bar.rstrip().endswith("180 times real time]")
    assert "3/3 [" in bar


def test_a_hundred_thousand_files_that_go_on(run):
    """An hour for 4,000 tracks of four minutes, 20,000 being done."""
    lines = run(100_000, 20_000, [(360, 400, 96_000)] * 10, False).splitlines()
    assert lines == [
        f"embed: {(20_000 + 400 * i) / 1000:3.0f}% {20_000 + 400 * i}/100000 "
        f"[{lines[i].partition('[')[2]}"
        for i in range(10)
    ]
    assert lines[0].endswith("[06:00<?, 267 times real time]")
    assert lines[9].endswith("[1:00:00<21:13:20, 267 times real time]")


def test_long_files_show_that_something_happens(run):
    lines = run(2, 0, [(31, 0, 60)] * 2, False).splitlines()
    assert lines == [f"embed:   0% 0/2 [{t}<?, 1.9 times real time]" for t in ("00:31", "01:02")]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_quiet_run_says_nothing(run, is_terminal):
    assert run(3, 0, [(60, 1, 99)] * 3, is_terminal, quiet=True) == ""
