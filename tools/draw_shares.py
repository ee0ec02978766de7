"""Score against seconds for shares of the tokens: the table of docs/length.md as a picture.

python tools/draw_shares.py   # rewrites docs/images/shares.png; needs the extra `plot`
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "length.md"
PICTURE = ROOT / "docs" / "images" / "shares.png"
FIRST = "| model, tokens |"
"""How the table's heading begins."""

MODELS = {"ViT-S": ("tab:blue", "o"), "ViT-Ti": ("tab:orange", "s")}

TIMES = {
    0: ("processor seconds for a clip of 30 s, one core", [0.05, 0.1, 0.2, 0.4, 0.8]),
    2: ("milliseconds of a GPU for a clip of 30 s, 64 at once", [0.08, 0.12, 0.18]),
}
"""The table's columns of times: what each is, and where its axis has ticks."""

Models = dict[str, dict[str, list[float]]]
"""For each model its shares, as they are written, with their row."""


def read_table(text: str) -> tuple[list[str], Models]:
    """The table's scores, and for each model its shares, as they are written, with their row.

    A row is seconds, times as fast, milliseconds of a GPU, cosine and then the scores.
    """
    lines = iter(text[text.index(FIRST) :].splitlines())
    scores = _cells(next(lines))[5:]
    next(lines)
    models: Models = {name: {} for name in MODELS}
    for line in lines:
        if not line.startswith("|"):
            break
        name, *values = _cells(line)
        model, share = name.split(",")
        models[model.split()[0]][share.strip()] = [float(value) for value in values]
    return scores, models


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def draw(text: str) -> Figure:
    """A panel for each score and each of `TIMES`: the models' shares over the time they take."""
    scores, models = read_table(text)
    size = (2.4 * len(scores), 3.0 * len(TIMES))
    figure, rows = pyplot.subplots(len(TIMES), len(scores), figsize=size, sharey="col")
    for panels, (timed, (label, ticks)) in zip(rows, TIMES.items(), strict=True):
        for column, (panel, score) in enumerate(zip(panels, scores, strict=True), start=4):
            _draw_panel(panel, models, timed, column)
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
            panel.set_title(score.replace(": ", ":\n"), fontsize=9)
        panels[len(panels) // 2].set_xlabel(label, fontsize=9)
    rows[0][0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


def _draw_panel(panel: Axes, models: Models, timed: int, column: int) -> None:
    sums = {m: sum(row[column] for row in rows.values()) for m, rows in models.items()}
    for model, rows in models.items():
        colour, marker = MODELS[model]
        times = [row[timed] for row in rows.values()]
        values = [row[column] for row in rows.values()]
        panel.plot(times, values, color=colour, marker=marker, label=model)
        # Points, for what is written at a marker.
        above = 5 if sums[model] == max(sums.values()) else -12
        for share, x, y in zip(rows, times, values, strict=True):
            panel.annotate(share, (x, y), (0, above), textcoords="offset points", fontsize=7)
    middle = sum(panel.get_ylim()) / 2
    panel.set_ylim(middle - 0.06, middle + 0.06)  # the same height in every panel
    panel.set_xscale("log")
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(TABLE.read_text()).savefig(PICTURE, dpi=110)
