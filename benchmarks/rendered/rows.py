"""The tasks, and the rows and columns of their table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from myna_plugin.probing.report.tables import Rows

KEY_TASK, STYLE_TASK, TAGS_TASK = "rendered_key", "rendered_style", "rendered_instruments"

SCENE_TASKS = (KEY_TASK, STYLE_TASK, TAGS_TASK)

NOTES_TASK = "rendered_notes"

UNPROBED = "untrained"
"""Name of the part whose embedding is taken for the head's outputs."""

COLUMNS: dict[tuple[str, str], str] = {
    (KEY_TASK, "weighted_key_score"): "key, weighted",
    (KEY_TASK, "accuracy"): "key, accuracy",
    (STYLE_TASK, "accuracy"): "style, accuracy",
    (TAGS_TASK, "roc_auc_macro"): "instruments, AUC",
    (TAGS_TASK, "average_precision_macro"): "instruments, AP",
    (NOTES_TASK, "event_onset_50ms_fms"): "notes, onset F",
}
"""Task and metric of each column."""

GOALS: dict[tuple[str, str], float] = {
    (KEY_TASK, "weighted_key_score"): 0.78,
    (STYLE_TASK, "accuracy"): 0.60,
    (TAGS_TASK, "roc_auc_macro"): 0.98,
    (TAGS_TASK, "average_precision_macro"): 0.94,
}
"""What the shipped weights are meant to reach."""


def table_rows(results: Mapping[str, Mapping[str, Any]]) -> Rows:
    """The table: for each model the part chosen on validation, then every part, then the goals.

    Args:
        results: contents of results files, by name of the contestant, then task.
    """
    columns = [key for key in COLUMNS if any(key[0] in tasks for tasks in results.values())]
    rows = [["embedding", *(COLUMNS[key] for key in columns)]]
    for name, tasks in results.items():
        rows.append([name, *(format_reported(tasks.get(task), metric) for task, metric in columns)])
        for part in parts_of(tasks):
            cells = [format_part(tasks.get(task), part, metric) for task, metric in columns]
            rows.append([f"… {part}", *cells])
    rows.append(["goal", *(f"{GOALS[key]:.2f}" if key in GOALS else "" for key in columns)])
    return rows


def parts_of(tasks: Mapping[str, Any]) -> list[str]:
    """Parts that have rows of their own: where there are several, and what is not probed."""
    names: list[str] = []
    for content in tasks.values():
        parts = content.get("parts", {})
        names += [*parts] if len(parts) > 1 else []
        names += [UNPROBED] if content.get(UNPROBED) else []
    return list(dict.fromkeys(names))


def format_reported(content: Mapping[str, Any] | None, metric: str) -> str:
    """The score of the part that was best on validation; "" where there is none."""
    if content is None:
        return ""
    score = content["scores"].get(metric)
    return format_score(score) if score else ""


def format_part(content: Mapping[str, Any] | None, part: str, metric: str) -> str:
    """The score of one part; the part chosen on validation has a star."""
    if content is None:
        return ""
    if part == UNPROBED:
        untrained = content.get(UNPROBED) or {}
        return f"{untrained[metric]:.3f}" if metric in untrained else ""
    if part not in content.get("parts", {}):
        return ""
    score = content["parts"][part]["scores"].get(metric)
    chosen = " *" if part == content["reported"] else ""
    return f"{format_score(score)}{chosen}" if score else ""


def format_score(score: Mapping[str, float | None]) -> str:
    """Mean and deviation over seeds.

    >>> format_score({"mean": 0.7834, "deviation": 0.0042}), format_score({"mean": None})
    ('0.783 ± 0.004', 'nan')
    """
    mean, deviation = score["mean"], score.get("deviation")
    if mean is None:
        return "nan"
    return f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
