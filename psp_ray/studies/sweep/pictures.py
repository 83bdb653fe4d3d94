"""Pictures of a sweep: accuracy against budget, and against each setting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from psp_ray.core.files import save_figure
from psp_ray.studies.sweep.analysis import Analysis, ordinal, trend
from psp_ray.studies.sweep.space import BUDGET

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")
MARKERS = "os^Dvp*X"


def draw_pareto(analysis: Analysis, path: Path) -> None:
    """A panel a data set: every trial's rounds as faint lines by budget, the Pareto front, and the references."""
    names = list(analysis.plan.datasets)
    figure = Figure(figsize=(5.2 * len(names), 4.2), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)
    for panel, name in zip(axes[0], names, strict=True):
        for place, budget in enumerate(analysis.plan.labels_per_class):
            color = COLORS[place % len(COLORS)]
            label: str | None = f"{budget} label{'s' if budget > 1 else ''} a class and round"
            for trial in analysis.trials:
                if trial.point[BUDGET] != budget or not trial.rounds:
                    continue
                labels = [row["labels"][name] for row in trial.rounds]
                accuracy = [100 * row["accuracy"][name] for row in trial.rounds]
                panel.plot(labels, accuracy, color=color, alpha=0.3, linewidth=1, label=label)
                panel.plot(labels[-1:], accuracy[-1:], "o", color=color, markersize=4)
                label = None
        front = analysis.pareto(name)
        most = max(row["labels"][name] for trial in analysis.trials for row in trial.rounds)
        front.append((most, front[-1][1]))
        panel.step([p[0] for p in front], [100 * p[1] for p in front], "k-", where="post", linewidth=1.5,
                   label="best with so many labels")  # fmt: skip
        found = analysis.references.get(name)
        if found is not None:
            for value, text, style in (
                (found.full, "all labels" if found.tied else "all labels (score 1)", "--"),
                (found.random, "random, smallest budget (score 0)", ":"),
            ):
                panel.axhline(100 * value, color="tab:gray", linestyle=style, linewidth=1, label=text)
        panel.set_xlabel("labels bought")
        panel.set_ylabel("val accuracy (%)")
        panel.set_title(name)
        panel.grid(alpha=0.3)
    handles = {text: handle for panel in axes[0] for handle, text in zip(*panel.get_legend_handles_labels())}  # noqa: B905
    legend = figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=3 if len(names) > 1 else 2, fontsize=8
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    save_figure(figure, path, dpi=150)


def draw_sensitivity(analysis: Analysis, path: Path) -> None:
    """A panel a setting: accuracy less the mean of its budget, a mark a trial, with the trend of each data set."""
    keys = analysis.sensitivity_keys()
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    logarithmic = {d.key for d in analysis.plan.dimensions if d.log}
    for place, key in enumerate(keys):
        panel = axes.flat[place]
        values, effects = analysis.effects(key)
        numbers, names = ordinal(values)
        looks = zip(COLORS * len(effects), MARKERS * len(effects), effects.items(), strict=False)
        for color, marker, (dataset, effect) in looks:
            panel.plot(numbers, effect, marker, color=color, alpha=0.5, markersize=5, label=dataset)
            if len(set(numbers)) > 1:
                panel.plot(*trend(np.array(numbers), effect), "-", color=color, linewidth=1.5)
        panel.axhline(0, color="tab:gray", linewidth=0.8)
        if key in logarithmic:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.xaxis.set_minor_formatter(NullFormatter())
        if names is not None:
            panel.set_xticks(range(len(names)), names, rotation=20)
        panel.set_xlabel(key)
        panel.grid(alpha=0.3)
        if place % columns == 0:
            panel.set_ylabel("accuracy less mean of\nits budget (points)")
        if place == 0:
            panel.legend(fontsize=8)
    for panel in axes.flat[len(keys) :]:
        panel.set_visible(False)
    save_figure(figure, path, dpi=150)
