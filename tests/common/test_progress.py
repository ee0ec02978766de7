"""A bar on a terminal, lines elsewhere."""

import sys

import pytest

from myna_plugin.common.progress import LINE_S, ProgressBar


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_log_gets_a_line_each_half_minute_whoever_asks_for_one(capsys, clock):
    bar = ProgressBar(None, "train", 1000, unit="step", dynamic_ncols=True)
    for _ in range(1000):
        clock[0] += 0.125
        bar.update()
        bar.set_postfix(loss="1.5")
        bar.refresh()
    bar.close()

    assert LINE_S == 30
    assert capsys.readouterr().err.splitlines() == [
        "train:  24% 240/1000 [00:30<01:35,  8.00step/s, loss=1.5]",
        "train:  48% 480/1000 [01:00<01:05,  8.00step/s, loss=1.5]",
        "train:  72% 720/1000 [01:30<00:35,  8.00step/s, loss=1.5]",
        "train:  96% 960/1000 [02:00<00:05,  8.00step/s, loss=1.5]",
    ]


def test_what_slows_down_is_told_as_often(capsys, clock):
    with ProgressBar(desc="find", smoothing=0.3) as bar:
        for _ in range(100):
            clock[0] += 0.25
            bar.update(1000)
        for _ in range(20):
            clock[0] += 5
            bar.update()
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_what_is_soon_done_leaves_nothing_in_a_log_however_it_is_shown(capsys, clock):
    """Nested, of unknown length, with a form of its own, left or not, late or at once."""
    for options in ({}, {"leave": False}, {"bar_format": "{desc}|{bar}| {n}"}, {"delay": 5.0}):
        with ProgressBar(desc="find", **options) as outer:
            for _ in ProgressBar(iter("abc"), "in it", **options):
                clock[0] += 2
                outer.update()
    assert capsys.readouterr() == ("", "")
    with ProgressBar(total=3, leave=False):
        ProgressBar.write("of others", file=sys.stderr)
    assert capsys.readouterr() == ("", "of others\n")
    with ProgressBar(desc="find", unit=" files") as outer:
        for _ in ProgressBar("ab", "in it", leave=False, bar_format="{desc}|{bar}| {n}"):
            clock[0] += 31
            outer.update(1000)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "find: 1000 files [00:31, 32.26 files/s]"
    assert "in it 1" in said
    assert len(said) == 3 + 1


def test_a_terminal_gets_a_bar(capsys, monkeypatch, clock):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for _ in ProgressBar("abc", "find"):
        clock[0] += 1
    said = capsys.readouterr().err
    assert said.startswith("\rfind:   0%|")
    assert "| 3/3 [00:03<00:00" in said


@pytest.mark.parametrize("is_terminal", [False, True])
def test_one_that_is_disabled_says_nothing(capsys, monkeypatch, clock, is_terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    with ProgressBar(total=3, disable=True) as bar:
        clock[0] += 60
        bar.update()
        bar.set_postfix_str("x")
        bar.refresh()
    assert capsys.readouterr() == ("", "")


def test_where_standard_error_is_closed_nothing_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(ProgressBar("ab", "letters")) == ["a", "b"]
