import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import digest_path, read_json
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.pretraining.store.reading import MADE_OF, Store, StoreError
from recipes.rendered import store as store_module
from recipes.rendered.recorded_music import (
    COLUMNS,
    LICENCE,
    TABLE,
    MusicPlan,
    main,
    read_tracks,
    write_music,
)

PLAN = MusicPlan(sounds=2, versions=2, clip_seconds=3.0, seed=3)
BLOCKS = 2
HOURS = BLOCKS * 4 * 3.0 / 3600
TONES_HZ = {"1": 300.0, "2": 700.0, "3": 1600.0}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Three tones, the first of them shorter than a clip."""
    folder = tmp_path_factory.mktemp("audio")
    for number, hz in TONES_HZ.items():
        time = np.arange((2 if number == "1" else 8) * SAMPLE_RATE) / SAMPLE_RATE
        tone = sum(np.sin(2 * np.pi * hz * k * time) / k for k in (1, 2, 3))
        soundfile.write(folder / f"{number}.wav", 0.3 * tone, SAMPLE_RATE)
    return folder


@pytest.fixture(scope="module")
def tracks(table, audio):
    return read_tracks(table, audio)


@pytest.fixture(scope="module")
def made(table, audio, tmp_path_factory):
    """A store made by the command, in one process."""
    path = tmp_path_factory.mktemp("made") / "store"
    options = {"audio": audio, "tracks": table, "hours": HOURS, "device": "cpu", "workers": 1}
    options |= {"clip-seconds": 3, "sounds": 2, "versions": 2, "seed": 3}
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    main([str(path), *given], standalone_mode=False)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    lines = ["\t".join(COLUMNS)]
    lines += [f"{n}\tTone {n}\tOscillator {n}\tCC0\there\tthere" for n in TONES_HZ]
    path = tmp_path_factory.mktemp("table") / "music.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_it_needs_no_synthesiser(tracks, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    assert "tinysoundfont" not in store_module._versions()
    write_music(tmp_path / "store", PLAN, tracks, HOURS, 1)


def test_clips_are_of_the_recording_and_speed_that_they_say(made):
    store = Store.open(made)
    assert len(store) == 4 * BLOCKS
    named = []
    for i in range(len(store)):
        name = str(store.source(i)[0])
        block, number, speed = re.fullmatch(
            r"3/(\d+)/(\d) Tone .*/(\d+:\d+)", re.sub(r" from [^/]*/\d/", "/", name)
        ).groups()
        named.append((block, number, speed))
        up, down = map(int, speed.split(":"))
        power = store.clip(i).astype(np.float64).mean(0)
        assert abs(int(power.argmax()) - mel_band(TONES_HZ[number] * down / up)) <= 1, name
    pairs = list(zip(named[::2], named[1::2], strict=True))
    assert all(one == other for one, other in pairs)
    sounds = [number for (_, number, _), _ in pairs]
    assert all(sounds[i] != sounds[i + 1] for i in range(0, len(sounds), 2))
    assert len({speed for _, _, speed in named}) > 1


def mel_band(hz):
    """Number of the mel band (Slaney's scale, 128 up to 8 kHz) whose centre is nearest."""

    def mel(hz):
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    return round(mel(hz) / mel(SAMPLE_RATE / 2) * 129) - 1


def test_a_store_does_not_depend_on_workers(tmp_path, made, tracks):
    write_music(tmp_path / "two", PLAN, tracks, HOURS, workers=2)
    assert digest_path(made / "shards") == digest_path(tmp_path / "two/shards")
    told = read_json(made / MADE_OF)
    assert told["clips_by_licence"] == {"CC0": 4 * BLOCKS}
    assert told["recordings"][0] == "Tone 1, Oscillator 1 (CC0), there"
    with pytest.raises(StoreError, match="complete store"):
        write_music(made, replace(PLAN, seed=4), tracks, HOURS, workers=1)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("4\tTitle\tArtist\tCC BY-NC 4.0\te\ts", "line 5: CC BY-NC 4.0 is not CC0"),
        ("4\tTitle\tArtist\tCC BY-SA 3.0\te\ts", "line 5: CC BY-SA 3.0 is not CC0"),
        ("4\tTitle\tArtist\tCC BY 3.5\te\ts", "line 5: CC BY 3.5 is not CC0"),
        ("4\tTitle\tArtist\tCC0\te", "line 5: the columns must be number, title"),
        ("4\tTitle\tArtist\tCC0\te\thttps://here", "has no 4.*, which is Title by Artist: https"),
    ],
)
def test_what_may_not_be_used_or_is_missing_is_told(tmp_path, table, audio, line, told):
    longer = tmp_path / "music.tsv"
    longer.write_text(f"{table.read_text()}{line}\n")
    with pytest.raises(InputError, match=re.escape(told)):
        read_tracks(longer, audio)


def test_the_command_tells_of_too_few_recordings(tmp_path, table, audio):
    arguments = [str(tmp_path / "store"), "--audio", str(audio), "--tracks", str(table)]
    result = CliRunner().invoke(main, [*arguments, "--hours", "0.01", "--device", "cpu"])
    assert result.exit_code == 2
    assert "a block needs 4 recordings, and there are 3" in result.output
    assert not (tmp_path / "store").exists()


def test_the_table_names_the_licence_and_place_of_every_recording():
    numbers = set()
    for line in TABLE.read_text().splitlines()[1:]:
        number, *_, licence, evidence, source = line.split("\t")
        numbers.add(number)
        assert LICENCE.fullmatch(licence)
        assert evidence
        assert re.match(r"(github:[\w.-]+/[\w.-]+@[0-9a-f]{40}:|debian:[\w.-]+ )", source), source
    assert len(numbers) == len(TABLE.read_text().splitlines()) - 1
