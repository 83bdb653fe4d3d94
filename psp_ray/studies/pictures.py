"""`curves_<dataset>.png`: learning curves with a band of one standard deviation, random in every panel."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from psp_ray.core.files import save_figure
from psp_ray.core.writing import writing
from psp_ray.studies.names import file_name
from psp_ray.studies.tables import Key, Panel, is_reference, labels_title, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's eight colors without yellow, which is too pale on white; black is random's.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#882255", "#666666"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
MOST_LINES = 8
"""Lines in a panel; with more, each self-training gets panels of its own, then the strategies are dealt out."""
RANDOM: Key = ("random", "none")


def picture_name(dataset: str) -> str:
    return f"curves_{file_name(dataset)}.png"


def drop_others(folder: Path, names: Collection[str]) -> None:
    """Remove learning curves in `folder` that are not among `names`: of data sets that the tables no longer show."""
    for path in folder.glob("curves_*.png"):
        if path.name not in names:
            with writing(path):
                path.unlink()


def draw_curves(path: Path, results: pd.DataFrame, curves: pd.DataFrame, dataset: str, split: str) -> None:
    """Draw one data set: a row of panels for each number of labels per class."""
    times: list[int | None] = [*sorted({int(item) for item in results.labels_per_class.dropna()})] or [None]
    parts = [panel(results, curves, [dataset], count) for count in times]
    keys = [key for key in parts[0].keys if not is_reference(key)]
    groups = _groups(keys)
    styles = _styles(keys)
    columns = max(1, len(groups))
    figure = Figure(figsize=(5.2 * columns + 0.4, 4.6 * len(times)), layout="constrained")
    axes = figure.subplots(len(times), columns, sharey=True, squeeze=False)
    for row, (count, part) in enumerate(zip(times, parts, strict=True)):
        for column, group in enumerate(groups or [[]]):
            _draw_panel(axes[row][column], part, group, styles)
            if len(times) > 1:
                axes[row][column].set_title(f"{labels_title(count)} per class and round", fontsize=10)
            if column == 0:
                axes[row][column].set_ylabel(f"{split} accuracy (%)")
    for column in range(columns):
        handles, names = axes[0][column].get_legend_handles_labels()
        axes[-1][column].legend(
            handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, fontsize=8.5,
            handlelength=3.2,
        )  # fmt: skip
    figure.suptitle(f"{dataset}: mean over seeds, band of one standard deviation", fontsize=11)
    save_figure(figure, path, dpi=110)


def _groups(keys: list[Key]) -> list[list[Key]]:
    """Keys by panel; `random` without self-training is drawn in all of them and counted in none."""
    rest = [key for key in keys if key != RANDOM]
    if len(rest) <= MOST_LINES:
        return [rest]
    groups = []
    for training in dict.fromkeys(key[1] for key in rest):
        own = [key for key in rest if key[1] == training]
        pieces = -(-len(own) // MOST_LINES)
        size = -(-len(own) // pieces)
        groups += [own[i : i + size] for i in range(0, len(own), size)]
    return groups


def _styles(keys: list[Key]) -> dict[Key, dict[str, Any]]:
    """A color and a marker for each strategy; self-training is a solid line, none a dotted one where both occur."""
    names = list(dict.fromkeys(key[0] for key in keys if key[0] != "random"))
    both = len({key[1] for key in keys}) > 1
    styles: dict[Key, dict[str, Any]] = {}
    for key in keys:
        place = names.index(key[0]) if key[0] != "random" else -1
        dotted = both and key[1] == "none"
        styles[key] = {
            "color": "black" if place < 0 else COLORS[place % len(COLORS)],
            "marker": "." if place < 0 else MARKERS[(place + place // len(COLORS)) % len(MARKERS)],
            "linestyle": (0, (1.2, 1.2)) if dotted else "-",
            "markerfacecolor": "white" if dotted else None,
            "linewidth": 2.0 if place < 0 else 1.5,
            "markersize": 5,
        }
    return styles


def _draw_panel(axes: Axes, part: Panel, group: list[Key], styles: dict[Key, dict[str, Any]]) -> None:
    drawn = [*([RANDOM] if RANDOM in part.keys else []), *group]
    both = len({key[1] for key in styles}) > 1
    for key in drawn:
        curve = part.curve(key)
        curve = curve[curve.index > 0]
        if curve.empty:
            continue
        label = f"{key[0]} · {'self-training' if key[1] != 'none' else 'none'}" if both else key[0]
        mean, spread = 100 * curve["mean"], 100 * curve["std"].fillna(0.0)
        axes.plot(curve.labels, mean, label=label, **styles[key])
        axes.fill_between(curve.labels, mean - spread, mean + spread, color=styles[key]["color"], alpha=0.12, lw=0)
    for name, height in _lines(part).items():
        axes.axhline(height, color="#444444", linestyle=(0, (6, 3)), linewidth=1)
        axes.annotate(
            f"{name} {height:.1f}", (0.0, height), xycoords=("axes fraction", "data"), xytext=(3, 2),
            textcoords="offset points", ha="left", va="bottom", fontsize=8, color="#444444",
        )  # fmt: skip
    axes.set_xlabel("labels bought")
    axes.grid(alpha=0.25)
    axes.margins(y=0.08)
    axes.set_xlim(left=0)


def _lines(part: Panel) -> dict[str, float]:
    """Heights (%) of the dashed lines: zero-shot, known from any run, and `full` where it was run."""
    found: dict[str, float] = {}
    start = part.curves[part.curves["round"] == 0]
    if not start.empty:
        found["zero-shot"] = 100 * float(start.accuracy.mean())
    full = part.results[(part.results.strategy.str.split(" ").str[0] == "full") & (part.results.status == "finished")]
    if not full.empty:
        found["fully labeled"] = 100 * float(full.final_accuracy.mean())
    return found
