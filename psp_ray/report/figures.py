"""The figures of `report.html`: the learning curve, the pool seen from above, and how far probabilities hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from PIL import Image

from psp_ray.core.records import Float64Array, Int64Array
from psp_ray.posterior.accuracy import Estimate
from psp_ray.posterior.calibration import Reliability
from psp_ray.report.html import CARD, STYLE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#5b6470"
CLASS_COLORS = (
    "#4E79A7", "#F28E2B", "#59A14F", "#E15759", "#B07AA1", "#76B7B2", "#EDC948", "#FF9DA7", "#9C755F", "#BAB0AC",
)  # fmt: skip
"""Colors of the classes of the map, where there are no more classes than colors."""
PICTURE = 22.0
"""Points of a picture's longer side on the map."""
MOST_NAMED_ROUNDS = 6
"""With more rounds than that, the legend of the map names the first and the last one."""


@dataclass(frozen=True)
class CurvePoint:
    """A round of the learning curve, 0 being zero-shot. `tested` is the accuracy on the test set with its limits by
    chance (low, high); `judged` the estimate for the pool."""

    round: int
    labels: int
    tested: tuple[float, float, float] | None
    judged: Estimate | None


@dataclass(frozen=True)
class PoolMap:
    """A part of the pool in the plane: `places` (n, 2), `classes` (n,) predicted; `picks` (k, 2) with their `rounds`,
    the anchor of the card (k) that a click leads to, and a picture (k; a `data:` URI) or an empty text."""

    places: Float64Array
    classes: Int64Array
    picks: Float64Array
    rounds: Int64Array
    anchors: Sequence[str]
    pictures: Sequence[str]


def import_figures() -> None:
    """Import what figures take, ahead of time."""
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def curve_figure(points: Sequence[CurvePoint], split: str) -> Markup:
    """Accuracy against labels: each point carries its round; bars are 95 % intervals, the dashed line is zero-shot."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=CARD, layout="constrained")
        axes = figure.subplots()
        tested = [(p, p.tested) for p in points if p.tested is not None]
        judged = [(p, p.judged) for p in points if p.judged is not None]
        if judged:
            _bars(axes, [(p.labels, e.value, e.low, e.high) for p, e in judged], ORANGE, "s", "pool, estimated (95 %)")
        if tested:
            _bars(axes, [(p.labels, *t) for p, t in tested], BLUE, "o", f"{split} set (95 %)")
        for point, value in [(p, t[0]) for p, t in tested] or [(p, e.value) for p, e in judged]:
            name = "zero-shot" if point.round == 0 else str(point.round)
            axes.annotate(
                name, (point.labels, 100 * value), xytext=(5, -11), textcoords="offset points", fontsize=7.5, color=GRAY
            )
        if points and points[0].round == 0 and points[0].tested is not None:
            axes.axhline(100 * points[0].tested[0], color=GRAY, linestyle=(0, (4, 3)), linewidth=0.8, zorder=0)
        axes.set(xlabel="labels (numbers: rounds)", ylabel="accuracy (%)")
        axes.set_ylim(max(-2.0, axes.get_ylim()[0]), min(102.0, axes.get_ylim()[1]))
        axes.margins(x=0.08)
        axes.grid(alpha=0.6, linewidth=0.6)
        axes.legend(loc="lower right", fontsize=7.5, frameon=False)
        return svg(figure, "accuracy against the number of labels")


def _bars(axes: Axes, rows: Sequence[tuple[int, float, float, float]], color: str, mark: str, name: str) -> None:
    x = [row[0] for row in rows]
    value, low, high = (100 * np.array([row[i] for row in rows]) for i in (1, 2, 3))
    axes.errorbar(
        x, value, yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)], fmt=f"{mark}-", color=color,
        ecolor=color, elinewidth=0.8, linewidth=1.4, markersize=4, capsize=2, label=name,
    )  # fmt: skip


def map_figure(pool: PoolMap, class_names: Sequence[str]) -> Markup:
    """The pool from above, colored by predicted class where these are few, and on it what each round picked."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(CARD[0], CARD[0] + 0.5), layout="constrained", dpi=150)
        axes = figure.subplots()
        few = len(class_names) <= len(CLASS_COLORS)
        for number in np.unique(pool.classes) if few else (None,):
            rows = slice(None) if number is None else pool.classes == number
            color = "#b8bfc9" if number is None else CLASS_COLORS[int(number)]
            x, y = pool.places[rows].T
            axes.scatter(x, y, s=6, color=color, alpha=0.45, linewidths=0, rasterized=True)
        last = int(pool.rounds.max(initial=1))
        colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.9, last))
        for number in np.unique(pool.rounds):
            rows = pool.rounds == number
            x, y = pool.picks[rows].T
            marks = axes.scatter(
                x,
                y, s=30, marker="o" if number < last else "D", color=colors[int(number) - 1],
                edgecolors="black", linewidths=0.9, zorder=3,
                label=f"round {number}" if last <= MOST_NAMED_ROUNDS or number in (1, last) else None,
            )  # fmt: skip
            marks.set_urls([f"#{pool.anchors[row]}" for row in np.flatnonzero(rows).tolist()])
        _put_pictures(axes, pool)
        axes.set(xticks=[], yticks=[])
        figure.legend(loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)
        return svg(figure, "the pool's images in two dimensions, and the images picked in each round")


def _put_pictures(axes: Axes, pool: PoolMap) -> None:
    """Pictures beside their points, away from the middle of the map, where it is fullest."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    middle = np.median(pool.places, axis=0)
    for place, uri in zip(pool.picks, pool.pictures, strict=True):
        if not uri:
            continue
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            pixels = np.asarray(image.convert("RGB"))
        away = place - middle
        away = PICTURE * away / max(float(np.hypot(*away)), 1e-9)
        box = AnnotationBbox(
            OffsetImage(pixels, zoom=PICTURE / max(pixels.shape[:2]), dpi_cor=False), place, xybox=tuple(away),
            boxcoords="offset points", pad=0.08, bboxprops={"lw": 0.6}, arrowprops={"arrowstyle": "-", "lw": 0.6},
        )  # fmt: skip
        axes.add_artist(box)


def calibration_figure(curves: Mapping[str, Reliability]) -> Markup:
    """Share that is right against the probability said; the area of a point is its share of the images."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=CARD, layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GRAY, linestyle=(0, (4, 3)), linewidth=0.8)
        for (name, curve), color in zip(curves.items(), (GRAY, ORANGE, BLUE), strict=False):
            axes.plot(
                curve.confidence, curve.accuracy, color=color, linewidth=1.2, label=f"{name}: off by {curve.ece:.2f}"
            )
            axes.scatter(
                curve.confidence, curve.accuracy, s=8 + 120 * curve.share, color=color, alpha=0.6, linewidths=0
            )
        axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.05), xlabel="probability said", ylabel="share that is right")
        axes.grid(alpha=0.6, linewidth=0.6)
        axes.legend(loc="upper left", fontsize=7.5, frameon=False)
        return svg(figure, "share of right predictions against the probability that was said")
