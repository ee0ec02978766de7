"""Figures of a probe experiment, drawn without a display."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix, r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from myna_plugin.common.files import write_whole
from myna_plugin.probing.experiment import Experiment
from myna_plugin.probing.heads import ProbeResult
from myna_plugin.probing.report.results import Result, explain_marks, find_marks, join_marks
from myna_plugin.probing.tasks import Item, Task, giantsteps
from myna_plugin.probing.tasks.metrics import label_scores
from myna_plugin.probing.tasks.task import SPLITS

DPI = 120

LEGEND_SIZE = 8
"""Of the letters below a figure, points."""

Colour = str | tuple[float, float, float, float]

TSNE_CLIPS = 3_000
"""Clips in a t-SNE figure at most, drawn with a fixed seed: its time grows with their number."""

PERPLEXITY = 30.0

LEAST_VECTORS = 4

TAGS_SHOWN = 9
"""Tags with a colour of their own in a t-SNE figure."""

OTHER = "none of these"

FIFTHS = tuple(
    giantsteps.TONICS[7 * i % 12] + mode for mode in (" major", " minor") for i in range(12)
)
"""Keys along the circle of fifths, major then minor."""

CIRCLE = tuple(
    key
    for i in range(12)
    for key in (
        f"{giantsteps.TONICS[7 * i % 12]} major",
        f"{giantsteps.TONICS[(7 * i + 9) % 12]} minor",
    )
)
"""Keys round the circle of fifths, each major key followed by its relative minor.

>>> CIRCLE[:4]
('C major', 'A minor', 'G major', 'E minor')
"""


def draw_figures(folder: Path, experiment: Experiment) -> None:
    """Write the figures of a task: its embeddings, and the first run's test predictions.

    A line below predictions says what their scores may not be compared with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.png"):  # of an earlier run, which may have been of another task
        path.unlink()
    task, probed = experiment.data.task, experiment.probed
    part = probed.parts[probed.reported]
    tsne = draw_tsne(task, experiment.data.items, probed.vectors, part)
    if tsne is not None:
        save(tsne, folder / "tsne.png")
    protocol = experiment.protocol
    n_missing = len(experiment.data.left_out.keys() - task.known_faults.keys())
    legend = explain_marks(find_marks(protocol.grid, protocol.patience, n_missing))
    for name, draw in figures_of_test(task).items():
        figure = draw(task, probed.results[probed.reported].folds[0][0])
        add_legend(figure, legend)
        save(figure, folder / f"{name}.png")


def add_legend(figure: Figure, legend: str) -> None:
    """Write below a figure what marks its scores; nothing for ""."""
    # As wide as the narrowest figure, and between the circles of keys.
    told = "\n".join(textwrap.wrap(legend, max(60, int(7 * figure.get_figwidth()))))
    if told and figure.legends:  # under whose box a label of the whole figure would lie
        figure.legends[0].set_title(told, FontProperties(size=LEGEND_SIZE))
    elif told:
        figure.supxlabel(told, size=LEGEND_SIZE)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(path, file.getbuffer())


def draw_tsne(
    task: Task, items: Sequence[Item], vectors: Mapping[str, np.ndarray], part: slice
) -> Figure | None:
    """Clips of each split in one t-SNE plane, coloured by class (paper Figure 5).

    Tags: by the most frequent that a clip has. Regression: by the first output.

    Args:
        task: its labels.
        items: clips.
        vectors: by clip_id, shape (K, D); chunks are averaged.
        part: of the features.

    Returns:
        None for fewer than 4 different vectors, which make no plane.
    """
    rng = np.random.default_rng(0)
    chosen = sorted(rng.permutation(len(items))[:TSNE_CLIPS])
    items = [items[i] for i in chosen]
    features = np.stack([vectors[item.clip_id].mean(axis=0)[part] for item in items])
    # Of equal vectors only (a silent module's), scikit-learn's start is NaN and its tree crashes.
    different, owner = np.unique(features, axis=0, return_inverse=True)
    if len(different) < LEAST_VECTORS:
        return None
    plane = TSNE(
        perplexity=min(PERPLEXITY, (len(different) - 1) / 3), init="pca", random_state=0
    ).fit_transform(StandardScaler().fit_transform(different))[owner.reshape(-1)]
    splits = np.array([item.split for item in items])
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    panels = figure.subplots(1, len(SPLITS), sharex=True, sharey=True)
    paint = _paint_values if task.loss == "mse" else _paint_classes
    paint(figure, panels, task, items, splits, plane)
    for panel, split in zip(panels, SPLITS, strict=True):
        panel.set_title(f"{split} ({(splits == split).sum()} clips)")
        panel.set_xticks([])
        panel.set_yticks([])
    figure.suptitle(f"{task.title}: embeddings by t-SNE")
    return figure


def _paint_classes(
    figure: Figure,
    panels: Sequence[Axes],
    task: Task,
    items: Sequence[Item],
    splits: np.ndarray,
    plane: np.ndarray,
) -> None:
    names = np.array([_class_name(task, item) for item in items])
    shown = [name for name in (*_class_order(task), OTHER) if name in set(names.tolist())]
    for panel, split in zip(panels, SPLITS, strict=True):
        for name in shown:
            rows = (names == name) & (splits == split)
            colour, marker = _style(task, name)
            panel.scatter(
                plane[rows, 0], plane[rows, 1], s=14, color=colour, marker=marker, linewidths=0
            )
    handles = [
        matplotlib.lines.Line2D([], [], color=c, marker=m, linestyle="", label=name)
        for name in shown
        for c, m in (_style(task, name),)
    ]
    figure.legend(
        handles=handles, loc="outside right center", ncols=1 + (len(shown) > 13), fontsize="small"
    )


def _class_order(task: Task) -> tuple[str, ...]:
    if task.loss == "bce":
        return task.labels[:TAGS_SHOWN]
    return CIRCLE if task.labels == giantsteps.KEYS else task.labels


def _class_name(task: Task, item: Item) -> str:
    if task.loss == "cross_entropy":
        return str(item.target)
    return next((str(tag) for tag in _class_order(task) if tag in item.target), OTHER)


def _style(task: Task, name: str) -> tuple[Colour, str]:
    """Colour and marker of a class: a hue round the circle of fifths for keys."""
    if name == OTHER:
        return "lightgrey", "o"
    order = _class_order(task)
    place = order.index(name)
    if order == CIRCLE:
        return matplotlib.colormaps["hsv"](place // 2 / 12), "so"[place % 2]
    if len(order) <= 10:
        return matplotlib.colormaps["tab10"](place), "o"
    return matplotlib.colormaps["nipy_spectral"]((place + 0.5) / len(order)), "o^sD"[place % 4]


def _paint_values(
    figure: Figure,
    panels: Sequence[Axes],
    task: Task,
    items: Sequence[Item],
    splits: np.ndarray,
    plane: np.ndarray,
) -> None:
    values = np.array([item.target[0] for item in items], dtype=float)
    for panel, split in zip(panels, SPLITS, strict=True):
        rows = splits == split
        points = panel.scatter(
            plane[rows, 0],
            plane[rows, 1],
            c=values[rows],
            s=16,
            vmin=values.min(),
            vmax=values.max(),
            linewidths=0,
        )
    figure.colorbar(points, ax=list(panels), label=task.labels[0])


def draw_confusion(task: Task, run: ProbeResult) -> Figure:
    """Annotated against predicted class, in percent of each annotated class.

    Classes that are neither are left out: of 128 notes most tasks have some. Keys stand in the
    order of the circle of fifths, major keys before minor ones, so that fifths are beside the
    diagonal and parallel keys lie on the other blocks' diagonals.
    """
    names = np.array(task.labels)
    annotated, predicted = names[run.targets], names[run.outputs.argmax(axis=1)]
    seen = {*annotated, *predicted}
    is_key = task.labels == giantsteps.KEYS
    labels = FIFTHS if is_key else tuple(label for label in task.labels if label in seen)
    counts = confusion_matrix(annotated, predicted, labels=list(labels))
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100.0 * counts / np.maximum(totals, 1)
    size = 4.0 + 0.32 * len(labels)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 50 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, size=8)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    ticks = [f"{label} ({total})" for label, total in zip(labels, totals[:, 0], strict=True)]
    axes.set_yticks(range(len(labels)), ticks)
    if is_key:
        axes.axhline(11.5, color="grey", linewidth=0.8)
        axes.axvline(11.5, color="grey", linewidth=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("annotated (number)")
    unit = "tracks" if task.clip_rule.per_track else "clips"
    axes.set_title(f"{task.title}: test {unit}, counts; shade: share of the annotated class")
    figure.colorbar(image, ax=axes, shrink=0.7, label="percent of the annotated class")
    return figure


def draw_key_circle(task: Task, run: ProbeResult) -> Figure:
    """What is predicted, as seen from the annotated key, round the circle of fifths.

    Every track is turned so that its annotated key is at the top; major and minor keys have a
    circle each. A minor key stands with its relative major.
    """
    mode = np.arange(24) // 12
    tonic = np.arange(24) % 12
    # A minor key's relative major is three semitones up; seven semitones are one step.
    position = 7 * (tonic + 3 * mode) % 12
    predicted = run.outputs.argmax(axis=1)
    steps = (position[predicted] - position[run.targets]) % 12
    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    panels = figure.subplots(1, 2, subplot_kw={"projection": "polar"})
    rings = np.array([1, 5, 10, 25, 50, 100])
    for panel, of_mode, title in zip(panels, (0, 1), ("major", "minor"), strict=True):
        rows = mode[run.targets] == of_mode
        total = max(int(rows.sum()), 1)
        angle = np.arange(12) * 2 * np.pi / 12
        for same, label, colour in ((1, "same mode", "tab:blue"), (0, "other mode", "tab:orange")):
            chosen = rows & ((mode[predicted] == of_mode) == bool(same))
            share = 100.0 * np.bincount(steps[chosen], minlength=12) / total
            offset = 0.11 if same else -0.11
            # Roots, so that a bar's area goes with its share and rare errors can be seen.
            panel.bar(angle + offset, np.sqrt(share), width=0.2, color=colour, label=label)
        panel.set_theta_zero_location("N")
        panel.set_theta_direction(-1)
        distances = [f"{step:+d}" if step else "same" for step in (*range(7), *range(-5, 0))]
        panel.set_xticks(angle, distances)
        panel.set_ylim(0, 10)
        panel.set_yticks(np.sqrt(rings), [f"{ring} %" for ring in rings], size=7)
        panel.set_rlabel_position(105)
        panel.set_title(f"annotated {title} ({int(rows.sum())})", pad=14)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(
        f"{task.title}: predicted keys, in steps round the circle of fifths from the annotated key"
        "\nThe other mode at “same” is the relative key\n"
    )
    return figure


def draw_tag_areas(task: Task, run: ProbeResult) -> Figure:
    """Area under the ROC curve of each tag, the best first."""
    areas = label_scores(roc_auc_score, run.outputs, run.targets, task.labels)
    order = np.argsort(areas)
    figure = Figure(figsize=(7, 1.5 + 0.2 * len(areas)), layout="constrained")
    axes = figure.subplots()
    names = [f"{task.labels[i]} ({int(np.nansum(run.targets[:, i]))})" for i in order]
    axes.barh(names, 100 * areas[order], color="tab:blue")
    axes.axvline(100 * areas.mean(), color="black", linestyle="--", linewidth=1)
    axes.axvline(50, color="grey", linewidth=0.8)
    axes.set_xlim(min(40.0, 100 * areas.min() - 2), 100)
    axes.set_ylim(-0.7, len(areas) - 0.3)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("area under the ROC curve, percent (dashed: mean; grey: chance)")
    axes.set_title(f"{task.title}: tags on the test clips (number of clips)")
    return figure


def draw_outputs(task: Task, run: ProbeResult) -> Figure:
    """Predicted against annotated values, and, of two outputs, where clips lie in their plane."""
    n_outputs = len(task.labels)
    with_plane = n_outputs == 2
    figure = Figure(figsize=(4.4 * (n_outputs + with_plane), 4.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, n_outputs + with_plane))
    if with_plane:
        _draw_plane(panels[0], task, run)
    for i, panel in enumerate(panels[with_plane:]):
        truth, guess = run.targets[:, i], run.outputs[:, i]
        panel.scatter(truth, guess, s=14, color="tab:blue", linewidths=0)
        ends = [min(truth.min(), guess.min()), max(truth.max(), guess.max())]
        panel.plot(ends, ends, color="grey", linewidth=0.8)
        panel.set_aspect("equal")
        panel.set_xlabel("annotated")
        panel.set_ylabel("predicted")
        panel.set_title(f"{task.labels[i]}: R² {100 * r2_score(truth, guess):.1f} %")
    figure.suptitle(f"{task.title}: test clips")
    return figure


def _draw_plane(panel: Axes, task: Task, run: ProbeResult) -> None:
    # Valence runs to the right, arousal up, as in the circumplex.
    columns = [1, 0] if task.labels == ("arousal", "valence") else [0, 1]
    truth, guess = run.targets[:, columns], run.outputs[:, columns]
    lines = np.stack([truth, guess], axis=1)
    panel.add_collection(
        matplotlib.collections.LineCollection(list(lines), colors="lightgrey", linewidths=0.7)
    )
    panel.scatter(
        truth[:, 0], truth[:, 1], s=14, color="black", linewidths=0, label="annotated", zorder=2
    )
    panel.scatter(
        guess[:, 0],
        guess[:, 1],
        s=14,
        color="tab:orange",
        linewidths=0,
        label="predicted",
        zorder=2,
    )
    panel.axhline(0, color="grey", linewidth=0.5)
    panel.axvline(0, color="grey", linewidth=0.5)
    panel.set_xlabel(task.labels[columns[0]])
    panel.set_ylabel(task.labels[columns[1]])
    panel.legend(fontsize="small")


def draw_cost(results: Sequence[Result]) -> Figure | None:
    """Score against what an hour of audio costs to embed (after paper Figure 1).

    One panel a task; colour by device, since seconds on different ones do not compare.

    Returns:
        None where no result has a cost.
    """
    known = [result for result in results if result.cost is not None]
    if not known:
        return None
    tasks = list(dict.fromkeys(result.title for result in known))
    devices = list(dict.fromkeys(r.cost.device for r in known if r.cost))
    figure = Figure(figsize=(4.8 * len(tasks), 4.4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        costs = [r.cost.seconds_per_hour for r in known if r.title == task and r.cost]
        middle = (min(costs) * max(costs)) ** 0.5
        for result in known:
            if result.title != task or result.cost is None:
                continue
            x, y = result.cost.seconds_per_hour, 100 * result.best[result.primary][0]
            panel.scatter(x, y, color=f"C{devices.index(result.cost.device)}")
            # Names run inwards, not into the next panel.
            name_point(panel, result.name + result.marks, x, y, to_left=x > middle)
            metric = result.primary
        panel.set_xscale("log")
        panel.margins(0.25)
        panel.set_xlabel("seconds of computing for an hour of audio")
        panel.set_ylabel(f"{metric}, percent")
        panel.set_title(task)
    handles = [
        matplotlib.lines.Line2D([], [], color=f"C{i}", marker="o", linestyle="", label=device)
        for i, device in enumerate(devices)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(devices))
    add_legend(figure, explain_marks(join_marks(known)))
    return figure


def name_point(panel: Axes, name: str, x: float, y: float, to_left: bool) -> None:
    """Write a name beside a point, to its left or right."""
    written = panel.annotate(
        name,
        (x, y),
        xytext=(-5 if to_left else 5, 5),
        textcoords="offset points",
        size=9,
        ha="right" if to_left else "left",
    )
    written.set_in_layout(False)  # however long it is, the panel keeps its size


Drawing = Callable[[Task, ProbeResult], Figure]


def figures_of_test(task: Task) -> dict[str, Drawing]:
    """Figures of test predictions that suit a task, by file name."""
    drawings: dict[str, dict[str, Drawing]] = {
        "cross_entropy": {"confusion": draw_confusion},
        "bce": {"tag_areas": draw_tag_areas},
        "mse": {"outputs": draw_outputs},
    }
    circle = {"key_circle": draw_key_circle} if task.labels == giantsteps.KEYS else {}
    return drawings[task.loss] | circle
