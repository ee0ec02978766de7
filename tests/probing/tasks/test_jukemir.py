"""JukeMIR's real metadata: the paper's split sizes, and our public-folder readers against it.

The real files lie in the folder that MYNA_SHARED names, or in `shared` beside the checkout.
"""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from task_layouts import BUILDERS, KEY, MTG, write_table, write_text

from myna_plugin.common.files import read_json
from myna_plugin.common.torchaudio_bridge import gtzan_split
from myna_plugin.probing.tasks import TASKS, load_items
from myna_plugin.probing.tasks.magnatagatune import TAGS
from myna_plugin.probing.tasks.task import SPLITS

pytest_plugins = ("tiny_data_sets",)

SHARED = Path(os.environ.get("MYNA_SHARED", Path(__file__).parents[4] / "shared"))


def metadata_of(name: str) -> Path:
    path = SHARED / "data" / "jukemir" / f"{TASKS[name].jukemir.name}.json.gz"
    if not path.is_file():
        pytest.skip(f"shared reference data: no {path.name} in {path.parent}; set MYNA_SHARED")
    return path


@pytest.mark.parametrize("name", BUILDERS)
def test_real_split_sizes(name, tmp_path):
    items = load_items(TASKS[name], tmp_path, metadata=metadata_of(name))
    assert Counter(item.split for item in items) == TASKS[name].split_sizes


def as_rows(items):
    return {item.clip_id: (item.split, item.target, item.path.name) for item in items}


def test_real_emomusic_from_its_public_tables(tmp_path):
    """The hash of artists and the z-scores of the folder reader are the metadata's."""
    content = read_json(metadata_of("emomusic"))
    for table in ("songs_info", "static_annotations"):
        rows = [entry["extra"][table] for entry in content.values()]
        header = list(rows[0])
        lines = [header, *([row[name] for name in header] for row in rows)]
        write_table(tmp_path / f"{table}.csv", lines, ",", csv.QUOTE_MINIMAL)
    public = {i.clip_id: i for i in load_items(TASKS["emomusic"], tmp_path)}
    official = load_items(TASKS["emomusic"], tmp_path, metadata=metadata_of("emomusic"))
    assert public.keys() == {item.clip_id for item in official}
    for item in official:
        mine = public[item.clip_id]
        assert (mine.split, mine.artist, mine.path) == (item.split, item.artist, item.path)
        np.testing.assert_allclose(mine.target, item.target, atol=1e-12)


def test_real_magnatagatune_from_its_public_tables(tmp_path):
    content = read_json(metadata_of("magnatagatune"))
    annotated = [entry for entry in content.values() if entry["y_all"] is not None]
    rows = [["clip_id", *TAGS, "mp3_path"]]
    info = [["clip_id", "artist", "url", "track_number"]]
    for entry in annotated:
        extra = entry["extra"]
        flags = [str(int(tag in entry["y_all"])) for tag in TAGS]
        rows.append([extra["clip_id"], *flags, extra["mp3_path"]])
        info.append([extra[name] for name in info[0]])
    assert len(annotated) == 25_863
    write_table(tmp_path / "annotations_final.csv", rows, "\t", csv.QUOTE_ALL)
    write_table(tmp_path / "clip_info_final.csv", info, "\t", csv.QUOTE_ALL)
    public = load_items(TASKS["magnatagatune"], tmp_path)
    official = load_items(TASKS["magnatagatune"], tmp_path, metadata=metadata_of("magnatagatune"))
    assert {i.clip_id: i for i in public} == {i.clip_id: i for i in official}
    counts = Counter(tag for entry in annotated for tag in entry["y_all"])
    assert {tag for tag, _ in counts.most_common(50)} == set(TAGS)


def test_real_giantsteps_from_its_public_files(tmp_path):
    """Keys, clips and the artists' hash rule.

    The metadata has only the tracks in use, so who worked together on another one is not known
    here: 20 validation clips then count as training. From the real repositories none differs.
    """
    content = read_json(metadata_of("giantsteps"))
    extras = {entry["clip"]["audio_uid"]: entry["extra"] for entry in content.values()}
    annotations, credits = "ID\tMANUAL KEY\tC\n", "ID\tARTIST\n"
    for extra in extras.values():
        if "annotations" in extra:
            annotations += "\t".join(extra["annotations"][k] for k in ("ID", "MANUAL KEY", "C"))
            credits += f"{extra['id']}\t{extra['beatport_metadata']['ARTIST']}\n"
            annotations += "\n"
        else:
            path = tmp_path / KEY / f"annotations/key/{extra['id']}.LOFI.key"
            write_text(path, extra["key"])
    write_text(tmp_path / MTG / "annotations/annotations.txt", annotations)
    write_text(tmp_path / MTG / "annotations/beatport_metadata.txt", credits)
    public = as_rows(load_items(TASKS["giantsteps"], tmp_path))
    official = as_rows(
        load_items(TASKS["giantsteps"], tmp_path, metadata=metadata_of("giantsteps"))
    )
    assert public.keys() == official.keys()
    assert {k: v[1:] for k, v in public.items()} == {k: v[1:] for k, v in official.items()}
    differing = [(public[k][0], official[k][0]) for k in public if public[k][0] != official[k][0]]
    assert differing == [("train", "valid")] * 20


def test_real_gtzan_lists_are_torchaudios(tmp_path):
    items = load_items(TASKS["gtzan"], tmp_path, metadata=metadata_of("gtzan"))
    for split in SPLITS:
        assert {i.clip_id for i in items if i.split == split} == set(gtzan_split(split))


def test_an_entry_without_split_or_target_is_left_out(built):
    root = built("magnatagatune", "jukemir")
    content = json.loads((root / "magnatagatune.json").read_text())
    assert {content[k]["split"] for k in ("00215", "35644")} == {None}
    assert content["00215"]["y"] is None
    clips = {item.clip_id for item in load_items(TASKS["magnatagatune"], root)}
    assert clips == content.keys() - {"00215", "35644"}
