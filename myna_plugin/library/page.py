"""A library as a page: points that say what they are, in one file that needs no network."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from myna_plugin.common.files import write_text
from myna_plugin.library.picture import COLOURS

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>@TITLE@</title>
<meta name="viewport" content="width=device-width">
<style>
body { margin: 0; font: 14px sans-serif; display: flex; height: 100vh; }
main { flex: 1; position: relative; min-width: 0; }
canvas { width: 100%; height: 100%; display: block; }
aside { width: 16em; padding: 1em; overflow: auto; }
h1 { font-size: 1em; }
button { display: block; width: 100%; border: 0; background: none; font: inherit; text-align: left;
  padding: .2em 0; overflow-wrap: anywhere; cursor: pointer; }
button[aria-pressed=false] { opacity: .3; }
i { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .5em; }
#told { position: absolute; max-width: 24em; padding: .4em .6em; background: #fffd;
  border: 1px solid #999; pointer-events: none; white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
<main><canvas></canvas><div id="told" hidden></div></main>
<aside><h1>@TITLE@</h1><p>The wheel zooms, dragging moves, names show and hide.</p></aside>
<script type="application/json" id="data">@DATA@</script>
<script>
const {points, texts, groups} = JSON.parse(document.getElementById("data").textContent);
const canvas = document.querySelector("canvas"), told = document.getElementById("told");
const pen = canvas.getContext("2d"), hidden = new Set();
const size = Math.max(2, Math.min(7, 150 / Math.sqrt(points.length)));
let zoom = 1, left = 0, top_ = 0, from = null;

function place([x, y]) {
  const side = Math.min(canvas.clientWidth, canvas.clientHeight) - 40;
  const sideways = (canvas.clientWidth - side) / 2, down = (canvas.clientHeight - side) / 2;
  return [(sideways + x * side) * zoom + left, (down + (1 - y) * side) * zoom + top_];
}
function draw() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  pen.scale(ratio, ratio);
  pen.globalAlpha = 0.7;
  for (const point of points) {
    if (hidden.has(point[2])) continue;
    pen.fillStyle = groups[point[2]].colour;
    pen.beginPath();
    pen.arc(...place(point), size, 0, 2 * Math.PI);
    pen.fill();
  }
}
function nearest(x, y) {
  let best = -1, least = 144;
  points.forEach((point, i) => {
    const [px, py] = place(point), distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least && !hidden.has(point[2])) { best = i; least = distance; }
  });
  return best;
}
canvas.addEventListener("mousemove", event => {
  if (from) {
    left += event.offsetX - from[0]; top_ += event.offsetY - from[1];
    from = [event.offsetX, event.offsetY];
    draw();
  }
  const found = from ? -1 : nearest(event.offsetX, event.offsetY);
  told.hidden = found < 0;
  if (found < 0) return;
  told.textContent = texts[found];
  const inLeft = event.offsetX < canvas.clientWidth / 2;
  const above = event.offsetY > canvas.clientHeight / 2;
  told.style.left = inLeft ? event.offsetX + 14 + "px" : "auto";
  told.style.right = inLeft ? "auto" : canvas.clientWidth - event.offsetX + 14 + "px";
  told.style.top = above ? "auto" : event.offsetY + "px";
  told.style.bottom = above ? canvas.clientHeight - event.offsetY + "px" : "auto";
});
canvas.addEventListener("mousedown", event => { from = [event.offsetX, event.offsetY]; });
window.addEventListener("mouseup", () => { from = null; });
canvas.addEventListener("mouseleave", () => { told.hidden = true; });
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const by = Math.exp(-event.deltaY / 500);
  left = event.offsetX - (event.offsetX - left) * by;
  top_ = event.offsetY - (event.offsetY - top_) * by;
  zoom *= by;
  draw();
}, {passive: false});
window.addEventListener("resize", draw);
groups.forEach((group, i) => {
  const button = document.createElement("button"), mark = document.createElement("i");
  mark.style.background = group.colour;
  button.append(mark, `${group.name} (${group.count})`);
  button.setAttribute("aria-pressed", "true");
  button.onclick = () => {
    button.setAttribute("aria-pressed", String(hidden.has(i)));
    if (!hidden.delete(i)) hidden.add(i);
    draw();
  };
  document.querySelector("aside").append(button);
});
draw();
</script>
</html>
"""


def write_page(
    points: np.ndarray, groups: Sequence[str], texts: Sequence[str], title: str, path: Path
) -> None:
    """Write a page of points, whole or not at all, making the folders to it.

    Args:
        points: shape (N, 2).
        groups: of each point; the largest is drawn first.
        texts: what is said of each point that is under the mouse.
        title: of the page.
        path: of the file.
    """
    counts = Counter(groups).most_common()
    number = {name: i for i, (name, _) in enumerate(counts)}
    low, span = points.min(0), np.ptp(points, axis=0).max() or 1.0
    middle = (1 - np.ptp(points, axis=0) / span) / 2
    order = sorted(range(len(points)), key=lambda i: number[groups[i]])
    within = np.round((points - low) / span + middle, 4)
    data = {
        "points": [[*map(float, within[i]), number[groups[i]]] for i in order],
        "texts": [texts[i] for i in order],
        "groups": [
            {"name": name, "count": count, "colour": COLOURS[i % len(COLOURS)]}
            for i, (name, count) in enumerate(counts)
        ],
    }
    # "<" would let a name end the script that holds it.
    told = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    words = {"TITLE": html.escape(title), "DATA": told}
    page = re.sub("@(TITLE|DATA)@", lambda found: words[found[1]], PAGE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
