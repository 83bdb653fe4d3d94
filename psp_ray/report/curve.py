"""The learning curve of a run, and how far its probabilities can be trusted, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from psp_ray.core.files import save_figure
from psp_ray.posterior.accuracy import Estimate, telling
from psp_ray.posterior.calibration import Reliability
from psp_ray.report.round_report import RoundReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_learning_curve(
    path: Path,
    reports: Sequence[RoundReport],
    zero_shot: float | None,
    title: str,
    split: str,
    zero_shot_estimate: Estimate | None = None,
) -> None:
    """Draw `learning_curve` into the PNG file `path`."""
    save_figure(learning_curve(reports, zero_shot, title, split, zero_shot_estimate), path, dpi=150)


def learning_curve(
    reports: Sequence[RoundReport],
    zero_shot: float | None,
    title: str,
    split: str,
    zero_shot_estimate: Estimate | None = None,
) -> Figure:
    """Accuracy (%) against labels, with zero-shot as the starting point.

    Beside accuracy on `split`, where it is known (`zero_shot` is None where not), stands the estimate from the draws
    with its 95 % interval.
    """
    from matplotlib.figure import Figure

    labels = [0, *(report.labels_total for report in reports)]
    estimates = [zero_shot_estimate, *(report.pool_accuracy_estimate for report in reports)]
    known = [(x, e) for x, e in zip(labels, estimates, strict=True) if telling(e)]
    tested = zero_shot is not None
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    if known:
        _draw_estimates(axes, known)
    if zero_shot is not None:
        _draw_tested(axes, labels, [zero_shot, *(report.test_accuracy or 0.0 for report in reports)], split)
    if not tested and not known:
        axes.text(0.5, 0.5, "no test set, and no estimate from the draws", ha="center", transform=axes.transAxes)
    axes.set_xlabel("labels")
    axes.set_ylabel(f"{split} accuracy (%)" if tested and not known else "accuracy (%)")
    axes.set_title(title)
    axes.margins(x=0.09, y=0.12)  # room for the number at the last point
    if known:
        axes.set_ylim(max(axes.get_ylim()[0], -3), min(axes.get_ylim()[1], 103))
    axes.grid(alpha=0.3)
    if tested or known:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small")  # no point or bar lies behind it
    return figure


def _draw_estimates(axes: Axes, known: list[tuple[int, Estimate]]) -> None:
    """Accuracy estimates of the pool at their numbers of labels, with bars for the intervals."""
    value = [100 * e.value for _, e in known]
    reach = [[100 * (e.value - e.low) for _, e in known], [100 * (e.high - e.value) for _, e in known]]
    axes.errorbar(
        [x for x, _ in known],
        value,
        yerr=reach,
        fmt="s--",
        color="tab:orange",
        alpha=0.8,
        linewidth=1,
        markersize=4,
        capsize=3,
        label="estimate for the pool (95 %)",
    )


def _draw_tested(axes: Axes, labels: list[int], accuracies: list[float], split: str) -> None:
    """Accuracy on labeled images, zero-shot first; the last point carries its number."""
    percent = [100 * accuracy for accuracy in accuracies]
    axes.plot(labels, percent, marker="o", color="tab:blue", label=f"{split} accuracy")
    axes.axhline(percent[0], color="tab:gray", linestyle="--", linewidth=1, label="zero-shot")
    axes.annotate(
        f"{percent[-1]:.1f} %",
        (labels[-1], percent[-1]),
        textcoords="offset points",
        xytext=(0, 8),
        ha="center",
    )


def plot_calibration(path: Path, curves: dict[str, Reliability], title: str) -> None:
    """Draw reliability diagrams, one curve a name, into the PNG file `path`; the size of a point is its share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="tab:gray", linestyle="--", linewidth=1, label="perfect")
    for (name, curve), color in zip(curves.items(), ("tab:orange", "tab:green", "tab:blue"), strict=False):
        axes.plot(curve.confidence, curve.accuracy, color=color, linewidth=1, label=f"{name}: error {curve.ece:.3f}")
        axes.scatter(curve.confidence, curve.accuracy, s=12 + 200 * curve.share, color=color, alpha=0.6)
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="probability of the predicted class", ylabel="share that is right")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path, dpi=150)
