import numpy as np
import pytest
from matplotlib import image

from myna_plugin.library.picture import draw, folders, place, save
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

    names = folders(paths)

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
    with pytest.raises(LibraryError, match=r"a picture's name ends in \."):
        save(draw(clusters[:, :2], groups, "title"), tmp_path / "picture.txt")
