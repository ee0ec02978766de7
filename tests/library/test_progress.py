"""Progress reads right for three files as for a hundred thousand."""

import pytest

from myna_plugin.library.progress import Progress


def run(capsys, total, before, steps, is_terminal):
    """What is said where each step takes some seconds, ends some tracks and hears some audio."""
    lines, clock = [], [0.0]
    with Progress(
        total, before, lines.append, is_terminal=is_terminal, now=lambda: clock[0]
    ) as progress:
        for seconds, tracks, audio_s in steps:
            clock[0] += seconds
            progress.heard(audio_s)
            progress.done(tracks)
    return lines, capsys.readouterr().err


def test_three_short_files_say_nothing_but_on_a_terminal(capsys):
    assert run(capsys, 3, 0, [(1, 1, 180)] * 3, False) == ([], "")
    lines, bar = run(capsys, 3, 0, [(1, 1, 180)] * 3, True)
    assert lines == []
    assert bar.rstrip().endswith("180 times real time]")
    assert "3/3 [" in bar


def test_a_hundred_thousand_files_that_go_on(capsys):
    """An hour for 4,000 tracks of four minutes, 20,000 being done."""
    lines, bar = run(capsys, 100_000, 20_000, [(360, 400, 96_000)] * 10, False)
    assert bar == ""
    assert len(lines) == 10
    assert lines[-1] == "embed: 23,600 of 100,000 tracks, 267 times real time, about 21:13:20 left"
    assert lines[0] == "embed: 20,000 of 100,000 tracks, 267 times real time"


def test_long_files_show_that_something_happens(capsys):
    lines, _ = run(capsys, 2, 0, [(31, 0, 60)] * 2, False)
    assert lines == ["embed: 0 of 2 tracks, 1.9 times real time"] * 2


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_quiet_run_says_nothing(capsys, is_terminal):
    with Progress(
        3, 0, None, is_terminal=is_terminal, now=iter(range(0, 10_000, 60)).__next__
    ) as p:
        p.heard(99)
        p.done(3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
