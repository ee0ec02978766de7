"""Score against seconds for shares of the tokens: the table of docs/length.md as a picture.

python tools/draw_shares.py   # rewrites docs/images/shares.png; needs the extra `plot`
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "length.md"
PICTURE = ROOT / "docs" / "images" / "shares.png"
FIRST = "| model, tokens |"
"""How the table's heading begins."""

MODELS = {"ViT-S": ("tab:blue", "o"), "ViT-Ti": ("tab:orange", "s")}


def read_table(text: str) -> tuple[list[str], dict[str, dict[str, list[float]]]]:
    """The table's scores, and for each model its shares, as they are written, with their row.

    A row is seconds, times as fast, cosine and then the scores.
    """
    lines = iter(text[text.index(FIRST) :].splitlines())
    scores = _cells(next(lines))[4:]
    next(lines)
    models: dict[str, dict[str, list[float]]] = {name: {} for name in MODELS}
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
    """A panel for each score: the models' shares over the processor seconds of a clip."""
    scores, models = read_table(text)
    figure, panels = pyplot.subplots(1, len(scores), figsize=(2.4 * len(scores), 3.0))
    for column, (panel, score) in enumerate(zip(panels, scores, strict=True), start=3):
        sums = {m: sum(row[column] for row in rows.values()) for m, rows in models.items()}
        for model, rows in models.items():
            above = (
                5 if sums[model] == max(sums.values()) else -12
            )  # points, for what is written at a marker
            colour, marker = MODELS[model]
            seconds = [row[0] for row in rows.values()]
            values = [row[column] for row in rows.values()]
            panel.plot(seconds, values, color=colour, marker=marker, label=model)
            for share, x, y in zip(rows, seconds, values, strict=True):
                panel.annotate(share, (x, y), (0, above), textcoords="offset points", fontsize=7)
        middle = sum(panel.get_ylim()) / 2
        panel.set_ylim(middle - 0.06, middle + 0.06)  # the same height in every panel
        panel.set_xscale("log")
        ticks = [0.05, 0.1, 0.2, 0.4, 0.8]
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_title(score.replace(": ", ":\n"), fontsize=9)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.supxlabel("processor seconds for a clip of 30 s, one core", fontsize=9)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    draw(TABLE.read_text()).savefig(PICTURE, dpi=110)
