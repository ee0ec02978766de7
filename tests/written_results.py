"""Results files, made up, and what is printed of them, read back."""

import json
from html.parser import HTMLParser
from pathlib import Path

from myna_plugin.probing.tasks import TASKS


def write_result(folder: Path, task: str, name: str, score: float, **changes: object) -> Path:
    """A results file of two parts; `score` is every metric of the reported one."""
    described = TASKS[task]
    part = {
        "width": 4,
        "valid_score": 0.5,
        "scores": {metric: {"mean": score, "deviation": None} for metric in described.metrics},
        "runs": [],
    }
    worse = {**part, "valid_score": 0.4}
    content = {
        "format": 1,
        "name": name,
        "task": {
            "name": task,
            "title": described.title,
            "metrics": list(described.metrics),
            "primary": described.primary,
            "reported_as": dict(described.reported_as),
        },
        "module": {"pool": "clip", "cost": {"seconds_per_hour": 3.0, "device": "CPU"}},
        "probe": {"grid": "full", "folds": 1, "seeds": 1},
        "reported": "hybrid",
        "parts": {"square": worse, "hybrid": part},
        "data": {"left_out": {}},
        "date": "2026-01-01T00:00:00+00:00",
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def table_row(output: str, start: str) -> list[str]:
    """Cells of the first row that starts so: the summary comes first."""
    line = next(line for line in output.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


class Page(HTMLParser):
    """Tags that are open at the end, and addresses that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
