"""Results as one HTML page that opens from disk: figures inside, nothing fetched."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from myna_plugin.probing.report.tables import Rows

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h1, h2, h3 { line-height: 1.25; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .75rem; text-align: left; }
thead th { vertical-align: bottom; }
.number { text-align: right; }
td.number { white-space: nowrap; }
tbody tr:hover { background: #f2f5fa; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #555; }
"""


@dataclass(frozen=True)
class Image:
    """A figure: PNG data, and what it shows."""

    data: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page: heading, paragraphs, tables, what their signs stand for, figures."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Rows] = ()
    images: Sequence[Image] = ()
    legend: str = ""


def read_images(folder: Path, captions: dict[str, str]) -> list[Image]:
    """The PNG files of a folder that have a caption, in the captions' order."""
    return [
        Image((folder / f"{name}.png").read_bytes(), caption)
        for name, caption in captions.items()
        if (folder / f"{name}.png").is_file()
    ]


def render_page(title: str, sections: Sequence[Section]) -> str:
    """The page's HTML.

    >>> "<td>a &lt; b</td>" in render_page("t", [Section("s", tables=[[["x"], ["a < b"]]])])
    True
    """
    body = "\n".join(_render_section(section) for section in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _render_section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
    parts += [_render_table(rows) for rows in section.tables]
    parts += [f"<p>{html.escape(section.legend)}</p>"] if section.legend else []
    parts += [_render_image(image) for image in section.images]
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _render_table(rows: Rows) -> str:
    """Columns of numbers are set to the right, others to the left."""
    head, *body = rows
    classes = [
        ' class="number"' if _are_numbers([row[i] for row in body]) else ""
        for i in range(len(head))
    ]

    def render_row(tag: str, row: Sequence[str]) -> str:
        cells = zip(classes, row, strict=True)
        return (
            "<tr>"
            + "".join(f"<{tag}{c}>{html.escape(cell)}</{tag}>" for c, cell in cells)
            + "</tr>"
        )

    return (
        f'<div class="wide"><table>\n<thead>{render_row("th", head)}</thead>\n<tbody>\n'
        + "\n".join(render_row("td", row) for row in body)
        + "\n</tbody>\n</table></div>"
    )


def _are_numbers(cells: Sequence[str]) -> bool:
    """Whether all cells that are not empty start with a number.

    >>> _are_numbers(["", "+1.5", "87.5 ± 0.2"]), _are_numbers(["1", "a 1"])
    (True, False)
    """
    return all(re.match(r"[-+]?\d", cell) for cell in cells if cell)


def _render_image(image: Image) -> str:
    data = base64.b64encode(image.data).decode("ascii")
    caption = html.escape(image.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
