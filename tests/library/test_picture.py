import html
import json
import re

import numpy as np
import pytest
from matplotlib import image

from myna_plugin.library import picture
from myna_plugin.library.page import write_page
from myna_plugin.library.picture import COLOURS, draw, folders, group, place, save
from myna_plugin.library.tracks import LibraryError


@pytest.fixture
def clusters():
    """Three clouds of 20, far from one another, in 60 dimensions."""
    generator = np.random.default_rng(0)
    centres = 30 * generator.standard_normal((3, 60))
    return np.repeat(centres, 20, axis=0) + generator.standard_normal((60, 60))


@pytest.mark.parametrize(
    "method",
    ["tsne", pytest.param("umap", marks=pytest.mark.slow)],  # numba compiles for a minute
)
def test_what_is_near_stays_near(clusters, method):
    points = place(clusters, method).reshape(3, 20, 2)

    spread = np.linalg.norm(points - points.mean(1, keepdims=True), axis=-1).max()
    centres = points.mean(1)
    apart = [np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert spread < min(apart)
    again = place(clusters, method).reshape(3, 20, 2)
    assert np.array_equal(points, again), "the same each time"


def test_copies_share_a_point(clusters):
    points = place(np.concatenate([clusters[:8], clusters[:3]]), "tsne")

    assert np.array_equal(points[8:], points[:3])
    with pytest.raises(LibraryError, match="at least 4 different tracks, there are 1"):
        place(np.ones((9, 5)), "tsne")


def test_small_folders_are_joined():
    paths = [f"{i % 14}/{i}.mp3" for i in range(14 * 3)] + ["13/a.mp3"]

    names = group(folders(paths))

    assert len(set(names)) == 10
    assert names.count("others") == 15
    assert names[-1] == "13"


def test_a_picture_is_written_whole(tmp_path, clusters):
    groups = ["a"] * 40 + ["b"] * 20
    save(draw(clusters[:, :2], groups, "title"), tmp_path / "picture.png")

    pixels = image.imread(tmp_path / "picture.png")
    assert pixels.shape[0] > 500
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    save(draw(clusters[:, :2], groups, "title"), tmp_path / "CAMERA.PNG")
    assert (tmp_path / "CAMERA.PNG").read_bytes() == (tmp_path / "picture.png").read_bytes()
    with pytest.raises(LibraryError, match=r"a picture's name ends in \."):
        save(draw(clusters[:, :2], groups, "title"), tmp_path / "picture.txt")


def test_spellings_of_one_name_are_one_group_and_numbers_are_ranges():
    assert len(set(group(["Beyonc\u00e9", "Beyonce\u0301", None]))) == 2
    values = [float(value) for value in np.random.default_rng(0).permutation(600).tolist()]
    ranges = group([*values, None])
    assert ranges[-1] == "(none)"
    counts = {name: ranges.count(name) for name in {*ranges} - {"(none)"}}
    assert [*counts.values()] == [100] * 6
    for value, name in zip(values, ranges, strict=False):
        low, high = map(float, name.split(" to "))
        assert low - 1 <= value <= high + 1
    assert group([3, 3, 3]) == ["3 to 3"] * 3
    assert group([None, None]) == ["(none)"] * 2


def read_page(path):
    """The data of a page, as a browser would read them."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return text, json.loads(found)


def test_a_page_names_its_points_and_fetches_nothing(tmp_path, clusters):
    groups = ["a"] * 20 + ["b@DATA@"] * 30 + ["</script><script>alert(1)"] * 10
    texts = [f"Anna \u2013 Song {i}\n</script>{i}.mp3" for i in range(60)]
    path = tmp_path / "new" / "map.html"

    write_page(clusters[:, :2], groups, texts, "me & @TITLE@ <b>", path)

    text, data = read_page(path)
    assert not re.search(r"https?:|src=|@import|url\(|<link", text)
    assert text.count("<script") == 2
    assert html.escape("me & @TITLE@ <b>") in text
    assert [g["count"] for g in data["groups"]] == [30, 20, 10]
    assert [g["colour"] for g in data["groups"]] == [*COLOURS[:3]]
    named = {}
    for (x, y, number), said in zip(data["points"], data["texts"], strict=True):
        assert 0 <= x <= 1
        assert 0 <= y <= 1
        named[said] = data["groups"][number]["name"], (x, y)
    assert [named[said][0] for said in texts] == groups
    drawn = np.array([named[said][1] for said in texts])
    scale = np.ptp(clusters[:, :2], axis=0).max()
    assert np.allclose(np.diff(drawn, axis=0), np.diff(clusters[:, :2], axis=0) / scale, atol=2e-4)


def test_letters_that_no_font_has_are_told_once_and_warn_of_nothing(
    tmp_path, clusters, recwarn, monkeypatch
):
    monkeypatch.setattr(picture, "FONTS", ("DejaVu Sans",))
    groups = ["\u97f3\u697d \U00012000"] * 30 + ["\u0928\u093e"] * 30

    assert save(draw(clusters[:, :2], groups, "\u97f3"), tmp_path / "picture.png")
    assert not save(draw(clusters[:, :2], ["\u00e9"] * 60, "title"), tmp_path / "plain.png")
    assert not [str(warning.message) for warning in recwarn]


def test_letters_come_from_fonts_that_are_here(clusters, monkeypatch):
    """Of two fonts that every matplotlib has."""
    monkeypatch.setattr(picture, "FONTS", ("No Such Font", "DejaVu Sans", "cmsy10"))
    figure = draw(clusters[:, :2], ["a"] * 60, "title")
    assert figure.axes[0].title.get_fontfamily() == ["DejaVu Sans", "cmsy10"]
